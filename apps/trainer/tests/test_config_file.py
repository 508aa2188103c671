"""A configuration file and `--print_config`: the values of a run, and their origins."""

import contextlib
import io
import os
import tempfile
from datetime import date
from pathlib import Path
from unittest import mock

import pytest
import yaml
from heimdall_features.testing import addresses, has_password
from heimdall_trainer.cli import app as cli
from heimdall_trainer.connections import ADDRESSES, shown_value
from heimdall_trainer.errors import one_line
from heimdall_trainer.provenance import command_line
from hypothesis import given, settings
from hypothesis import strategies as st

VARIABLES = ("HEIMDALL_", "MLFLOW_")
few = settings(max_examples=25)  # Each runs a command line.
texts = st.text("ab:# ~'\"[]{},%é日\\", min_size=1, max_size=8).filter(lambda text: text.strip())
flags = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 500),
        "learning_rate": st.floats(1e-9, 1.0),
        "augment": st.booleans(),
        "stations": st.lists(texts, min_size=1, max_size=3, unique=True),
        "model_name": st.text("ab# ~'[{,é日", min_size=1).filter(lambda text: text.strip()),
        "until": st.dates(date(1970, 1, 1)).map("{} 12:34:56+02:00".format),
        "weights": st.none() | st.just("NO"),
        "state_dir": texts,
    },
)


@contextlib.contextmanager
def bare_folder():
    """A folder of its own as the current one, with nothing configured."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, bare, clear=True),
        mock.patch.object(cli.signal, "signal"),
    ):
        yield Path(folder)


def heimdall(*arguments):
    """Run `heimdall` in this process; its status, output and error."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main(arguments)
    return ended.value.code, out.getvalue(), err.getvalue().strip()


@pytest.fixture(autouse=True)
def folder():
    """The current folder, for the examples."""
    with bare_folder() as there:
        yield there


def resolved(said):
    """Values and origins that `--print_config` printed, by name."""
    lines = [line for line in said.splitlines() if " # " in line]
    origins = {line.lstrip("# ").split(":")[0]: line.rsplit(" # ", 1)[1] for line in lines}
    return yaml.safe_load(said), origins


@few
@given(flags)
def test_what_is_printed_can_be_given_back(flags):
    """A run is repeated from its printed configuration, which has every value."""
    with bare_folder() as folder:
        (folder / "run.yaml").write_text(yaml.safe_dump(flags, allow_unicode=True))
        status, first, error = heimdall("train", "--config", "run.yaml", "--print_config")
        assert status == 0, error
        (folder / "again.yaml").write_text(first)
        again = heimdall("train", "--config", "again.yaml", "--print_config")[1]
        values, origins = resolved(again)
        assert values == resolved(first)[0]
        assert values["stations"] == flags.get("stations")
        assert values["learning_rate"] == flags.get("learning_rate", 1e-3)
        assert all(origin.startswith("again.yaml:") for origin in origins.values())


@few
@given(flags)
def test_a_file_means_what_the_flags_mean(flags):
    """What was tried at the command line moves into a file as it is."""
    words = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value:
            words += [f"--{name}={each}" for each in (value if type(value) is list else [value])]
    with bare_folder() as folder:
        (folder / "run.yaml").write_text(yaml.safe_dump(flags, allow_unicode=True))
        by_file = heimdall("train", "--config", "run.yaml", "--print_config")[1]
        by_flag = heimdall("train", *words, "--print_config")[1]
        assert resolved(by_file)[0] == resolved(by_flag)[0]


@few
@given(
    st.sampled_from(["raw_iq_bucket", "models_bucket", "s3_region", "cache_s3", "state_dir"]),
    st.sets(st.sampled_from(["flag", "environment", ".env", "file"])),
)
def test_a_flag_comes_before_the_environment_dotenv_and_the_file(name, sources):
    """The contract's order, with the file below it; a surprise trains on the wrong data."""
    variable = f"HEIMDALL_{name.upper()}"
    with bare_folder() as folder:
        (folder / "run.yaml").write_text(f"{name}: file\n" if "file" in sources else "epochs: 1")
        (folder / ".env").write_text(f"{variable}=.env\n" if ".env" in sources else "")
        os.environ |= {variable: "environment"} if "environment" in sources else {}
        words = (f"--{name}", "flag") if "flag" in sources else ()
        said = heimdall("train", *words, "--config", "run.yaml", "--print_config")[1]
        values, origins = resolved(said)
        ranked = [each for each in ("flag", "environment", ".env", "file") if each in sources]
        assert not ranked or values[name] == ranked[0]
        assert (
            origins[name]
            == {
                "flag": f"flag --{name}",
                "environment": f"environment {variable}",
                ".env": f".env {variable}",
                "file": "run.yaml:1",
                "default": "default",
            }[(*ranked, "default")[0]]
        )


def test_names_have_hyphens_or_underscores_and_filters_may_stand_together(folder):
    """What was tried at the command line moves into a file as it is."""
    (folder / "run.yaml").write_text(
        "batch-size: 8\nlr: 1e-4\nonly:\n  min-snr-db: 6\n  since: 2026-01-01\n"
    )
    values, origins = resolved(heimdall("train", "--config", "run.yaml", "--print_config")[1])
    assert (values["batch_size"], values["learning_rate"], values["min_snr_db"]) == (8, 1e-4, 6)
    assert values["since"] == "2026-01-01T00:00:00+00:00"
    assert (origins["learning_rate"], origins["since"]) == ("run.yaml:2", "run.yaml:5")


def test_secrets_are_printed_masked_and_as_comments(folder, monkeypatch):
    """What is printed is pasted into tickets, and given back as a file that refuses secrets."""
    monkeypatch.setenv("HEIMDALL_DATABASE_URL", "postgresql://someone:geheim@db:5432/catalogue")
    monkeypatch.setenv("HEIMDALL_S3_ACCESS_KEY", "geheim")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://geheim@mlflow")
    _, said, _ = heimdall("train", "--s3-secret-key", "geheim", "--print_config")
    assert "geheim" not in said
    assert "# database_url: postgresql://***@db:5432/catalogue" in said
    assert "# s3_secret_key: '***'" in said
    (folder / "again.yaml").write_text(said)
    status, again, _ = heimdall("train", "--config", "again.yaml", "--print_config")
    assert status == 0
    assert resolved(again)[1]["database_url"] == "environment HEIMDALL_DATABASE_URL"


words = st.text("abcxyz019._-", min_size=1, max_size=8)


@given(addresses(), st.sampled_from(["weights", "receivers", *sorted(ADDRESSES)]))
def test_a_password_in_any_setting_is_neither_shown_nor_recorded(made, name):
    """An address in the wrong place is still an address."""
    address, _ = made
    assert not has_password(shown_value(name, address))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["heimdall", "train", f"--{name}", address, f"--x={address}"])
        assert not has_password(command_line())
        assert not has_password(one_line(f"unknown word {address!r}"))


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://mlf:Gehe@im7@127.0.0.1:1/x",
        "postgresql://mlf:Gehe/im7@127.0.0.1:1/x",
        "postgresql://127.0.0.1:1/x?user=mlf&password=Gehe-im7",
        'http://mlf:"Gehe im7@127.0.0.1:1',
        "http://mlf:Gehe%2Fim7@127.0.0.1:1",
        "http://Geheim7@127.0.0.1:1",
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        "models list --debug",
        "doctor --debug",
        "train --log_format json --debug",
        "worker --debug",
        "train --print_config",
        "models list --debug {address}",
        "train --nonsense={address}",
    ],
)
def test_no_command_prints_a_part_of_a_password(monkeypatch, address, words):
    """Its output is pasted into tickets, and kept by whoever collects logs."""
    s3 = {f"HEIMDALL_S3_{name}_KEY": "Geheim7" for name in ("ACCESS", "SECRET")}
    monkeypatch.setenv("HEIMDALL_S3_ENDPOINT_URL", "http://127.0.0.1:1")
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    for name in ("HEIMDALL_DATABASE_URL", "MLFLOW_TRACKING_URI", "CELERY_BROKER_URL"):
        monkeypatch.setenv(name, address)
    arguments = [word.format(address=address) for word in words.split()]
    monkeypatch.setattr("sys.argv", ["heimdall", *arguments])
    status, out, err = heimdall(*arguments)
    assert (status == 0) == ("--print_config" in words)
    assert not has_password(out + err)


@pytest.mark.parametrize(
    ("name", "value"),
    [("receivers", "a@b"), ("weights", "/a=1/b"), ("mlflow_tracking_uri", "http://mlflow:5000")],
)
def test_a_value_without_a_password_is_shown(name, value):
    """What is printed is given back with --config."""
    assert shown_value(name, value) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: 3\nbatch_sise: 8", "x.yaml:2 'batch_sise' 'batch_size'"),
        ("no_augment: true", "x.yaml:1 'no_augment' 'augment'"),
        ("\nepochs: many", 'epochs x.yaml:2 "many"'),
        ("epochs:", 'epochs x.yaml:1 "null"'),
        ("epochs: [1, 2]", "x.yaml:1 'epochs'"),
        ("epochs: 0", "epochs 0 1 x.yaml:1"),
        ("epochs: 1\nseed: 2\nepochs: 1", "x.yaml:3 'epochs' x.yaml:1"),
        ("lr: 1\nlearning-rate: 1", "x.yaml:2 'learning_rate' x.yaml:1"),
        ("only: {epochs: 3}", "x.yaml:1 'epochs' `only:`"),
        ("receivers: [[a]]", "x.yaml:1 'receivers'"),
        ("config: y.yaml", "x.yaml:1 'config'"),
        ("- epochs", "x.yaml:1"),
        ("epochs: 3\n  seed: 4", "x.yaml:2 YAML"),
        ("# nothing\n", "x.yaml empty"),
        ("s3_secret_key: x", "x.yaml:1 HEIMDALL_S3_SECRET_KEY"),
        ("database_url: postgresql://u:geheim@h/d", "x.yaml:1 HEIMDALL_DATABASE_URL"),
        ("seed: 4294967296", "seed 4294967296 x.yaml:1"),
        ("model_name: a/b", "model_name 'a/b'"),
        ("model_name: a.production-journal", "model_name 'a.production-journal'"),
        ("model_name: a'b\"c", "model_name quotes"),
        ("experiment_name: ''", "experiment_name ''"),
        ("run_name_prefix: ../b", "run_name_prefix '../b'"),
        ("augment: []", "x.yaml:1 'augment'"),
        ("[epochs, seed]: 3", "x.yaml:1"),
        ("postgresql://u:geheim@h/d: 3", "x.yaml:1"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_with_its_line(folder, text, said):
    """Found in a second, and not by a training that was another than one thought."""
    (folder / "x.yaml").write_text(text)
    status, printed, line = heimdall("train", "--config", "x.yaml", "--print_config")
    assert (status, printed) == (2, "")
    assert [word for word in said.split() if word not in line] == []
    assert "\n" not in line
    assert "geheim" not in line


ON_A_MODEL = ("evaluate a.onnx", "compare a.onnx b.onnx", "models benchmark a.onnx", "cache build")


@pytest.mark.parametrize("command", ON_A_MODEL)
def test_the_file_of_a_training_serves_for_its_model(folder, command):
    """What does nothing there is passed over; what is wrong is still named, with its line."""
    words = (*command.split(), "--config", "run.yaml")
    for text in (
        "epochs: 0\nonly: {min_snr_db: 6}\ncache_gb: 5",
        heimdall("train", "--print_config")[1],
    ):
        (folder / "run.yaml").write_text(text)
        status, _, line = heimdall(*words)
        assert (status, "no catalogue is configured" in line) == (1, True), line
    (folder / "run.yaml").write_text("cache_gb: 0")
    assert "run.yaml:1" in heimdall(*words)[2]
    (folder / "run.yaml").write_text("epoch: 3")
    assert "'epochs'" in heimdall(*words)[2]


@pytest.mark.parametrize("command", ON_A_MODEL)
@pytest.mark.parametrize("flag", ["--epochs", "--learning_rate", "--val-split", "--no-augment"])
def test_a_flag_that_does_nothing_is_refused_and_not_in_the_help(command, flag):
    """One who gives it believes that it changes the answer."""
    acts = flag == "--val-split" and command != "cache build"
    status, help_, _ = heimdall(*command.split(), "--help")
    assert status == 0
    assert (flag in help_) == acts
    status, _, line = heimdall(*command.split(), *((flag, "0.5") if acts else (flag,)))
    assert status == (1 if acts else 2)
    assert (f"{flag} does nothing here" in line) != acts
    assert f"heimdall {command.split()[0]}" in help_.partition("Examples:")[2]


@pytest.mark.parametrize("name", ["none.yaml", ".", "latin-1", "/dev/zero"])
def test_a_file_that_cannot_be_read_is_named(folder, name):
    """A misspelt path must not mean `no configuration`, nor a device fill the memory."""
    (folder / "latin-1").write_bytes(b"\xff")
    status, _, line = heimdall("train", "--config", name, "--print_config")
    assert status == 2
    assert f"--config {name}" in line


@few
@given(st.sampled_from(["weights", "checkpoint", "receivers", "database_url"]), words, words)
def test_a_password_is_masked_in_any_value_that_is_printed(flag, user, host):
    """An address in the wrong place is still an address; a path has lost a slash of it."""
    said = heimdall("train", f"--{flag}", f"https://{user}:geheim@{host}/w", "--print_config")[1]
    assert "geheim" not in said
    assert "***" in said


@few
@given(st.integers(1, 100_000), st.integers(1, 999_999))
def test_a_fraction_is_no_whole_number(whole, millionths):
    """The library would round it, and train with another number than was asked for."""
    fraction = f"{whole}.{millionths:06d}"
    assert f'"{fraction}" into int' in heimdall("train", "--epochs", fraction)[2]
    said = heimdall("train", "--epochs", f"{whole}.0", "--print_config")[1]
    assert resolved(said)[0]["epochs"] == whole
