"""Names with control characters, from a catalogue that others write: a training survives them."""

import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import psycopg
import pytest
from heimdall_data import Catalogue, ObjectStore
from heimdall_data.catalogue.session import FilterError, SessionFilter
from heimdall_data.ingest.ingest import ingest
from heimdall_features.names import is_printable, shown
from heimdall_features.testing import HOSTILE, hostile_names
from heimdall_simulation import simulate_sessions
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.errors import UsageError, one_line
from heimdall_trainer.events import LOGGER, logged_as, tell
from heimdall_trainer.pipeline import TrainingPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

ALIEN = "\x1b[2J\x07\u202e\r\nheimdall: forged"
"""What another system may have written behind every name."""
several = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def lines_of(text):
    """Lines as a terminal has them, with none that a name has made."""
    lines = text.split("\n")
    assert all(map(is_printable, lines)), text
    assert not [line for line in lines if line.startswith(("heimdall: forged", "warning: forged"))]
    return lines


# Without surrogates: pytest's own log would hold them, and xdist cannot send them.
@several
@given(name=hostile_names("".join(sorted(set(HOSTILE) - set("\udc80\ud800")))))
def test_no_message_shows_a_raw_control_character(capsys, name):
    """A name in a warning could clear the screen, or write a line of its own."""
    tell("data", f"recordings of\n  {shown(name)} 7", receivers={name: 7})
    LOGGER.warning("station %s is far away", name)
    LOGGER.error("%s", f"lost {name}")
    with logged_as("json"):
        tell("data", receivers={name: 7}, said=name)
    text, told = capsys.readouterr()
    assert len(lines_of(text)) == 4
    assert len(lines_of(told)) == 3
    assert json.loads(text.splitlines()[2])["said"] == name
    assert is_printable(one_line(ValueError(f"no station {name}")))


def test_names_in_flags_are_composed():
    """A name that is copied from a Mac's file must find what a keyboard has named."""
    typed, copied = (unicodedata.normalize(form, "Zürich") for form in ("NFC", "NFD"))
    names = ("model_name", "experiment_name", "run_name_prefix")
    config = TrainingConfig(receivers=(copied, "B", "C"), **dict.fromkeys(names, copied))
    assert config.receivers == (typed, "B", "C")
    assert {getattr(config, name) for name in names} == {typed}
    with pytest.raises(UsageError, match="receivers"):
        TrainingConfig(receivers=(copied, typed, "C"))


@pytest.fixture(scope="module")
def hostile(connections, tmp_path_factory, stack):
    """Connections to a catalogue whose every name ends in control characters."""
    address = stack.database_url.rpartition("/")[0]
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE hostile_names")
    s3 = replace(connections.need_s3(), raw_iq_bucket="hostile-names")
    store = ObjectStore(s3, s3.raw_iq_bucket)
    store.ensure_bucket()
    with Catalogue(f"{address}/hostile_names") as catalogue:
        made = (session.new_session for session in simulate_sessions(40, seed=3))
        ingest(catalogue, store, made, progress=False)
        with catalogue.transaction() as connection:
            for table, column in (
                ("websdr_stations", "name"),
                ("known_sources", "name"),
                ("known_sources", "source_type"),
                ("recording_sessions", "session_name"),
            ):
                query = f"UPDATE heimdall.{table} SET {column} = {column} || %s"
                connection.execute(query, (ALIEN,))
            # A recording whose object is gone, so that a reason names a station.
            connection.execute(
                "UPDATE heimdall.measurements SET iq_data_location = iq_data_location || '.gone' "
                "WHERE id IN (SELECT id FROM heimdall.measurements ORDER BY id LIMIT 5)"
            )
    return replace(
        connections,
        database_url=f"{address}/hostile_names",
        raw_iq_bucket=s3.raw_iq_bucket,
        state_dir=tmp_path_factory.mktemp("hostile"),
    )


@pytest.mark.slow
def test_a_training_with_such_names_ends_with_a_model_and_a_report(
    hostile, run_heimdall, quick, tmp_path
):
    """What one row of a table says must not cost a night; operators see the row's name escaped."""
    told = run_heimdall(
        *("train", "--backbone", "test_convnext", "--epochs", "2", "--batch_size", "8"),
        *("--val_split", "0.25", "--test_split", "0.25", "--seed", str(quick.seed)),
        *("--summary", "run.json", "--max_excluded", "0.5"),
        connections=hostile,
    )
    assert told.returncode == 0, told.stderr
    said = lines_of(told.stdout)
    lines_of(told.stderr)
    assert [line for line in said if line.startswith(f"  {shown(f'Coazze{ALIEN}')} ")], told.stdout
    summary = json.loads((tmp_path / "run.json").read_text())
    page = Path(summary["report"]).read_text(encoding="utf-8")
    lines_of(page)
    assert shown(f"Coazze{ALIEN}") in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing.replace("&nbsp;", " "))
    run = MlflowClient(hostile.tracking_uri()).get_run(summary["run_id"])
    assert run.info.status == "FINISHED"
    assert shown(f"Coazze{ALIEN}") in run.data.params["receivers"]
    for value in (*run.data.params.values(), *run.data.tags.values()):
        lines_of(value)


@pytest.mark.slow
def test_such_names_are_escaped_in_json_and_every_other_command(hostile, heimdall_here):
    """The receivers of a calibration and of errors come from the same rows."""
    for words in (
        ("train", "--dry_run", "--backbone", "test_convnext"),
        ("calibrate",),
        ("cache", "build"),
        ("train", "--stations", "Torin\x1b"),
        ("train", "--receivers", f"Nowhere{ALIEN}", "A", "B"),
        ("evaluate", f"no{ALIEN}model.onnx"),
        ("locate", f"no{ALIEN}file.wav"),
        ("ingest", "manifest", f"no{ALIEN}file.csv"),
        ("train", "--config", f"no{ALIEN}file.yaml"),
        ("train", "--checkpoint", f"no{ALIEN}file.ckpt", "--resume_training"),
        ("train", "--experiment_name", f"a{ALIEN}"),
        ("train", "--print_config", "--sources", f"a{ALIEN}", "b\u202e"),
        (f"no{ALIEN}command",),
    ):
        told = heimdall_here(*words, connections=hostile)
        lines_of(told.stdout)
        lines_of(told.stderr)
        assert "Traceback" not in told.stderr, told.stderr


@pytest.mark.slow
def test_a_report_that_cannot_be_written_does_not_fail_the_run(
    connections, quick, tmp_path, capsys
):
    """The model is registered by then; only the page is missing, and that is said."""
    there = replace(connections, state_dir=tmp_path)
    (tmp_path / "reports").write_text("a file where the folder should be")
    config = replace(quick, backbone="test_convnext", epochs=1)
    outcome = TrainingPipeline(config, there).run()
    run = MlflowClient(there.tracking_uri()).get_run(outcome.summary.run_id)
    assert run.info.status == "FINISHED"
    assert str(tmp_path / "reports") in run.data.tags["report.error"]
    assert outcome.report is outcome.summary.report is None
    assert outcome.summary.model_version
    told = capsys.readouterr().err
    assert f"`heimdall evaluate {outcome.summary.onnx_uri}` makes a report of it" in told


@given(st.sampled_from(["stations", "sources", "source_types"]), hostile_names("\0\udc80\ud800"))
def test_a_condition_that_no_database_can_hold_is_refused(name, value):
    """Postgres would refuse the query, and psycopg raise an error that is not for people."""
    with pytest.raises(FilterError, match=name):
        SessionFilter(**{name: (value,)})


@given(st.sampled_from(sorted(set(HOSTILE) - set("\0\udc80\ud800"))))
def test_a_condition_may_name_a_row_that_others_wrote(character):
    """Who wants to train without that station must be able to write its name."""
    SessionFilter(stations=(f"Torino{character}",))


@pytest.mark.parametrize("flag", ["experiment_name", "model_name", "run_name_prefix"])
def test_what_a_training_is_called_follows_the_rule_for_names(flag):
    """MLflow shows it beside others, where two that look the same would be taken for one."""
    TrainingConfig(**{flag: "می\u200cروم 👩\u200d🚒"})
    with pytest.raises(UsageError, match=f"--{flag}"):
        TrainingConfig(**{flag: "rf\u3164"})
