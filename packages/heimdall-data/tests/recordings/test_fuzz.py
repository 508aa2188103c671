"""A short fuzz of every decoder; `benchmarks/fuzz_recordings.py` goes on for as long as wanted."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_recordings.py"


@pytest.mark.slow
def test_hostile_files_of_every_format_are_recordings_or_errors_of_ours():
    """One object that raises anything else, or fills the memory, ends the preparation of all."""
    child = subprocess.run(
        [sys.executable, str(SCRIPT), "--inputs", "2000"], capture_output=True, check=False
    )
    said = json.loads(child.stdout)
    assert said["findings"] == {}
    assert child.returncode == 0
    for form, counts in said["formats"].items():
        assert counts["errors"] > 20, form
        assert counts.get("recordings", 0) > 20 or form in ("collection", "gnss_pos", "manifest")


@pytest.mark.parametrize("error", [TypeError("odd"), MemoryError()])
def test_the_fuzz_can_find(monkeypatch, capsys, error):
    """The test above can fail: whatever a decoder raises is found and named."""

    def raised(*_, **__):
        raise error

    monkeypatch.setattr("heimdall_data.recordings.decode.decode", raised)
    monkeypatch.setattr("logging.disable", lambda: None)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--inputs", "8"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert any(type(error).__name__ in finding for finding in findings)
