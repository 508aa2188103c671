"""The tutorial and other pages are run as they stand, but for how much there is."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from heimdall_trainer.cli.app import main

pytestmark = pytest.mark.slow

PARENTS = Path(__file__).resolve().parents
BLOCK = re.compile(r"^```(\w*) ?([\w.]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SMALLER = (
    ("--sessions 300", "--sessions 48"),
    ("epochs: 5", "epochs: 1"),
    ("convnext_atto", "test_convnext"),
)
"""What a page has, and what is enough to try it."""


def blocks(name):
    """Language, file name and text of a page's blocks."""
    page = next((p / "docs" / name for p in PARENTS if (p / "docs" / name).exists()), None)
    if page is None:
        pytest.skip(f"docs/{name} is not above this file")
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def written(name, folder):
    """The page's lines of shell, after its files were written into the folder."""
    lines = []
    for language, file, text in blocks(name):
        for long, short in SMALLER:
            text = text.replace(long, short)
        if file:
            (folder / file).write_text(text)
        elif language == "sh":
            lines += text.replace("\\\n", " ").splitlines()
    return lines


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An empty folder, as somebody who has configured nothing finds it."""
    for name in [n for n in os.environ if n.startswith(("HEIMDALL", "MLFLOW", "AWS"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    return monkeypatch


def bash(line):
    """Run a line of shell, and give what it printed; `python` is this one."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euc", line],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=400,
        check=True,
    ).stdout


def follow(line, monkeypatch):
    """Do what a line of a page says; commands of ours in this process, which saves a minute."""
    command, *words = shlex.split(os.path.expandvars(line))
    if command == "heimdall":
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0, line
    elif command in ("export", "set"):
        for setting in bash(f"{line}; env").splitlines():
            name, equals, value = setting.partition("=")
            if equals and name.startswith(("HEIMDALL", "MLFLOW")):
                monkeypatch.setenv(name, value)
    else:
        print(bash(line))


def test_the_tutorial_goes_from_nothing_to_a_position(bare, tmp_path, capsys):
    """It is the first hour of every new colleague."""
    lines = written("tutorial.md", tmp_path)
    whole = "".join(text for *_, text in blocks("tutorial.md"))
    assert all(long in whole for long, _ in SMALLER)
    try:
        for line in lines:
            follow(line, bare)
    finally:
        follow(f"heimdall stack down --state-dir {tmp_path}/state", bare)
    said = capsys.readouterr().out
    compared = json.loads((tmp_path / "compare.json").read_text())
    runs = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("three", "two")]
    for run, side in zip(runs, (compared["a"], compared["b"]), strict=True):
        median = run["metrics"]["test/error_m_median"]
        assert side["metrics"]["error_m_median"] == pytest.approx(median)
        assert side["trained_on"] == []
        assert Path(run["report"]).is_file()
    assert "version 1 of heimdall-localization-onnx is in production" in said
    assert re.search(r"^says  \d\d\.\d\d N \d\.\d\d E$", said, re.MULTILINE)
    assert re.search(r"^truth 4[45]\.\d\d N [789]\.\d\d E$", said, re.MULTILINE)


def test_models_are_judged_as_the_page_says(connections, finished, bare, tmp_path, capsys):
    """The commands that decide what goes into production are copied from there."""
    evaluate, *rest = written("judging.md", tmp_path)
    watch = rest.pop()
    shutil.copyfile(finished.summary.checkpoint, tmp_path / "best.ckpt")
    for name in ("first", "second"):
        shutil.copyfile(finished.report, tmp_path / f"{name}.html")
    s3 = connections.need_s3()
    for name, value in {
        "HEIMDALL_DATABASE_URL": connections.need_database(),
        "HEIMDALL_S3_ENDPOINT_URL": s3.endpoint_url,
        "HEIMDALL_S3_ACCESS_KEY": s3.access_key,
        "HEIMDALL_S3_SECRET_KEY": s3.secret_key,
        "HEIMDALL_STATE_DIR": str(connections.state_dir),
    }.items():
        bare.setenv(name, value)
    split = "--seed 7 --validation_split 0.25 --test_split 0.25"
    follow(f"{evaluate} {split} --receivers Torino Genova Milano-Baggio", bare)
    told = json.loads((tmp_path / "validation.json").read_text())
    assert (told["split"], told["n_trained_on"]) == ("validation", 0)
    follow(watch.replace("@production", f"/{finished.summary.model_version}"), bare)
    assert json.loads((tmp_path / "watch.json").read_text())["split"] == "new"
    for name in [n for n in os.environ if n.startswith("HEIMDALL")]:
        bare.delenv(name)
    for line in rest:
        follow(line, bare)
    assert re.search(
        r"\d+ sessions of \d+ transmitters: (no difference|unknown)", capsys.readouterr().out
    )


def test_a_model_file_answers_in_the_programs_for_service_developers(finished, bare, tmp_path):
    """They are copied into services as they are."""
    written("for-service-developers.md", tmp_path)
    said = [bash(f"python {name}.py {finished.summary.onnx_path}") for name in ("predict", "bare")]
    latitude, longitude = map(float, re.match(r"(\S+) (\S+),", said[0]).groups())
    assert re.search(r"^95 % within \d+ m$", said[0], re.MULTILINE)
    assert 43 < latitude < 47
    assert 6 < longitude < 11
    assert re.match(r"\[4\d\.\d+ +\d+\.\d+\] degrees, one sigma \[\S+ +\S+\] m", said[1])


def test_a_method_of_ones_own_is_compared_with_ours(bare, tmp_path):
    """A researcher decides in minutes whether the simulator and the solver are of use."""
    (line,) = written("for-researchers.md", tmp_path)
    mine_m, ours_m, share, _ = map(int, re.findall(r"\d+(?= m| ?%)", bash(line)))
    assert ours_m < 100 < mine_m
    assert 50 <= share <= 95
