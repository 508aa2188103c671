"""What a run says while it goes: to people, to log files, to programs and in a terminal."""

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from heimdall_models.training.history import duration
from heimdall_trainer.console import tell_data
from heimdall_trainer.events import LOGGER, logged_as, tell
from heimdall_trainer.pipeline import TrainingPipeline
from tqdm import tqdm

pytestmark = pytest.mark.slow

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@pytest.fixture(scope="module")
def command(connections, quick, tmp_path_factory):
    """A training of two epochs as a command line, and its environment."""
    s3 = connections.need_s3()
    told = {
        "HEIMDALL_DATABASE_URL": connections.need_database(),
        "HEIMDALL_S3_ENDPOINT_URL": s3.endpoint_url,
        "HEIMDALL_S3_ACCESS_KEY": s3.access_key,
        "HEIMDALL_S3_SECRET_KEY": s3.secret_key,
        "HEIMDALL_STATE_DIR": str(connections.state_directory()),
    }
    folder = tmp_path_factory.mktemp("told")
    (folder / "run.yaml").write_text(
        f"epochs: 2\nbatch_size: 8\nbackbone: test_convnext\nreceivers: {list(quick.receivers)}\n"
        f"val_split: 0.25\ntest_split: 0.25\nseed: {quick.seed}\nsummary: {folder}/run.json\n"
    )
    words = [sys.executable, "-m", "heimdall_trainer", "train", "--config", "run.yaml"]
    return words, {"cwd": folder, "env": os.environ | told}


@pytest.fixture(scope="module")
def told(command):
    """What a run with `--log_format json > run.log` writes to the file, and to the terminal."""
    words, where = command
    words = [*words, "--log_format", "json"]
    status, seen = in_terminal(["sh", "-c", '"$@" > run.log', "sh", *words], **where)
    assert status == 0, seen
    return (where["cwd"] / "run.log").read_text(), seen


@pytest.fixture(scope="module")
def events(told):
    """The lines of the file."""
    return [json.loads(line) for line in told[0].splitlines()]


def in_terminal(words, **where):
    """What a command writes to a terminal of 120 columns, and its exit status."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(words, **where, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # so says Linux at the end
        while piece := os.read(ours, 65536):
            written += piece
    os.close(ours)
    return process.wait(timeout=60), written.decode()


def test_every_line_is_an_event_with_its_time(events):
    """Collectors of logs take one object a line, and nothing else."""
    for event in events:
        assert datetime.fromisoformat(event["time"]).tzinfo is not None
        assert isinstance(event["event"], str)
    kinds = [event["event"] for event in events]
    assert kinds.count("epoch") == 2
    assert kinds[-1] == "result"
    begun = [e["stage"] for e in events if e["event"] == "stage" and e["state"] == "begun"]
    done = {e["stage"]: e["seconds"] for e in events if e.get("state") == "done"}
    assert begun == ["data", "training", "export and evaluation", "report"]
    assert set(done) == set(begun)
    assert min(done.values()) > 0


def test_an_epoch_has_its_metrics_and_the_time_that_is_left(events):
    """A scheduler stops what would take too long, and a chart needs no MLflow."""
    first, last = (event for event in events if event["event"] == "epoch")
    assert (first["epoch"], first["epochs"], last["epoch"]) == (1, 2, 2)
    assert {"train/loss", "val/loss", "val/error_m_median", "learning_rate"} <= set(first)
    assert first["seconds_left"] > 0
    assert last["seconds_left"] == 0


def test_data_and_model_are_summed_up_before_the_start(events):
    """Whoever sees 12 sessions of one receiver stops the run before the night."""
    kinds = [event["event"] for event in events]
    assert kinds.index("data") < kinds.index("model") < kinds.index("epoch")
    data = events[kinds.index("data")]
    assert sum(data["sessions"].values()) == 42  # the others are pending, or rejected
    for side, heard in data["receivers"].items():
        assert list(heard) == ["Torino", "Genova", "Milano-Baggio"]
        assert all(0 < n <= data["sessions"][side] for n in heard.values())
    assert 1e4 < data["region"]["scale_m"] < 1e6
    model = events[kinds.index("model")]
    assert model["trainable_parameters"] == model["parameters"] > 1000
    # Weights, average, gradient and two moments, four bytes each.
    assert model["memory_bytes"] == model["parameters"] * 5 * 4


def test_the_result_is_the_summary(events, command):
    """`--summary` and the last line must not tell two stories."""
    summary = json.loads((command[1]["cwd"] / "run.json").read_text())
    result = {name: value for name, value in events[-1].items() if name not in ("event", "time")}
    assert result == summary


def test_a_failure_is_an_event_too(command):
    """A program that reads the lines must not wait for a result that never comes."""
    words, where = command
    told = {**where["env"], "HEIMDALL_RAW_IQ_BUCKET": "no-such-bucket"}
    finished = subprocess.run(
        [*words, "--log-format", "json"], cwd=where["cwd"], env=told, capture_output=True, text=True
    )
    assert finished.returncode == 1
    (event,) = [json.loads(line) for line in finished.stdout.splitlines()]
    assert event["event"] == "failed"
    assert "'no-such-bucket'" in event["error"]


def test_a_terminal_shows_loss_metres_and_the_time_that_is_left(told):
    """Nobody should have to guess whether it still works, or when to come back."""
    bars = [part for part in re.split(r"[\r\n]", told[1]) if "epoch 2/2" in part]
    shown = r"loss=-?\d+\.\d+, median=\d+\.\d km, left=\d+\.\d s"
    assert any(re.search(shown, bar) for bar in bars), told[1]
    assert not re.search(r"Epoch|DataLoader|/\?|`", told[1])  # Lightning's own bars and messages


def test_a_log_file_has_no_control_characters_though_a_terminal_is_there(told):
    """`heimdall train > run.log` in a terminal: the bar belongs to the terminal alone."""
    assert CONTROL.search(told[1])
    assert not CONTROL.search(told[0])


def test_a_log_file_reads_well(connections, quick, tmp_path, capsys):
    """Logs are read a week later, by somebody else."""
    config = replace(quick, backbone="test_convnext", checkpoint_dir=tmp_path)
    pipeline = TrainingPipeline(config, connections)
    data = pipeline.load_data()
    tell_data(data)
    pipeline.train(data)
    text = capsys.readouterr().out
    assert not CONTROL.search(text)
    assert re.search(r"^ +train +validation +test$", text, re.MULTILINE)
    assert re.search(r"^  Genova +\d+ +\d+ +\d+$", text, re.MULTILINE)
    assert re.search(r"^region of \d+ km around ", text, re.MULTILINE)
    assert re.search(r"^test_convnext: 0\.2 M parameters, 0\.2 M learn; ", text, re.MULTILINE)
    epochs = re.findall(
        r"^epoch +[12]/2  train .* km  [\d.]+ s  left <= [\d.]+ s$", text, re.MULTILINE
    )
    assert len(epochs) == 2, text


def test_a_line_is_whole_while_a_bar_is_drawn(capsys):
    """Two writers on one terminal: the line must not end up inside the bar."""
    with tqdm(total=2, file=sys.stderr) as bar:
        bar.update()
        tell("epoch", "epoch 1/2")
    said = capsys.readouterr()
    assert said.out == "epoch 1/2\n"
    assert "50%" in said.err


def test_a_log_that_cannot_be_written_ends_no_run(monkeypatch):
    """Other programs run the pipeline with streams of their own."""
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing fails, too
    monkeypatch.setattr(sys, "stdout", full)
    monkeypatch.setattr(sys, "stderr", full)
    tell("note", "epoch 1/2")
    LOGGER.warning("a receiver is silent")
    with contextlib.suppress(OSError):
        full.close()
    tell("note", "epoch 2/2")


def test_a_disk_that_is_full_under_the_log_costs_the_log_alone(command):
    """A night's training ended in its fourth epoch, and nothing was delivered."""
    words, where = command
    (where["cwd"] / "run.json").unlink(missing_ok=True)
    words = [*words, "--log_format", "json", "--epochs", "1"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(words, **where, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines()[-1] == (
        "warning: standard output could not be written whole: No space left on device; "
        "the work itself is complete"
    )
    assert json.loads((where["cwd"] / "run.json").read_text())["model_version"]


def test_a_warning_that_standard_error_cannot_take_is_in_the_log():
    """Of two places, the one that can be written has it."""
    program = (
        "import sys; from heimdall_trainer.streams import forgive; forgive();"
        "from heimdall_trainer.events import LOGGER, logged_as\n"
        "with logged_as('json'): LOGGER.warning('a receiver is silent')"
    )
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, check=True
        )
    event = json.loads(ended.stdout)
    assert (event["event"], event["said"]) == ("note", "a receiver is silent")


def test_not_a_number_is_null(capsys):
    """JSON has no NaN; one in a line, and the whole line cannot be read."""
    with logged_as("json"):
        tell("epoch", **{"val/loss": float("nan"), "all": [float("inf"), {"a": 1.5}]})
    said = json.loads(capsys.readouterr().out)
    assert said["val/loss"] is None
    assert said["all"] == [None, {"a": 1.5}]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(143), "ended with status 143"),
        (ValueError("x is 3"), "x is 3"),
    ],
)
def test_how_a_run_ended_is_told_and_nothing_is_swallowed(capsys, error, said):
    """A cluster that stops a run is no error in it."""
    with pytest.raises(type(error)), logged_as("json"):
        raise error
    assert json.loads(capsys.readouterr().out)["error"] == said
    with pytest.raises(type(error)), logged_as("text"):
        raise error
    assert capsys.readouterr().out == ""


def test_text_and_json_are_never_mixed(capsys):
    """After a run with JSON, the same process may print for people again."""
    with logged_as("json"):
        tell("stage", "training …", stage="training")
    tell("stage", "training …", stage="training")
    tell("stage", stage="training")
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first)["stage"] == "training"
    assert second == "training …"


def test_of_several_processes_one_speaks(capsys, monkeypatch):
    """Two processes that train together would say everything twice."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    for rank in (0, 1):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        tell("note", f"I am {rank}")
    assert capsys.readouterr().out == "I am 0\n"


def test_other_programs_can_listen(caplog):
    """A worker reports progress from the events, and parses no output."""
    LOGGER.addHandler(caplog.handler)
    tell("epoch", "epoch 1/2", epoch=1)
    LOGGER.removeHandler(caplog.handler)
    (record,) = caplog.records
    assert (record.event, record.figures) == ("epoch", {"epoch": 1})


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (200, "3:20 min"),
        (3599.7, "1:00:00 h"),
        (90061, "25:01:01 h"),
    ],
)
def test_a_duration_reads_well(seconds, said):
    """Nobody divides 90061 by 3600."""
    assert duration(seconds) == said
