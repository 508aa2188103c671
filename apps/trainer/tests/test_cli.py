"""The command line as a user meets it: in a process of its own, by what it prints and returns."""

import json
import os
import re
import subprocess
import sys

import pytest
from heimdall_trainer.connections import Connections
from mlflow import MlflowClient

DATABASE = "postgresql://nobody@127.0.0.1:1/{}"
S3 = {
    "HEIMDALL_S3_ENDPOINT_URL": "http://127.0.0.1:1",
    "HEIMDALL_S3_ACCESS_KEY": "x",
    "HEIMDALL_S3_SECRET_KEY": "x",
}


def one_line(finished, status):
    """The message of a failure; it must be one line, without a traceback."""
    assert finished.returncode == status
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    return lines[0]


def test_help_names_every_command(run_heimdall):
    """A user who types `heimdall --help` must see what there is."""
    said = run_heimdall("--help").stdout
    every = "demo locate stack ingest cache train evaluate compare models worker doctor"
    for command in every.split():
        assert re.search(rf"^  {command}:", said, re.MULTILINE), said


@pytest.mark.parametrize("words", ["", "locate", "sessions list"])
def test_every_help_says_how_flags_may_be_spelt(run_heimdall, words):
    """It shows hyphens, and the pages underscores."""
    said = " ".join(run_heimdall(*words.split(), "--help").stdout.split())
    assert "Flags take hyphens or underscores." in said


@pytest.mark.parametrize("flag", ["--frequency-hz", "--frequency_hz"])
def test_a_flag_with_hyphens_is_the_one_with_underscores(run_heimdall, flag):
    """Both are in use."""
    assert "--frequency_hz is -1.0" in one_line(run_heimdall("locate", "x", flag, "-1"), 2)


def loaded_by(arguments, folder):
    """The libraries that take long to import and that a command has imported when it ends."""
    probe = (
        "import sys; from heimdall_trainer.cli import app as cli\n"
        f"try: cli.main({arguments.split()!r})\n"
        "except SystemExit: pass\n"
        "print('loaded', *{m for m in sys.modules if '.' not in m})"
    )
    environment = {**os.environ, "HEIMDALL_STATE_DIR": str(folder)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    said = subprocess.check_output([sys.executable, "-c", probe], text=True, env=environment)
    first, *loaded = said.splitlines()[-1].split()
    assert first == "loaded"
    heavy = "torch torchvision lightning timm mlflow pandas scipy matplotlib boto3 sqlalchemy numpy"
    return {*heavy.split()}.intersection(loaded)


@pytest.fixture(scope="module")
def with_registry(tmp_path_factory):
    """A state directory with a registry, in which there is no model."""
    folder = tmp_path_factory.mktemp("state")
    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_registered_models()
    return folder


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        ("--help", ""),
        ("ingest --help", ""),
        ("demo --help", ""),
        ("worker --help", ""),
        ("train --help", "numpy"),
        ("stack status", "numpy"),
        ("cache status", "numpy"),
        ("locate nothing", "numpy"),
        ("calibrate nothing --latitude 1 --longitude 1", "numpy"),
        ("models list", "numpy sqlalchemy"),
        # The probe can fail: what is loaded is seen.
        ("models show 1", "boto3 mlflow numpy pandas scipy sqlalchemy"),
    ],
)
def test_a_command_waits_for_no_library_that_it_does_not_need(arguments, loaded, with_registry):
    """Torch alone takes seconds, and MLflow brings pandas."""
    assert loaded_by(arguments, with_registry) == {*loaded.split()}


@pytest.mark.parametrize("arguments", ["compare a.html b.html", "demo --state-dir ."])
def test_without_pytorch_a_command_that_needs_it_says_so(arguments, tmp_path):
    """It is most of an installation, and who only locates leaves it out; said before any work."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        f"from heimdall_trainer.cli.app import main; main({arguments.split()!r})"
    )
    words = [sys.executable, "-c", program]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"`heimdall {arguments.split()[0]}` needs PyTorch" in one_line(told, 1)
    assert told.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ("trian", 'Did you mean "train"?'),
        ("train --batch_sise 8", "Did you mean --batch-size?"),
        ("train --epochs many", "into int"),
        ("train --epochs 0", "--epochs is 0; it must be from 1 to 100,000"),
        ("train --val_split 0.95", "less than 1 together with test_split"),
        ("train --lr nan", "--learning_rate is nan; it must be above 0, at most 1e9"),
        ("train --quantize int9", 'Did you mean "int8"?'),
        ("train --accelerator gpuu", 'Did you mean "gpu"?'),
        ("train --devices two", "must be auto, a count, or a list such as 0,1"),
        ("train --export_only", "--checkpoint is None; it must be given with --export_only"),
        ("train --since 2026-01-01 --until 2025-01-01", "is above until=2025"),
        ("cache build --workers 0", 'Invalid value "0" for --workers. Must be >= 1.'),
        ("demo --sessions 0", 'Invalid value "0" for --sessions. Must be >= 1.'),
        ("demo --epochs 0", "--epochs is 0; it must be from 1 to 100,000"),
        ("demo --seed -1", "--seed is -1; it must be from 0 to 4,294,967,295"),
        ("demo --sessions 20", "give 200 or more, or --features mel"),
        ("cache build --cache_gb 0", "--cache_gb is 0.0; it must be above 0, at most 1,000,000"),
        ("cache build --n_receivers 0", "--n_receivers is 0; it must be from 1 to 1,000"),
    ],
)
def test_wrong_usage_ends_with_status_2_and_the_remedy(run_heimdall, arguments, remedy):
    """A misspelt flag or value costs a user seconds, not an hour of training."""
    assert remedy in one_line(run_heimdall(*arguments.split()), 2)


def test_the_shell_learns_to_complete(run_heimdall, tmp_path):
    """Seventy flags are not typed from memory."""
    done = run_heimdall("--install-completion", HOME=str(tmp_path), SHELL="/bin/bash")
    assert done.returncode == 0
    (script,) = (tmp_path / ".local").rglob("heimdall")
    assert "sessions" in script.read_text()
    assert run_heimdall("-V").stdout == run_heimdall("--version").stdout != ""


def test_a_stack_that_does_not_run_is_told_to_programs_too(run_heimdall):
    """A supervisor reads the state, and the exit status."""
    done = run_heimdall("stack", "status", "--json")
    assert done.returncode == 1
    servers = json.loads(done.stdout)
    assert [server["ready"] for server in servers] == [False, False]
    assert "the stack is not running" in done.stderr


@pytest.mark.slow
def test_others_can_change_nothing_that_a_command_writes(tmp_path):
    """Containers and systemd run without a umask, in folders that everybody may write."""
    tmp_path.chmod(0o777)
    subprocess.run(
        [sys.executable, "-m", "heimdall_trainer", "doctor"],
        env={**os.environ, "HEIMDALL_STATE_DIR": str(tmp_path)},
        umask=0,
        check=True,
    )
    before = os.umask(0)
    try:
        folder = Connections(state_dir=tmp_path).state_folder("reports")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o077 == 0
    assert (tmp_path / "mlflow.db").exists()
    assert [path for path in tmp_path.rglob("*") if path.stat().st_mode & 0o022] == []


def test_nothing_configured_names_the_ways_out(run_heimdall):
    """A first-time user must learn that `demo` and `stack up` exist."""
    said = one_line(run_heimdall("train", "--batch_size", "8", "--val-split", "0.1"), 1)
    assert "no catalogue is configured (HEIMDALL_DATABASE_URL)" in said
    assert "`heimdall demo`" in said
    assert "`heimdall stack up`" in said


def test_a_database_without_an_object_store_is_named_too(run_heimdall):
    """Each missing variable is named, so that a user sets all of them at once."""
    said = one_line(run_heimdall("train", HEIMDALL_DATABASE_URL=DATABASE), 1)
    assert "HEIMDALL_S3_ENDPOINT_URL, HEIMDALL_S3_ACCESS_KEY, HEIMDALL_S3_SECRET_KEY" in said


def test_flag_beats_environment_beats_dotenv(run_heimdall, tmp_path):
    """The contract's order; a surprise here trains on the wrong database."""
    (tmp_path / ".env").write_text(f"HEIMDALL_DATABASE_URL={DATABASE.format('fromdotenv')}\n")
    assert "fromdotenv" in one_line(run_heimdall("train", **S3), 1)
    variables = S3 | {"HEIMDALL_DATABASE_URL": DATABASE.format("fromenvironment")}
    assert "fromenvironment" in one_line(run_heimdall("train", **variables), 1)
    flag = ("--database-url", DATABASE.format("fromflag"))
    assert "fromflag" in one_line(run_heimdall("train", *flag, **variables), 1)


def test_the_password_is_never_printed(run_heimdall):
    """Logs of failed runs are shared; credentials in them are too."""
    url = "postgresql://someone:geheim@127.0.0.1:1/none"
    finished = run_heimdall("train", "--debug", HEIMDALL_DATABASE_URL=url, **S3)
    assert finished.returncode == 1
    assert "geheim" not in finished.stderr + finished.stdout


@pytest.mark.parametrize("command", ["demo", "stack up", "train"])
def test_a_state_directory_that_is_a_file_is_refused(run_heimdall, tmp_path, command):
    """The message must say which directory, and which variable moves it."""
    (tmp_path / "state").write_text("not a directory")
    said = one_line(run_heimdall(*command.split(), HEIMDALL_DATABASE_URL=DATABASE, **S3), 1)
    assert str(tmp_path / "state") in said
    assert "HEIMDALL_STATE_DIR" in said


def test_a_user_without_a_home_is_told_to_choose_a_directory(nameless, tmp_path):
    """Container platforms run images as users with neither HOME nor a name."""
    env = {k: v for k, v in os.environ.items() if k != "HEIMDALL_STATE_DIR"}
    words = [*nameless, sys.executable, "-m", "heimdall_trainer", "cache", "status"]
    told = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert "no home: set HEIMDALL_STATE_DIR" in one_line(told, 1)
    program = (
        "import os; from heimdall_trainer.cli.app import main\n"
        "try: main(['cache', 'status'])\n"
        "finally: print(os.path.expanduser('~/.cache'))"
    )
    env["HEIMDALL_STATE_DIR"] = str(tmp_path)
    words = [*nameless, sys.executable, "-c", program]
    said = subprocess.run(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    assert said.stdout.splitlines()[-1] == f"{tmp_path}/.cache"
