"""Predictions of a model file in a process with only the serving dependencies.

A service has `heimdall-features`, ONNX Runtime and NumPy. This process has more, and would not
notice a model that needs it. So a child process (`served_child`) answers, in which torch and our
other packages cannot be imported.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from heimdall_export.contract import MIXTURE_OUTPUTS
from heimdall_export.temporary import TemporaryFolder
from heimdall_features import ClockedRecording
from heimdall_models.metrics import Posteriors

from heimdall_evaluation.errors import ServingError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from heimdall_evaluation.dataset import Recordings

_OURS = ("data", "evaluation", "export", "locate", "models", "simulation", "trainer")
_THEIRS = ("lightning", "mlflow", "onnx", "timm", "torch", "torchaudio", "torchvision")
NOT_WHERE_MODELS_SERVE = (*(f"heimdall_{name}" for name in _OURS), *_THEIRS)
"""Packages that the child process cannot import."""

_CHILD = Path(__file__).with_name("served_child.py")


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
    posteriors: Posteriors | None = None
    """Mixtures of Gaussians; None for a model that answers with ellipses alone."""


def posteriors_of(outputs: Mapping[str, NDArray[Any]]) -> Posteriors | None:
    """Mixtures in a model's outputs by name; None if it returns none."""
    if not {*MIXTURE_OUTPUTS} <= outputs.keys():
        return None
    return Posteriors(*(outputs[name] for name in MIXTURE_OUTPUTS))


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
        ServingError: There is no model file or no session, the temporary folder is full, or the
            child process failed; the message ends with its last output.
    """
    model = Path(onnx_path).resolve()
    if not model.is_file():
        raise ServingError(f"no model file at {onnx_path}; export one first")
    with TemporaryFolder("serving") as folder:
        sessions = list(_written(folder, recordings))
        if not sessions:
            raise ServingError("no session to predict; the held-out part of the split is empty")
        work = {"model": str(model), "batch_size": batch_size, "sessions": sessions}
        work["blocked"] = NOT_WHERE_MODELS_SERVE
        (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
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
                f"{child.returncode}): {child.stderr.strip()[-1500:] or 'no output'}"
            )
        with np.load(folder / "predictions.npz", allow_pickle=False) as found:
            return Predictions(
                session_ids=tuple(session_id for session_id, _ in sessions),
                position_deg=found["positions"],
                sigma_m=found["uncertainties"],
                correlation=found.get("correlations", np.zeros(len(sessions))),
                posteriors=posteriors_of({**found}),
            )


def _written(
    folder: Path, recordings: Iterable[tuple[str, Recordings]]
) -> Iterator[tuple[str, dict[str, tuple[str, float, float, float]]]]:
    """Write each recording to a numbered file: names of sessions and receivers may hold slashes."""
    for index, (session_id, by_receiver) in enumerate(recordings):
        if not by_receiver:
            raise ServingError(f"session {session_id} has no recording; exclude it")
        files = {}
        for channel, (receiver, given) in enumerate(by_receiver.items()):
            one = given
            if not isinstance(one, ClockedRecording):
                one = ClockedRecording(*one, clock_sigma_s=math.inf)
            file = f"{index}-{channel}.npy"
            try:
                np.save(folder / file, np.asarray(one.iq), allow_pickle=False)
            except OSError as error:
                raise ServingError(
                    f"recordings to evaluate cannot be written to {folder.parent} "
                    f"({error.strerror or error}); make room there, or set TMPDIR"
                ) from error
            clock = float(one.sample_rate_hz), float(one.start_s), float(one.clock_sigma_s)
            files[receiver] = (file, *clock)
        yield session_id, files
