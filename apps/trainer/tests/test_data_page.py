"""docs/data.md is run as it stands, in an empty folder with a fresh state directory."""

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.ingest.ingest import ingest
from heimdall_data.recordings.decode import decode
from heimdall_data.testing.fixtures import new_session

PARENTS = Path(__file__).resolve().parents
DATA = "shared/data/kiwisdr-dcf77-2017"
BLOCK = re.compile(r"^```(\w*) ?([\w.]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMES = [f"20171127T104156Z_77500_{station}_iq.wav" for station in ("DF0KL", "F1JEK", "HB9RYZ")]


def above(path):
    """The first of this name beside the folders above, if there is one."""
    return next((parent / path for parent in PARENTS if (parent / path).exists()), None)


def kiwi_wav(seed=1, n_blocks=120, rate_hz=12_001.145):
    """A KiwiSDR file of noise, stamped with true time from the second that its name tells."""
    rng = np.random.default_rng(seed)
    body = b""
    for number in range(n_blocks):
        stamp_ns = (124_934 * 10**9) + round(number * 512 / rate_hz * 1e9)
        samples = rng.integers(-999, 999, (512, 2)).astype("<i2").tobytes()
        body += struct.pack("<4sIBBII", b"kiwi", 10, 1, 0, *divmod(stamp_ns, 10**9))
        body += struct.pack("<4sI", b"data", len(samples)) + samples
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 2, 12_001, 48_004, 4, 16)
    return struct.pack("<4sI", b"RIFF", len(head) + len(body)) + head + body


@pytest.fixture
def folder(tmp_path):
    """The three recordings of the page: the real ones, or made ones where those are not here."""
    real = above(DATA)
    for seed, name in enumerate(NAMES):
        if real is None:
            (tmp_path / name).write_bytes(kiwi_wav(seed))
        else:
            shutil.copyfile(real / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def blocks():
    """Language, file name and text of the page's blocks."""
    page = above("docs/data.md")
    if page is None:
        pytest.skip("docs/data.md is not above this file")
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture
def bash(folder):
    """Run lines in the folder, as somebody who has configured nothing; servers end with it."""
    ours = {name: value for name, value in os.environ.items() if "HEIMDALL" not in name}
    ours["PATH"] = f"{Path(sys.executable).parent}:{ours['PATH']}"

    def run(lines):
        return subprocess.run(
            ["bash", "-euc", lines],
            cwd=folder,
            env=ours,
            capture_output=True,
            text=True,
            timeout=300,
        )

    yield run
    run('heimdall stack down --state-dir "$PWD/state"')


@pytest.mark.slow
def test_the_page_goes_from_files_to_a_batch(blocks, folder, bash):
    """Tried as a new user would; what it says will be printed is printed."""
    for language, name, text in blocks:
        if name:
            assert language in {"csv", "python", "yaml"}
            (folder / name).write_text(text)
    *lines, stop = [text for language, _, text in blocks if language == "sh"]
    yaml = "heimdall ingest manifest recordings.yaml\n"
    finished = bash("\n".join([*lines, yaml, stop]))
    assert finished.returncode == 0, finished.stderr
    shown = next(text for language, _, text in blocks if not language and "not used" in text)
    assert shown in finished.stdout
    assert "in order: 1 session of 3 recordings, 0 known before; nothing was" in finished.stdout
    assert "1 session added, 0 known before; 3 objects stored" in finished.stdout
    assert "0 sessions added, 1 known before; 0 objects stored" in finished.stdout


def test_the_mistakes_that_the_page_shows_are_what_is_said(blocks, folder, bash):
    """A message that reads differently from the manual's is not recognised."""
    shown = next(text for language, _, text in blocks if not language and "mistakes" in text)
    (table,) = [text for _, name, text in blocks if name == "recordings.csv"]
    wrong = table.replace("approved", "yes", 1).replace(NAMES[2], "HB9RYZ.wav")
    (folder / "recordings.csv").write_text(wrong)
    finished = bash("heimdall ingest manifest recordings.csv --dry-run")
    assert (finished.returncode, finished.stderr) == (1, shown)


def test_the_statements_that_correct_do_what_the_page_says(blocks, catalogue, raw_iq_store):
    """A wrong label that nobody can correct is there for good."""
    wrong = new_session("morning", "DCF77", (Station("HB9RYZ", 8.42683, 47.1721),))
    ingest(catalogue, raw_iq_store, [wrong], progress=False)
    *corrections, rejection = [text for language, _, text in blocks if language == "sql"]
    with catalogue.transaction() as connection:
        for text in corrections:
            connection.execute(text)
    (session,) = catalogue.sessions()
    (measurement,) = session.measurements
    assert (session.position_deg, session.frequency_hz) == ((50.0152, 9.0112), 77_500)
    assert measurement.station_deg == (47.1721, 8.42683)
    assert (measurement.frequency_hz, measurement.sample_rate_hz) == (77_500, 12_000)
    with catalogue.transaction() as connection:
        connection.execute(rejection)
    assert catalogue.rejected_counts() == {"rejected": 1}


def test_the_made_recordings_are_such_as_the_page_tells_of():
    """Where the real ones are not here, the page is tried with these."""
    recording = decode(kiwi_wav(), "kiwi_wav", name=NAMES[0])
    assert recording.clock_locked
    assert recording.sample_rate_hz == pytest.approx(12_001.145, abs=0.01)
