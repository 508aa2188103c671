"""Files of a task: ids that can name a folder, progress, and outcomes."""

import math
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from heimdall_trainer.errors import TrainerError
from heimdall_trainer.events import tell
from heimdall_trainer.worker.service import PROGRESS, JobRefused, TrainingService
from heimdall_trainer.worker.training_process import LOGGER, EventFiles, read_json, write_json
from hypothesis import given
from hypothesis import strategies as st

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
metrics = st.dictionaries(st.sampled_from(["val/loss", "train/loss", "val/ece"]), st.floats())


@given(st.text(min_size=1).filter(lambda name: not name.isascii() or set(name) & set("/\\: \0\n")))
def test_an_id_that_cannot_name_a_folder_is_refused(task_id):
    """`../../elsewhere` would have checkpoints written over other files."""
    with tempfile.TemporaryDirectory() as folder:
        service = TrainingService(
            broker_url="memory://",
            result_backend="cache+memory://",
            state_directory=Path(folder),
            command=(),
            environment={},
        )
        ended = service.tasks["heimdall.train"].apply(task_id=task_id)
        assert isinstance(ended.result, JobRefused)
        assert list(Path(folder).iterdir()) == []


@given(json_values)
def test_what_is_written_is_read(content):
    """Another worker goes on from these files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "progress.json"
        assert read_json(path) is None
        write_json(path, content)
        assert read_json(path) == content
        assert path.stat().st_mode & 0o077 == 0


@given(st.lists(st.tuples(st.integers(0, 99), st.floats(0, 1e6), metrics), min_size=1, max_size=4))
def test_progress_is_what_the_page_promises(epochs):
    """Programs that watch a task read these names, and NaN is not JSON to them."""
    with tempfile.TemporaryDirectory() as folder:
        handler = EventFiles(Path(folder))
        LOGGER.addHandler(handler)
        try:
            tell("run", run_id="a", run_name="b")
            for epoch, seconds_left, found in epochs:
                tell("epoch", epoch=epoch, epochs=100, seconds_left=seconds_left, **found)
            tell("result", run_id="a")
        finally:
            LOGGER.removeHandler(handler)
        progress = read_json(Path(folder) / "progress.json")
        assert progress.keys() == PROGRESS.keys()
        epoch, _, found = epochs[-1]
        finite = {name: value for name, value in found.items() if math.isfinite(value)}
        assert (progress["run_id"], progress["epoch"], progress["metrics"]) == ("a", epoch, finite)
        assert read_json(Path(folder) / "outcome.json") == {"summary": {"run_id": "a"}}


RUN = """
import sys
from pathlib import Path
from heimdall_trainer.connections import Connections
from heimdall_trainer.worker.training_process import run_job

run_job(Path(sys.argv[1]), Connections(), lambda *_: 1 / 0)
"""


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"checkpoint_dir": "/dev/null/x"}, "/dev/null/x"), ({"epochs": 1}, "ZeroDivisionError")],
)
def test_what_ends_a_training_is_its_outcome(tmp_path, settings, said):
    """Without an outcome the worker would try three times, and then blame the memory."""
    write_json(tmp_path / "job.json", {"settings": settings, "export": False})
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.wait() != 0
    assert said in read_json(tmp_path / "outcome.json")["error"]


def test_a_damaged_file_of_a_task_is_named(tmp_path):
    """A disk that was full left half of it."""
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(TrainerError, match=r"job\.json"):
        read_json(tmp_path / "job.json")


def test_progress_that_cannot_be_written_ends_no_training(tmp_path):
    """The disk is full, or the folder is gone; who watches sees the next one."""
    folder = tmp_path / "task"
    handler = EventFiles(folder)
    LOGGER.addHandler(handler)
    try:
        tell("run", run_id="a", run_name="b")
        folder.mkdir()
        tell("stage", stage="training", state="begun")
    finally:
        LOGGER.removeHandler(handler)
    assert read_json(folder / "progress.json") == {"stage": "training", "run_id": "a"}
