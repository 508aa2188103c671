"""docs/worker.md is done as it stands there: its programs ask, watch and call off."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BLOCK = re.compile(r"^```(\w*) ?([\w.@-]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def page():
    """The page's blocks by the name of their file, or by their language."""
    found = (parent / "docs" / "worker.md" for parent in Path(__file__).resolve().parents)
    path = next((path for path in found if path.exists()), None)
    if path is None:
        pytest.skip("docs/worker.md is not above this file")
    blocks = BLOCK.findall(path.read_text(encoding="utf-8"))
    return {name or language: text for language, name, text in blocks}


@pytest.fixture
def run(page, broker, tmp_path):
    """Run a program of the page where nothing of ours can be imported."""

    def program(name, *arguments):
        forbid = "import sys\nsys.modules['heimdall_trainer'] = None\n"
        (tmp_path / name).write_text(forbid + page[name])
        environment = {**os.environ, "CELERY_BROKER_URL": broker.url}
        return subprocess.run(
            [sys.executable, tmp_path / name, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        ).stdout.strip()

    return program


def test_a_program_asks_and_watches_as_the_page_says(run, standing, until):
    """It is what the backend's developers copy."""
    task_id = run("ask.py")
    said = run("watch.py", task_id)
    assert said.splitlines()[-1].startswith("SUCCESS {'run_id': 'a-run', 'epochs': 40")


def test_a_program_calls_off_as_the_page_says(run, client, standing, until):
    """A training that was asked for by mistake takes a night."""
    sent = standing.hold(client)
    run("call_off.py", sent.id)
    sent.end()
    assert sent.status == "REVOKED"
