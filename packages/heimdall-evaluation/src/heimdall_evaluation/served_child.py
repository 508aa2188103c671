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


def recordings(folder: Path, files: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The recording of each receiver of one session, with its clock as far as there is one."""
    import numpy as np
    from heimdall_features import ClockedRecording

    return {
        receiver: ClockedRecording(
            np.load(folder / file, allow_pickle=False), float(rate_hz), float(start_s), bool(locked)
        )
        for receiver, (file, rate_hz, start_s, locked) in files.items()
    }


def arrival_times(extract: Callable[..., Any], heard: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Times of arrival; all zero, as in training, where the recordings do not allow any."""
    import numpy as np
    from heimdall_features import FeatureError

    try:
        return extract(heard)
    except FeatureError:
        return np.zeros(extract.shape, np.float32)  # type: ignore[attr-defined]


def inputs(
    folder: Path,
    sessions: Sequence[Any],
    extract: Callable[..., Any],
    times: Callable[..., Any] | None,
) -> Iterator[tuple[Any, ...]]:
    """What the model takes of one session after another; only one recording is in memory.

    Raises:
        RuntimeError: A session has no features; its id and the reason.
    """
    for session_id, files in sessions:
        try:
            heard = recordings(folder, files)
            mel = extract({name: (one.iq, one.sample_rate_hz) for name, one in heard.items()})
            yield (mel,) if times is None else (mel, arrival_times(times, heard))
        except (ValueError, OSError) as error:
            raise RuntimeError(f"session {session_id}: {error}") from error


def predictions(folder: Path, work: Mapping[str, Any]) -> dict[str, Any]:
    """What the model says, by name and of all sessions, as the contract's example asks it."""
    import numpy as np
    import onnxruntime
    from heimdall_features import ArrivalExtractor, FeatureExtractor

    session = onnxruntime.InferenceSession(work["model"], providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    extract = FeatureExtractor.from_metadata(metadata)
    times = ArrivalExtractor.from_metadata(metadata)
    given = [end.name for end in session.get_inputs()]
    names = [end.name for end in session.get_outputs()]
    answers, size = [], work["batch_size"]
    for first in range(0, len(work["sessions"]), size):
        chunk = work["sessions"][first : first + size]
        batch = map(np.stack, zip(*inputs(folder, chunk, extract, times), strict=True))
        answers.append(session.run(names, dict(zip(given, batch, strict=True))))
    return {
        name: np.concatenate(part).astype(np.float64)
        for name, part in zip(names, zip(*answers, strict=True), strict=True)
    }


def main(folder: Path) -> None:
    """Predict everything that `work.json` lists, and say what could not be imported."""
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    blocker = Blocker(work["blocked"])
    sys.meta_path.insert(0, blocker)
    said = predictions(folder, work)
    import numpy as np

    np.savez(folder / "predictions.npz", **said, refused=np.array(blocker.refused()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
