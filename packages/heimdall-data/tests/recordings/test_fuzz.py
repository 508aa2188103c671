"""A short fuzz of every decoder; `benchmarks/fuzz_recordings.py` goes on for as long as wanted."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_recordings.py"


def fuzzed(*options):
    """The script's exit status, and what it found."""
    child = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False
    )
    return child.returncode, json.loads(child.stdout)


def test_hostile_files_of_every_format_are_recordings_or_errors_of_ours():
    """One object that raises anything else, or fills the memory, ends the preparation of all."""
    status, said = fuzzed("--inputs", "1600")
    assert said["findings"] == {}
    assert status == 0
    for form, counts in said["formats"].items():
        assert counts["errors"] > 20, form
        assert counts.get("recordings", 0) > 20 or form in ("collection", "gnss_pos", "manifest")


def test_the_fuzz_can_find():
    """Without any memory to take, some input exceeds it."""
    status, said = fuzzed("--inputs", "1000", "--memory_mib", "0")
    assert status == 1
    assert any("MemoryError" in finding for finding in said["findings"])
