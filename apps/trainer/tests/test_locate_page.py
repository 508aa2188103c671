"""docs/locate.md and docs/for-kiwisdr-operators.md are followed from recordings to a map."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from heimdall_locate.sites import geodesic_m
from heimdall_trainer.cli.app import main

PARENTS = Path(__file__).resolve().parents
BLOCK = re.compile(r"^```(\w*) ?([\w.]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGE = next((p / "docs/locate.md" for p in PARENTS if (p / "docs/locate.md").exists()), None)
REAL = next((p / "shared/data" for p in PARENTS if (p / "shared/data").is_dir()), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PAGE is None, reason="docs/locate.md is not above this file"),
]


@pytest.mark.skipif(REAL is None, reason="the real recordings are not here")
def test_the_page_goes_from_recordings_to_a_map(tmp_path, monkeypatch, capsys):
    """An operator who follows it must see what it shows."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REAL / "kiwisdr-dcf77-2017", "recordings")
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for _, name, text in blocks:
        if name:
            Path(name).write_text(text)
    (line,) = [text for language, _, text in blocks if language == "sh"]
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line)[1:])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    (shown,) = [text for language, _, text in blocks if language == "text"]
    labels = [[row[:12] for row in text.splitlines() if row[:3] != "or "] for text in (said, shown)]
    assert labels[0] == labels[1]
    assert said.splitlines()[-1] == shown.splitlines()[-1]
    found = json.loads(Path("found/position.json").read_text())
    place = [float(value) for value in re.findall(r"-?\d+\.\d+", shown)[:2]]
    away_m = geodesic_m(found["latitude_deg"], found["longitude_deg"], *place)
    assert away_m < found["ellipse_95"]["semi_major_m"]
    assert all(Path(name).is_file() for name in re.findall(r"found/[\w.]+", said))


@pytest.mark.skipif(REAL is None, reason="the real recordings are not here")
def test_an_operator_goes_from_recordings_to_calibrated_receivers(tmp_path, monkeypatch):
    """The page promises that three recordings are enough, and that nothing else is needed."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REAL / "kiwisdr-dcf77-2017", "recordings")
    text = PAGE.with_name("for-kiwisdr-operators.md").read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    for _, name, content in blocks:
        if name:
            Path(name).write_text(content)
    for line in "".join(block for language, _, block in blocks if language == "sh").splitlines():
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(line)[1:])
        assert ended.value.code == 0, line
    found, calibrated = (
        json.loads(Path(folder, "position.json").read_text()) for folder in ("found", "calibrated")
    )
    away_m = geodesic_m(found["latitude_deg"], found["longitude_deg"], 50.0152, 9.0112)
    assert away_m < found["ellipse_95"]["semi_major_m"]
    assert calibrated["ellipse_95"]["semi_major_m"] > found["ellipse_95"]["semi_major_m"]
    assert all(Path(name).is_file() for name in re.findall(r"`(found/[\w.]+)`", text))


def test_what_the_page_says_of_trouble_is_what_is_said():
    """A message that reads differently from the manual's is not recognised."""
    text = PAGE.read_text(encoding="utf-8").partition("## Trouble")[2]
    quoted = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    root = PAGE.parents[1]
    source = (
        "".join(
            re.sub(r'"\s+f?"', "", file.read_text(encoding="utf-8"))
            for package in ("features", "locate", "data")
            for file in (root / f"packages/heimdall-{package}/src").rglob("*.py")
        )
        .replace("{FEWEST_CLOCKS}", "3")
        .replace("`kiwi`", "kiwi")
    )
    assert len(quoted) >= 6
    assert [message for message in quoted if message not in source] == []
