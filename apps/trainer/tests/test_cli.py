"""The command line as a user meets it: in a process of its own, by what it prints and returns."""

import os
import re
import subprocess
import sys

import pytest

CONFIGURED = (
    "HEIMDALL_DATABASE_URL",
    "HEIMDALL_S3_ENDPOINT_URL",
    "HEIMDALL_S3_ACCESS_KEY",
    "HEIMDALL_S3_SECRET_KEY",
    "MLFLOW_TRACKING_URI",
)


@pytest.fixture
def heimdall(tmp_path):
    """Run `heimdall` with nothing configured but a state directory of this test's."""
    bare = {name: value for name, value in os.environ.items() if name not in CONFIGURED}
    bare["HEIMDALL_STATE_DIR"] = str(tmp_path / "state")

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "heimdall_trainer", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=bare | environment,
            timeout=120,
        )

    return run


def one_line(finished):
    """What was said of the failure; it must be one line, without a traceback."""
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    return lines[0]


def test_help_names_every_command(heimdall):
    """A user who types `heimdall --help` must see what there is."""
    said = heimdall("--help").stdout
    every = "demo stack ingest cache train evaluate compare models worker"
    for command in every.split():
        assert re.search(rf"^  {command}:", said, re.MULTILINE), said


def test_help_loads_none_of_the_heavy_libraries():
    """`heimdall --help` must answer at once; torch alone takes seconds."""
    probe = (
        "import sys; from heimdall_trainer.cli import app as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'lightning', 'mlflow', 'timm', 'numpy'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert finished.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("trian",), 'Did you mean "train"?'),
        (("train", "--batch_sise", "8"), "Did you mean --batch-size?"),
        (("train", "--epochs", "many"), "into int"),
        (("train", "--epochs", "0"), "--epochs is 0; it must be a whole number of at least 1"),
        (("train", "--val_split", "0.95"), "less than 1 together with test_split"),
        (("train", "--lr", "nan"), "--learning_rate is nan; it must be a positive number"),
        (("train", "--quantize", "int9"), 'Did you mean "int8"?'),
        (("train", "--accelerator", "gpuu"), 'Did you mean "gpu"?'),
        (("train", "--devices", "two"), "must be auto, a count, or a list such as 0,1"),
        (("train", "--split_by", "sesion"), 'Did you mean "session"?'),
        (("train", "--export_only"), "--checkpoint is None; it must be given with --export_only"),
    ],
)
def test_wrong_usage_ends_with_status_2_and_the_remedy(heimdall, arguments, remedy):
    """A misspelt flag or value costs a user seconds, not an hour of training."""
    finished = heimdall(*arguments)
    assert finished.returncode == 2
    assert remedy in one_line(finished)


@pytest.mark.parametrize("flag", ["--batch_size", "--batch-size"])
def test_underscores_and_hyphens_are_the_same(heimdall, flag):
    """The contract promises it, and scripts use both."""
    finished = heimdall("train", flag, "8")
    assert finished.returncode == 1
    assert "HEIMDALL_DATABASE_URL" in one_line(finished)


def test_nothing_configured_names_the_ways_out(heimdall):
    """A first-time user must learn that `demo` and `stack up` exist."""
    finished = heimdall("train")
    assert finished.returncode == 1
    said = one_line(finished)
    assert "no catalogue is configured (HEIMDALL_DATABASE_URL)" in said
    assert "`heimdall demo`" in said
    assert "`heimdall stack up`" in said


def test_a_database_without_an_object_store_is_named_too(heimdall):
    """Each missing variable is named, so that a user sets all of them at once."""
    finished = heimdall("train", HEIMDALL_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert finished.returncode == 1
    said = one_line(finished)
    assert "HEIMDALL_S3_ENDPOINT_URL, HEIMDALL_S3_ACCESS_KEY, HEIMDALL_S3_SECRET_KEY" in said


def test_flag_beats_environment_beats_dotenv(heimdall, tmp_path):
    """The contract's order; a surprise here trains on the wrong database."""
    address = "postgresql://nobody@127.0.0.1:1/{}"
    s3 = dict.fromkeys(CONFIGURED[1:4], "x") | {CONFIGURED[1]: "http://127.0.0.1:1"}
    (tmp_path / ".env").write_text(f"HEIMDALL_DATABASE_URL={address.format('fromdotenv')}\n")
    assert "fromdotenv" in one_line(heimdall("train", **s3))
    s3["HEIMDALL_DATABASE_URL"] = address.format("fromenvironment")
    assert "fromenvironment" in one_line(heimdall("train", **s3))
    by_flag = heimdall("train", "--database-url", address.format("fromflag"), **s3)
    assert "fromflag" in one_line(by_flag)


def test_the_password_is_never_printed(heimdall):
    """Logs of failed runs are shared; credentials in them are too."""
    s3 = dict.fromkeys(CONFIGURED[1:4], "x") | {CONFIGURED[1]: "http://127.0.0.1:1"}
    url = "postgresql://someone:geheim@127.0.0.1:1/none"
    finished = heimdall("train", "--debug", HEIMDALL_DATABASE_URL=url, **s3)
    assert finished.returncode == 1
    assert "geheim" not in finished.stderr + finished.stdout


@pytest.mark.parametrize("command", ["demo", "stack up", "train"])
def test_a_state_directory_that_is_a_file_is_refused(heimdall, tmp_path, command):
    """The message must say which directory, and which variable moves it."""
    (tmp_path / "state").write_text("not a directory")
    s3 = dict.fromkeys(CONFIGURED[1:4], "x") | {CONFIGURED[1]: "http://127.0.0.1:1"}
    url = "postgresql://nobody@127.0.0.1:1/none"
    finished = heimdall(*command.split(), HEIMDALL_DATABASE_URL=url, **s3)
    assert finished.returncode == 1
    said = one_line(finished)
    assert str(tmp_path / "state") in said
    assert "HEIMDALL_STATE_DIR" in said
