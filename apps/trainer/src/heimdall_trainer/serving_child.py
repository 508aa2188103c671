"""What a service does with a model file, run alone by `serving_check` as `python -I`.

Nothing but the standard library, NumPy, ONNX Runtime and `heimdall_features` can be imported
here once the blocker stands; that is the point of this file, so it imports nothing of ours.
The folder given as the only argument holds `work.json` and the recordings, and gets
`predictions.npz`.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


class Blocker:
    """A finder that comes first and refuses the named packages."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """None leaves the search to the finders that follow.

        Raises:
            ModuleNotFoundError: The module belongs to a refused package.
        """
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not installed where models serve", name=name)
        return None

    def refused(self) -> list[str]:
        """The packages that indeed cannot be imported now."""
        return [name for name in sorted(self.names) if not importable(name)]


def importable(name: str) -> bool:
    """Whether this process can import the package."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True


def recordings(folder: Path, files: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, float]]:
    """The samples and rate in hertz of each receiver of one session."""
    import numpy as np

    return {
        receiver: (np.load(folder / file, allow_pickle=False), float(rate_hz))
        for receiver, (file, rate_hz) in files.items()
    }


def feature_tensors(
    folder: Path, sessions: Sequence[Any], extract: Callable[..., Any]
) -> Iterator[Any]:
    """The feature tensor of one session after another; only one recording is in memory.

    Raises:
        RuntimeError: A session has no features; its id and the reason.
    """
    for session_id, files in sessions:
        try:
            yield extract(recordings(folder, files))
        except (ValueError, OSError) as error:
            raise RuntimeError(f"session {session_id}: {error}") from error


def predictions(folder: Path, work: Mapping[str, Any]) -> tuple[Any, Any]:
    """Positions in degrees and sigmas in metres, both `(n, 2)`, as the contract's example."""
    import numpy as np
    import onnxruntime
    from heimdall_features import FeatureExtractor

    session = onnxruntime.InferenceSession(work["model"], providers=["CPUExecutionProvider"])
    extract = FeatureExtractor.from_metadata(session.get_modelmeta().custom_metadata_map)
    positions, sigmas, size = [], [], work["batch_size"]
    for first in range(0, len(work["sessions"]), size):
        chunk = work["sessions"][first : first + size]
        features = np.stack(list(feature_tensors(folder, chunk, extract)))
        position, sigma = session.run(["positions", "uncertainties"], {"mel_spectrogram": features})
        positions.append(position)
        sigmas.append(sigma)
    return np.concatenate(positions), np.concatenate(sigmas)


def main(folder: Path) -> None:
    """Predict everything that `work.json` lists, and say what could not be imported."""
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    blocker = Blocker(work["blocked"])
    sys.meta_path.insert(0, blocker)
    position_deg, sigma_m = predictions(folder, work)
    import numpy as np

    np.savez(
        folder / "predictions.npz",
        position_deg=position_deg.astype(np.float64),
        sigma_m=sigma_m.astype(np.float64),
        refused=np.array(blocker.refused()),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
