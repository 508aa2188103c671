"""A configuration file and `--print_config`: what a run is told, and by whom."""

import os
import subprocess
import sys

import pytest
import yaml
from heimdall_trainer.cli import app as cli
from heimdall_trainer.connections import masked

VARIABLES = ("HEIMDALL_", "MLFLOW_")


@pytest.fixture
def heimdall(tmp_path, monkeypatch, capsys):
    """Run `heimdall` in this process, in a folder of its own, with nothing configured."""
    for name in [name for name in os.environ if name.startswith(VARIABLES)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err.strip()

    return run


def resolved(said):
    """Values and origins that `--print_config` printed, by name."""
    lines = [line for line in said.splitlines() if " # " in line]
    origins = {line.lstrip("# ").split(":")[0]: line.rsplit(" # ", 1)[1] for line in lines}
    return yaml.safe_load(said), origins


def test_the_file_has_the_names_of_the_flags(heimdall, tmp_path):
    """What was tried at the command line moves into a file as it is."""
    (tmp_path / "run.yaml").write_text(
        "epochs: 5\nbatch-size: 8\nlr: 1e-4\nreceivers: [NO, Torino]\naugment: false\n"
        "only:\n  min-snr-db: 6\n  since: 2026-01-01\n"
    )
    status, said, _ = heimdall("train", "--config", "run.yaml", "--print_config")
    values, origins = resolved(said)
    assert status == 0
    assert (values["epochs"], values["batch_size"], values["learning_rate"]) == (5, 8, 1e-4)
    assert values["receivers"] == ["NO", "Torino"]
    assert values["augment"] is False
    assert values["min_snr_db"] == 6
    assert values["since"] == "2026-01-01T00:00:00+00:00"
    assert origins["learning_rate"] == "run.yaml:3"
    assert origins["since"] == "run.yaml:8"
    assert origins["patience"] == "default"


def test_a_flag_comes_before_the_environment_dotenv_and_the_file(tmp_path):
    """The contract's order, with the file below it; a surprise trains on the wrong data."""
    (tmp_path / ".env").write_text("HEIMDALL_S3_REGION=dotenv\nHEIMDALL_MODELS_BUCKET=dotenv\n")
    names = ("cache_s3", "raw_iq_bucket", "models_bucket", "s3_region", "state_dir")
    (tmp_path / "run.yaml").write_text("".join(f"{name}: file\n" for name in names))
    bare = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
    bare |= {f"HEIMDALL_{name}": "environment" for name in ("RAW_IQ_BUCKET", "MODELS_BUCKET")}
    command = ["train", "--config", "run.yaml", "--print-config", "--raw_iq_bucket", "flag"]
    finished = subprocess.run(
        [sys.executable, "-m", "heimdall_trainer", *command],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
        timeout=120,
    )
    values, origins = resolved(finished.stdout)
    assert {name: values[name] for name in names} == {
        "raw_iq_bucket": "flag",
        "models_bucket": "environment",
        "s3_region": "dotenv",
        "cache_s3": "file",
        "state_dir": "file",
    }
    assert origins["raw_iq_bucket"] == "flag --raw_iq_bucket"
    assert origins["models_bucket"] == "environment HEIMDALL_MODELS_BUCKET"
    assert origins["s3_region"] == ".env HEIMDALL_S3_REGION"


def test_what_is_printed_can_be_given_back(heimdall, tmp_path):
    """A run is repeated from its printed configuration, in which every value stands."""
    (tmp_path / "run.yaml").write_text("epochs: 5\nstations: [On, ~x, 'a: b # c']\nweights: ~\n")
    flags = ("--no-augment", "--lr", "3e-5", "--until", "2026-02-01", "--devices", "0,1")
    told = ("--state-dir", "a folder", "--checkpoint", "x.ckpt", "--resume_training")
    first = heimdall("train", "--config", "run.yaml", *flags, *told, "--print_config")[1]
    (tmp_path / "again.yaml").write_text(first)
    status, again, _ = heimdall("train", "--config", "again.yaml", "--print_config")
    assert status == 0
    assert resolved(again)[0] == resolved(first)[0]
    assert resolved(again)[0]["stations"] == ["On", "~x", "a: b # c"]
    assert set(resolved(again)[1].values()) == {
        f"again.yaml:{line + 1}" for line, text in enumerate(first.splitlines()) if ": " in text
    } - {"again.yaml:1", "again.yaml:2"}


def test_secrets_are_printed_masked_and_as_comments(heimdall, tmp_path, monkeypatch):
    """What is printed is pasted into tickets, and given back as a file that refuses secrets."""
    monkeypatch.setenv("HEIMDALL_DATABASE_URL", "postgresql://someone:geheim@db:5432/catalogue")
    monkeypatch.setenv("HEIMDALL_S3_ACCESS_KEY", "geheim")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://geheim@mlflow")
    _, said, _ = heimdall("train", "--s3-secret-key", "geheim", "--print_config")
    assert "geheim" not in said
    assert "# database_url: postgresql://***@db:5432/catalogue" in said
    assert "# s3_secret_key: '***'" in said
    (tmp_path / "again.yaml").write_text(said)
    status, again, _ = heimdall("train", "--config", "again.yaml", "--print_config")
    assert status == 0
    assert resolved(again)[1]["database_url"] == "environment HEIMDALL_DATABASE_URL"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://u:p@h/d?sslmode=require", "postgresql://***@h/d"),
        ("postgresql://h/d?password=p", "***"),
        ("host=h password=p", "***"),
        ("postgresql+psycopg2://u:p:@h", "postgresql+psycopg2://***@h"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("http://[::1", "http://[::1"),
        ("//u:p@[h", "***"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("http://h:9000/a@b", "http://h:9000/a@b"),
        ("models:/name@production", "models:/name@production"),
        ("https://u:p@q@h/w", "https://***@h/w"),
        ("https:/u:p@h/w", "***"),  # what a path makes of an address
        ("https:/token@h/w", "***"),
        ("postgresql://u:p/q@h/d", "***"),
        ("u:p@h/d", "***"),
        ("https://h/w?X-Amz-Signature=p", "***"),
    ],
)
def test_a_password_is_masked_wherever_an_address_has_it(address, shown):
    """Postgres and MLflow know several places for it."""
    assert masked("database_url", address) == shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: 3\nbatch_sise: 8", "x.yaml:2 'batch_sise' 'batch_size'"),
        ("zzz: 8", "x.yaml:1 'zzz'"),
        ("no_augment: true", "x.yaml:1 'no_augment' 'augment'"),
        ("\nepochs: many", 'epochs x.yaml:2 "many"'),
        ("epochs: 1.5", 'epochs x.yaml:1 "1.5"'),
        ("epochs:", 'epochs x.yaml:1 "null"'),
        ("epochs: [1, 2]", "x.yaml:1 'epochs'"),
        ("epochs: 0", "epochs 0 1 x.yaml:1"),
        ("quantize: int9", 'x.yaml:1 "none", "fp16" "int8"'),
        ("epochs: 1\nseed: 2\nepochs: 1", "x.yaml:3 'epochs' x.yaml:1"),
        ("lr: 1\nlearning-rate: 1", "x.yaml:2 'learning_rate' x.yaml:1"),
        ("features: {a: 1}", "x.yaml:1 'features' `only:`"),
        ("only: {epochs: 3}", "x.yaml:1 'epochs' `only:`"),
        ("receivers: [[a]]", "x.yaml:1 'receivers'"),
        ("config: y.yaml", "x.yaml:1 'config'"),
        ("- epochs", "x.yaml:1"),
        ("epochs: 3\n  seed: 4", "x.yaml:2 YAML"),
        ("epochs: 3\n---\nepochs: 4", "x.yaml:2 YAML"),
        ("# nothing\n", "x.yaml empty"),
        ("s3_secret_key: x", "x.yaml:1 HEIMDALL_S3_SECRET_KEY"),
        ("database_url: postgresql://u:geheim@h/d", "x.yaml:1 HEIMDALL_DATABASE_URL"),
        ("mlflow-tracking-uri: http://u:geheim@h", "x.yaml:1 MLFLOW_TRACKING_URI"),
        ("seed: 4294967296", "seed 4294967296 x.yaml:1"),
        ("devices: 2,2", "devices 2,2"),
        ("model_name: a/b", "model_name 'a/b'"),
        ("model_name: ''", "model_name ''"),
        ("experiment_name: ''", "experiment_name ''"),
        ("run_name_prefix: ../b", "run_name_prefix '../b'"),
        ("epochs: []", "x.yaml:1 'epochs'"),
        ("augment: []", "x.yaml:1 'augment'"),
        ("[epochs, seed]: 3", "x.yaml:1"),
        ("postgresql://u:geheim@h/d: 3", "x.yaml:1"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_with_its_line(heimdall, tmp_path, text, said):
    """Found in a second, and not by a training that was another than one thought."""
    (tmp_path / "x.yaml").write_text(text)
    status, printed, line = heimdall("train", "--config", "x.yaml", "--print_config")
    assert (status, printed) == (2, "")
    assert [word for word in said.split() if word not in line] == []
    assert "\n" not in line
    assert "geheim" not in line


@pytest.mark.parametrize(("name", "contents"), [("none.yaml", None), (".", None), ("b", b"\xff")])
def test_a_file_that_cannot_be_read_is_named(heimdall, tmp_path, name, contents):
    """A path with a typing error must not mean `no configuration`."""
    if contents:
        (tmp_path / name).write_bytes(contents)
    status, _, line = heimdall("train", "--config", name, "--print_config")
    assert status == 2
    assert f"--config {name}" in line


def test_a_file_without_an_end_is_refused(heimdall):
    """A device in the place of a file would fill the memory, and take the machine with it."""
    status, _, line = heimdall("train", "--config", "/dev/zero", "--print_config")
    assert status == 2
    assert "--config /dev/zero" in line


@pytest.mark.parametrize("flag", ["--weights", "--checkpoint", "--receivers", "--database_url"])
def test_a_password_is_masked_in_any_value_that_is_printed(heimdall, flag):
    """An address in the wrong place is still an address; a path has lost a slash of it."""
    said = heimdall("train", flag, "https://u:geheim@h/w", "--print_config")[1]
    assert "geheim" not in said
    assert "***" in said


@pytest.mark.parametrize("number", ["1.5", "2.000001"])
def test_a_fraction_is_no_whole_number(heimdall, number):
    """The library would round it, and train with another number than was asked for."""
    assert f'"{number}" into int' in heimdall("train", "--epochs", number)[2]


def test_a_whole_number_may_be_written_with_a_point(heimdall):
    """Programs that write configurations do."""
    said = heimdall("train", "--epochs", "4.0", "--print_config")[1]
    assert resolved(said)[0]["epochs"] == 4
