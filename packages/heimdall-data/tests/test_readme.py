"""The README's Python is run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
STATIONS = """name,latitude,longitude
DF0KL,53.665337,7.282766
F1JEK,45.779290,0.614638
HB9RYZ,47.1721,8.42683
"""


@pytest.fixture(scope="module")
def examples():
    """The README's blocks of Python, in order."""
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def run(code, folder):
    """What an example prints, run as a script in a folder."""
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_the_examples_go_from_nothing_to_a_sample(examples, tmp_path):
    """Examples are copied; one that does not work costs every reader an hour."""
    first, _, samples, *_ = examples
    assert "samples; left out:" in run(first, tmp_path)
    assert "(3, 128, 32) and 0 sessions excluded" in run(samples, tmp_path)


@pytest.mark.slow
def test_arrival_times_are_those_shown(examples, tmp_path):
    """Numbers in a README are read as promises."""
    code = examples[3]
    shown = README.read_text(encoding="utf-8").split(code)[1].split("```")[2]
    found, promised = (
        [line.split() for line in text.strip().splitlines()]
        for text in (run(code, tmp_path), shown)
    )
    assert [row[0] for row in found] == [row[0] for row in promised]
    for row, expected in zip(found, promised, strict=True):
        assert [float(v) for v in row[1:]] == pytest.approx(
            [float(v) for v in expected[1:]], abs=0.02
        )


def test_files_of_ones_own_become_a_session(examples, tmp_path, real_recordings):
    """Most users come with files on disk."""
    (tmp_path / "recordings").symlink_to(real_recordings / "kiwisdr-dcf77-2017")
    (tmp_path / "stations.csv").write_text(STATIONS)
    shown = "\nprint(session.name, [m.station.name for m in session.measurements])"
    assert "['DF0KL', 'F1JEK', 'HB9RYZ']" in run(examples[1] + shown, tmp_path)


@pytest.mark.slow
def test_public_data_sets_are_read(examples, tmp_path):
    """Whoever downloaded one of them begins here."""
    powder, locards = tmp_path / "powder-frs", tmp_path / "locards"
    powder.mkdir()
    locards.mkdir()
    (powder / "receivers.csv").write_text("name,latitude,longitude\na,40,-111\nb,40.1,-111\n")
    (powder / "sessions.csv").write_text(
        "timestamp,latitude,longitude,part,a,b\n2022-07-05 14:12:32,40,-111,train,-70,\n"
    )
    (locards / "sensors.csv").write_text("serial,latitude,longitude,height\n7,46.5,9,680\n")
    (locards / "set_1.csv").write_text(
        'latitude,longitude,geoAltitude,measurements\n46,9,8000,"[[7,860567,49]]"\n'
    )
    said = run(examples[4], tmp_path)
    assert "(1, 2) levels" in said
    assert "sessions_added=1" in said
    assert said.endswith("7 46.5 9.0 680.0 0.0\n")
