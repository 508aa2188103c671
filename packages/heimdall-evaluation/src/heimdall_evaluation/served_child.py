"""The work of a service with a model file, run by `served` as a script of its own.

It imports the standard library, NumPy, ONNX Runtime and `heimdall_features`, and blocks the
import of everything that a service does not have. Its one argument is a folder with `work.json`
and the recordings, to which it writes `predictions.npz`.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heimdall_features import ArrivalExtractor, FeatureExtractor


class Blocker(NamedTuple):
    """An import finder that comes first and refuses the named packages."""

    names: Sequence[str]

    def find_spec(self, name: str, *_: object) -> None:
        """Refuse a module of such a package, and leave others to the other finders."""
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not installed where models serve", name=name)


def inputs(
    folder: Path,
    files: Mapping[str, Sequence[Any]],
    extract: FeatureExtractor,
    times: ArrivalExtractor | None,
) -> tuple[Any, ...]:
    """The model's inputs for one session."""
    import numpy as np
    from heimdall_features import ClockedRecording, FeatureError

    heard = {
        receiver: ClockedRecording(
            np.load(folder / file, allow_pickle=False), rate_hz, start_s, clock_sigma_s=sigma_s
        )
        for receiver, (file, rate_hz, start_s, sigma_s) in files.items()
    }
    mel = extract({name: (one.iq, one.sample_rate_hz) for name, one in heard.items()})
    if times is None:
        return (mel,)
    try:
        return mel, times(heard)
    except FeatureError:  # too few clocks: all zero, as in training
        return mel, np.zeros(times.shape, np.float32)


def answer(folder: Path, work: Mapping[str, Any]) -> None:
    """Write the model's outputs for all sessions, by name.

    Raises:
        RuntimeError: A session has no features; the message has its id and the reason.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
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

    def row(of: tuple[str, Mapping[str, Sequence[Any]]]) -> tuple[Any, ...]:
        session_id, files = of
        try:
            return inputs(folder, files, extract, times)
        except (ValueError, OSError) as error:
            raise RuntimeError(f"session {session_id}: {error}") from error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(work["sessions"]), size):
            rows = pool.map(row, work["sessions"][first : first + size])
            batch = map(np.stack, zip(*rows, strict=True))
            answers.append(session.run(names, dict(zip(taken, batch, strict=True))))
    outputs = map(np.concatenate, zip(*answers, strict=True))
    named: dict[str, Any] = {
        name: out.astype(np.float64) for name, out in zip(names, outputs, strict=True)
    }
    np.savez(folder / "predictions.npz", **named)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    sys.meta_path.insert(0, Blocker(work["blocked"]))
    answer(folder, work)
    if loaded := sorted({*work["blocked"]} & {*sys.modules}):  # before the block, by a site's files
        raise RuntimeError(f"the process that served the model had {', '.join(loaded)} loaded")
