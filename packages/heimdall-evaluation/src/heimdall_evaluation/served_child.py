"""The work of a service with a model file, run by `served` as a script of its own.

It imports the standard library, NumPy, ONNX Runtime and `heimdall_features`, and blocks the
import of everything that a service does not have. Its one argument is a folder with `work.json`
and the recordings, to which it writes `predictions.npz`.
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
        """Return None, which leaves the search to other finders.

        Raises:
            ModuleNotFoundError: The module belongs to a refused package.
        """
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not installed where models serve", name=name)
        return None

    def refused(self) -> list[str]:
        """Packages that indeed cannot be imported now."""
        return [name for name in sorted(self.names) if not _importable(name)]


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True


def inputs(
    folder: Path,
    sessions: Sequence[Any],
    extract: Callable[..., Any],
    times: Callable[..., Any] | None,
) -> Iterator[tuple[Any, ...]]:
    """The model's inputs for one session after another.

    Raises:
        RuntimeError: A session has no features; the message has its id and the reason.
    """
    import numpy as np
    from heimdall_features import ClockedRecording, FeatureError

    for session_id, files in sessions:
        try:
            heard = {
                receiver: ClockedRecording(
                    np.load(folder / file, allow_pickle=False),
                    float(rate_hz),
                    float(start_s),
                    bool(locked),
                )
                for receiver, (file, rate_hz, start_s, locked) in files.items()
            }
            mel = extract({name: (one.iq, one.sample_rate_hz) for name, one in heard.items()})
            if times is None:
                yield (mel,)
                continue
            try:
                yield mel, times(heard)
            except FeatureError:  # too few clocks: all zero, as in training
                yield mel, np.zeros(times.shape, np.float32)  # type: ignore[attr-defined]
        except (ValueError, OSError) as error:
            raise RuntimeError(f"session {session_id}: {error}") from error


def predictions(folder: Path, work: Mapping[str, Any]) -> dict[str, Any]:
    """The model's outputs for all sessions, by name."""
    import numpy as np
    import onnxruntime
    from heimdall_features import ArrivalExtractor, FeatureExtractor

    session = onnxruntime.InferenceSession(work["model"], providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    extract = FeatureExtractor.from_metadata(metadata)
    times = ArrivalExtractor.from_metadata(metadata)
    taken = [end.name for end in session.get_inputs()]
    names = [end.name for end in session.get_outputs()]
    answers, size = [], work["batch_size"]
    for first in range(0, len(work["sessions"]), size):
        some = work["sessions"][first : first + size]
        batch = map(np.stack, zip(*inputs(folder, some, extract, times), strict=True))
        answers.append(session.run(names, dict(zip(taken, batch, strict=True))))
    return {
        name: np.concatenate(part).astype(np.float64)
        for name, part in zip(names, zip(*answers, strict=True), strict=True)
    }


def main(folder: Path) -> None:
    """Answer every session in `work.json`, and record which packages could not be imported."""
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    blocker = Blocker(work["blocked"])
    sys.meta_path.insert(0, blocker)
    outputs = predictions(folder, work)
    import numpy as np

    np.savez(folder / "predictions.npz", **outputs, refused=np.array(blocker.refused()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
