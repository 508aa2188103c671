"""Predictions made where only the serving dependencies can be imported.

A service has `heimdall-features`, `onnxruntime` and NumPy. Evaluating in this process would not
notice that the model needs more, so a child process in which torch and our other packages cannot
be imported does it (`serving_child`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from heimdall_features import ClockedRecording
from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator
    from typing import Any

    from numpy.typing import NDArray

__all__ = ["NOT_WHERE_MODELS_SERVE", "Predictions", "ServingError", "predict_without_torch"]

NOT_WHERE_MODELS_SERVE = (
    "heimdall_data",
    "heimdall_export",
    "heimdall_models",
    "heimdall_trainer",
    "lightning",
    "mlflow",
    "onnx",
    "timm",
    "torch",
    "torchaudio",
    "torchvision",
)
"""Packages that the child process cannot import."""

CHILD = Path(__file__).with_name("serving_child.py")
"""What the other process runs; it belongs to no package there."""

_STDERR_TAIL = 1500


class ServingError(TrainerError):
    """The exported model failed where only the serving dependencies can be imported."""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What the exported model says, in the order the sessions were given."""

    session_ids: tuple[str, ...]
    position_deg: NDArray[np.float64]
    """(n, 2), latitude and longitude"""
    sigma_m: NDArray[np.float64]
    """(n, 2), east and north"""
    correlation: NDArray[np.float64]
    """(n,), of the errors east and north; 0 of a model whose ellipses are upright"""
    unexplained: NDArray[np.float64]
    """(n,), of the arrival times: above 1 they are not of the kind that was trained on"""
    not_importable: tuple[str, ...]
    """The packages that the predicting process tried to import, and could not."""


if TYPE_CHECKING:
    Session = Mapping[str, tuple[NDArray[Any], float] | ClockedRecording]


def predict_without_torch(
    onnx_path: str | os.PathLike[str],
    recordings: Mapping[str, Session] | Iterable[tuple[str, Session]],
    *,
    batch_size: int = 16,
) -> Predictions:
    """Ask the model file for every session's position, as the contract's serving example does.

    Args:
        onnx_path: The exported model.
        recordings: By session id, each receiver's IQ samples and true sample rate in hertz, or
            these with a clock, cut to the time that they share. Pairs from a generator do as
            well; one session at a time is held in memory.
        batch_size: Sessions in one call of the network.

    Raises:
        ServingError: There is no model file or no session, or the child process failed; the
            message carries the end of what it said.
    """
    model = Path(onnx_path).resolve()
    if not model.is_file():
        raise ServingError(f"no model file at {onnx_path}; export one first")
    with tempfile.TemporaryDirectory(prefix="heimdall-serving-") as temporary:
        folder = Path(temporary)
        sessions = list(_hand_over(folder, recordings))
        if not sessions:
            raise ServingError("no session to predict; the held-out part of the split is empty")
        work = {
            "model": str(model),
            "batch_size": batch_size,
            "blocked": NOT_WHERE_MODELS_SERVE,
            "sessions": sessions,
        }
        (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
        _run_child(folder)
        return _predictions(folder, tuple(session_id for session_id, _ in sessions))


def _hand_over(
    folder: Path, recordings: Mapping[str, Session] | Iterable[tuple[str, Session]]
) -> Iterator[tuple[str, dict[str, tuple[str, float, float, bool]]]]:
    """Write each recording to a file of its own: names are the catalogue's, paths are ours."""
    pairs = recordings.items() if isinstance(recordings, Mapping) else recordings
    for index, (session_id, by_receiver) in enumerate(pairs):
        if not by_receiver:
            raise ServingError(f"session {session_id} has no recording; exclude it")
        files = {}
        for channel, (receiver, given) in enumerate(by_receiver.items()):
            one = given if isinstance(given, ClockedRecording) else _without_clock(*given)
            file = f"{index}-{channel}.npy"
            np.save(folder / file, np.asarray(one.iq), allow_pickle=False)
            files[receiver] = (file, one.sample_rate_hz, one.start_s, one.clock_locked)
        yield session_id, files


def _without_clock(iq: NDArray[Any], rate_hz: float) -> ClockedRecording:
    return ClockedRecording(iq, float(rate_hz), clock_locked=False)


def _run_child(folder: Path) -> None:
    """Wait for the child; whatever interrupts the wait, Ctrl-C too, kills it first."""
    child = subprocess.run(  # noqa: S603 - our own script, no shell
        [sys.executable, "-I", str(CHILD), str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if child.returncode != 0:
        raise ServingError(
            f"the model failed in a process with only the serving dependencies "
            f"(exit status {child.returncode}); its last words: "
            f"{child.stderr.strip()[-_STDERR_TAIL:] or 'none'}"
        )


def _predictions(folder: Path, session_ids: tuple[str, ...]) -> Predictions:
    with np.load(folder / "predictions.npz", allow_pickle=False) as found:
        refused = tuple(str(name) for name in found["refused"])
        upright = np.zeros(len(session_ids))
        result = Predictions(
            session_ids,
            position_deg=found["positions"],
            sigma_m=found["uncertainties"],
            correlation=found.get("correlations", upright),
            unexplained=found.get("unexplained", upright),
            not_importable=refused,
        )
    importable = sorted(set(NOT_WHERE_MODELS_SERVE) - set(refused))
    if importable:
        raise ServingError(f"the process that served the model could import {importable}")
    return result
