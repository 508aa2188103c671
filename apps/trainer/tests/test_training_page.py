"""docs/TRAINING.md names every flag with its default, shows messages that exist, and runs.

That every command of it is taken is in `test_pages.py`; how its procedure ends, in
`test_tutorial_page.py`, which goes the same way.
"""

import ast
import dataclasses
import inspect
import re
import runpy
import shlex
from pathlib import Path

import pytest
from heimdall_data.catalogue.session import SessionFilter
from heimdall_export.tracking.client import open_client
from heimdall_trainer.cli.app import main
from heimdall_trainer.cli.train import train
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

ROOT = next((p for p in Path(__file__).resolve().parents if (p / "docs" / "site").is_dir()), None)
SECRET = {"s3_access_key", "s3_secret_key"}
NO_FLAGS = {"config", "connections", "config_file", "origins"}
"""Parameters of the command that hold flags, or have another name as one."""
ROW = re.compile(r"^\| `--(\w+)`(?: \(`--\w+`\))? \| ([^|]+) \|", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ROOT is None, reason="the pages are not above this file"),
]


@pytest.fixture(scope="module")
def page():
    """The page's text."""
    return (ROOT / "docs" / "TRAINING.md").read_text(encoding="utf-8")


def shown(value):
    """A default as the page writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, ()) else str(value)


def defaults():
    """Every setting of a training and its default, but for what chooses sessions."""
    fields = dataclasses.fields(TrainingConfig)
    return {f.name: shown(f.default) for f in fields if f.name != "only"}


def further_flags():
    """Flags of the command that are no settings of a training: filters, addresses, its own."""
    places = (*dataclasses.fields(SessionFilter), *dataclasses.fields(Connections))
    own = set(inspect.signature(train).parameters) - NO_FLAGS | {"config"}
    return ({field.name for field in places} | own) - SECRET


def test_every_setting_is_in_a_table_with_its_default(page):
    """A setting that the page does not have is one that nobody changes."""
    written = {name: default.strip() for name, default in ROW.findall(page)}
    assert written == defaults()


def test_every_other_flag_is_named(page):
    """Filters and addresses are half of what a command line says."""
    assert {name for name in further_flags() if f"`--{name}" not in page} == set()


def said_in_code():
    """Every text of our sources, with an ellipsis where a value stands."""
    for file in sorted(ROOT.glob("*/*/src/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    getattr(part, "value", "…") if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def symptoms(page):
    """The messages that the page explains: code in the first column of its troubles."""
    section = page.split("\n## Troubleshooting\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def is_said(message, texts):
    """Whether a text has the message, whose ellipses stand for whatever is there."""
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip()]
    pattern = re.compile(r"\s?.{0,40}".join(pieces), re.DOTALL)
    return any(pattern.search(text) for text in texts)


def test_the_messages_that_it_explains_are_messages_of_ours(page):
    """Who has an error looks for its words."""
    texts = list(said_in_code())
    found = symptoms(page)
    assert len(found) > 20
    assert [message for message in found if not is_said(message, texts)] == []
    assert not is_said("training diverged on …, step …", texts)


def test_it_has_the_eleven_sections_in_order(page):
    """Other documents refer to them by name."""
    assert re.findall(r"^## (.+)$", FENCE.sub("", page), re.MULTILINE) == [
        "Architecture",
        "Design rationale",
        "Components",
        "Tuning",
        "Convergence",
        "Metrics",
        "Procedure",
        "Data formats",
        "Troubleshooting",
        "Performance",
        "Production deployment",
    ]


def looked_before(page):
    """The file of the second step of the procedure, and its commands."""
    (file,) = re.findall(r"^```yaml run.yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    step = page.split("**2. Look before")[1].split("**3.")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", step, re.DOTALL | re.MULTILINE)
    return file, [shlex.split(line)[1:] for line in block.splitlines()]


@pytest.fixture
def served(connections, tmp_path, monkeypatch):
    """An empty folder, and the variables of a catalogue with recordings."""
    for name, value in connections.environment(defaults=False).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_look_before_the_night_goes_as_the_page_says(page, connections, served, capsys):
    """The page's own file, with a smaller network, and commands, on a catalogue."""
    file, commands = looked_before(page)
    (served / "run.yaml").write_text(file.replace("convnext_atto", "test_convnext"))
    for words in commands:
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0, words
    said = capsys.readouterr().out
    assert re.search(r"^backbone: test_convnext +# run.yaml:1$", said, re.MULTILINE)
    assert "an epoch will take about" in said
    assert connections.need_s3().secret_key not in said


def test_the_grid_search_gives_one_run_with_a_child_for_each_trial(
    page, connections, served, monkeypatch, capsys
):
    """Who compares forty trials finds them together, and none of them as a model to deploy."""
    section = page.split("### Grid search")[1].split("\n## ")[0]
    (script,) = re.findall(r"^```python grid.py\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (line,) = re.findall(r"^python (grid.py .*)$", section, re.MULTILINE)
    (served / "grid.py").write_text(script)
    words = line.replace("convnext_atto", "test_convnext").replace("--epochs 5", "--epochs 1")
    split = "--seed 7 --validation_split 0.25 --test_split 0.25 --experiment_name grid"
    monkeypatch.setattr("sys.argv", shlex.split(f"{words} {split}"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("grid.py", run_name="__main__")
    assert ended.value.code in (0, None)
    found = re.findall(r"^(-?\d+\.\d+)  (--lr \S+ --dropout \S+)$", capsys.readouterr().out, re.M)
    assert len(found) == 4
    assert found == sorted(found, key=lambda trial: float(trial[0]))
    client = open_client(connections.tracking_uri())
    experiment = client.get_experiment_by_name("grid")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.info.run_name.startswith("grid_")]
    trials = [run for run in runs if run.data.tags.get(MLFLOW_PARENT_RUN_ID) == parent.info.run_id]
    assert len(trials) == len(runs) - 1 == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {
        f"--lr {run.data.params['learning_rate']} --dropout {run.data.params['dropout']}"
        for run in trials
    } == {flags for _, flags in found}
    assert all("val/nll" in run.data.metrics for run in trials)
