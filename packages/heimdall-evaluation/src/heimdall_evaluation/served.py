"""Predictions of a model file in a process with only the serving dependencies.

A service has `heimdall-features`, ONNX Runtime and NumPy. A model that needs more would not be
noticed in this process, so a child process (`served_child`) in which torch and our other packages
cannot be imported answers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from heimdall_features import ClockedRecording

from heimdall_evaluation.errors import ServingError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from heimdall_evaluation.dataset import Recordings

__all__ = ["NOT_WHERE_MODELS_SERVE", "Predictions", "predict_without_torch"]

NOT_WHERE_MODELS_SERVE = (
    "heimdall_data",
    "heimdall_evaluation",
    "heimdall_export",
    "heimdall_models",
    "heimdall_simulation",
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

_CHILD = Path(__file__).with_name("served_child.py")
_STDERR_TAIL = 1500


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Answers of a model file, in the order of the sessions."""

    session_ids: tuple[str, ...]
    position_deg: NDArray[np.float64]
    """`(n, 2)`, latitude and longitude."""
    sigma_m: NDArray[np.float64]
    """`(n, 2)`, east and north."""
    correlation: NDArray[np.float64]
    """`(n,)`, of the errors east and north; 0 for a model whose ellipses are upright."""
    not_importable: tuple[str, ...]
    """Packages that the child process tried to import and could not."""


def predict_without_torch(
    onnx_path: str | os.PathLike[str],
    recordings: Iterable[tuple[str, Recordings]],
    *,
    batch_size: int = 16,
) -> Predictions:
    """Locate every session with a model file, as the contract's serving example does.

    Args:
        onnx_path: The model file.
        recordings: Session ids with recordings, cut to the time that those with a clock share;
            a generator keeps one session at a time in memory.
        batch_size: Sessions in one call of the network.

    Raises:
        ServingError: There is no model file or no session, or the child process failed; the
            message ends with its last output.
    """
    model = Path(onnx_path).resolve()
    if not model.is_file():
        raise ServingError(f"no model file at {onnx_path}; export one first")
    with tempfile.TemporaryDirectory(prefix="heimdall-serving-") as temporary:
        folder = Path(temporary)
        sessions = list(_written(folder, recordings))
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


def _written(
    folder: Path, recordings: Iterable[tuple[str, Recordings]]
) -> Iterator[tuple[str, dict[str, tuple[str, float, float, bool]]]]:
    """Write each recording to a numbered file: session and receiver names are no file names."""
    for index, (session_id, by_receiver) in enumerate(recordings):
        if not by_receiver:
            raise ServingError(f"session {session_id} has no recording; exclude it")
        files = {}
        for channel, (receiver, given) in enumerate(by_receiver.items()):
            one = (
                given
                if isinstance(given, ClockedRecording)
                else ClockedRecording(given[0], float(given[1]), clock_locked=False)
            )
            file = f"{index}-{channel}.npy"
            np.save(folder / file, np.asarray(one.iq), allow_pickle=False)
            files[receiver] = (file, one.sample_rate_hz, one.start_s, one.clock_locked)
        yield session_id, files


def _run_child(folder: Path) -> None:
    """Wait for the child; `subprocess.run` kills it if the wait is interrupted."""
    child = subprocess.run(  # noqa: S603 - our own script, no shell
        [sys.executable, "-I", str(_CHILD), str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if child.returncode != 0:
        raise ServingError(
            f"the model failed in a process with only the serving dependencies (exit status "
            f"{child.returncode}): {child.stderr.strip()[-_STDERR_TAIL:] or 'no output'}"
        )


def _predictions(folder: Path, session_ids: tuple[str, ...]) -> Predictions:
    with np.load(folder / "predictions.npz", allow_pickle=False) as found:
        refused = tuple(str(name) for name in found["refused"])
        result = Predictions(
            session_ids,
            position_deg=found["positions"],
            sigma_m=found["uncertainties"],
            correlation=found.get("correlations", np.zeros(len(session_ids))),
            not_importable=refused,
        )
    if importable := sorted(set(NOT_WHERE_MODELS_SERVE) - set(refused)):
        raise ServingError(f"the process that served the model could import {importable}")
    return result
