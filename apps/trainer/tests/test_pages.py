"""Every command that a page shows is one that the command line takes.

What the pages' programs do is run by other tests: `test_data_page.py`, `test_tutorial_page.py`,
`test_readme.py`, and those of heimdall-export; here it is that no page shows a flag that is gone.
"""

import itertools
import re
import shlex
import subprocess
from pathlib import Path

import cyclopts
import pytest
from heimdall_trainer.cli.app import COMMANDS, EXAMPLES, app
from uv import find_uv_bin

ROOT = next((p for p in Path(__file__).resolve().parents if (p / "docs" / "site").is_dir()), None)
SHELL = re.compile(r"^```(?:sh|bash|)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
YAML = re.compile(r"^```yaml(?: run.yaml)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`(heimdall [^`]+)`(?!`)")
ELSEWHERE = {">", ">>", "|", "&&", "||", ";"}


def pages():
    """Every page of the site that people write."""
    if ROOT is None:
        return []
    every = ROOT.glob("docs/*.md"), ROOT.glob("*/*/README.md"), ROOT.glob("README.md")
    return sorted(itertools.chain(*every))


def commands(text):
    """The words of each `heimdall ...` of a page, without comments and what follows a pipe."""
    blocks = "\n".join(SHELL.findall(text)).replace("\\\n", " ")
    lines = re.findall(r"^(?:.*?\buv run )?(heimdall .+)$", blocks, re.MULTILINE)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = [" ".join(found.split()) for found in INLINE.findall(prose)]
    for line in [*lines, *(i for i in inline if "…" not in i and "..." not in i and "|" not in i)]:
        words = shlex.split(line, comments=True)
        ours = itertools.takewhile(lambda word: word not in ELSEWHERE, words[1:])
        yield ["1" if word in ("N", "E") else word for word in ours]


def refused(words):
    """Why the command line does not take it; None where it does."""
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except cyclopts.MissingArgumentError:
        return None  # `heimdall ingest` in a sentence
    except cyclopts.CycloptsError as error:
        return str(error)
    return None


@pytest.mark.skipif(ROOT is None, reason="the pages are not above this file")
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one_that_is_taken(page, tmp_path, monkeypatch):
    """A flag that is gone is found by the reader, at night, in the middle of something else."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    for number, block in enumerate(YAML.findall(text)):
        (tmp_path / ("run.yaml" if number == 0 else f"{number}.yaml")).write_text(block)
    found = {shlex.join(words): refused(words) for words in commands(text)}
    assert {line: why for line, why in found.items() if why} == {}


@pytest.mark.skipif(ROOT is None, reason="the pages are not above this file")
def test_every_installation_of_the_readme_is_one_that_uv_takes():
    """Who has no GPU has one line to try, before the 3.4 GB of the others."""
    (block,) = (each for each in SHELL.findall((ROOT / "README.md").read_text()) if " -e " in each)
    found = re.findall(r"uv (pip install .*)", block)
    assert len(found) == 4
    for line in (*found, "pip install --nonsense"):
        asked = [find_uv_bin(), *line.split(), "--help"]
        taken = subprocess.run(asked, capture_output=True, check=False).returncode == 0
        assert taken == ("nonsense" not in line), line
        for package in re.findall(r"-e (\S+)", line):
            assert (ROOT / package / "pyproject.toml").is_file()


@pytest.mark.parametrize("command", [place.partition(":")[0] for place in COMMANDS])
def test_every_command_has_examples_that_it_takes(command, tmp_path, monkeypatch):
    """The end of a command's help is copied before any flag above it is read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("epochs: 3")
    examples = [shlex.split(line) for line in EXAMPLES[command].strip().splitlines()]
    assert len(examples) >= 2
    for heimdall, *words in examples:
        assert (heimdall, words[0]) == ("heimdall", command)
        assert refused(words) is None


@pytest.mark.skipif(ROOT is None, reason="the pages are not above this file")
def test_commands_are_found_on_pages():
    """The test above can fail: there are commands, and a wrong flag is refused."""
    assert sum(len(list(commands(page.read_text(encoding="utf-8")))) for page in pages()) > 60
    page = "```sh\nheimdall train --epocs 3 \\\n  --lr 1 > log  # long\n```\nor `heimdall fly`."
    first, second = commands(page)
    assert first == ["train", "--epocs", "3", "--lr", "1"]
    assert "--epocs" in refused(first)
    assert refused(second)
