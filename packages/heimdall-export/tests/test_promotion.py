"""What may go into production, and the record of what did."""

import getpass
import json
import math

import pytest
from heimdall_export import ExportError, evaluation_tags, list_versions, promote, register, rollback
from heimdall_export.registry.promotion import moves, refuse_worse
from heimdall_export.registry.versions import RegisteredVersion
from hypothesis import assume, given
from hypothesis import strategies as st
from mlflow import MlflowClient

JUDGED = ("test/error_m_median", "test/nll")
figures = st.floats(-100, 1e6)
not_finite = st.sampled_from([math.nan, math.inf, -math.inf])
sessions = st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True)


def version(number, tags):
    """A version with these tags."""
    return RegisteredVersion(version=number, run_id="r", aliases=(), tags=tags)


def judged_by(error_m, nll=5.0, sessions=("a", "b")):
    """Tags of a version with these figures."""
    return evaluation_tags({"test/error_m_median": error_m, "test/nll": nll}, sessions)


@given(figures, figures, figures, figures)
def test_a_version_passes_when_it_is_no_worse_in_both_figures(error_m, nll, other_m, other_nll):
    """A sharper model that lies about its certainty is worse, and so is a blunt honest one."""
    candidate = version("2", judged_by(error_m, nll))
    present = version("1", judged_by(other_m, other_nll))
    if error_m <= other_m and nll <= other_nll:
        refuse_worse(candidate, present)
    else:
        with pytest.raises(ExportError, match="version 2 is worse than version 1, which is in pr"):
            refuse_worse(candidate, present)


def test_the_figures_that_are_worse_are_told():
    """The operator decides by them whether to force it."""
    told = r"production: test/error_m_median 1200 against 1000; keep the present one, or force it"
    with pytest.raises(ExportError, match=told):
        refuse_worse(version("2", judged_by(1200.0)), version("1", judged_by(1000.0)))


@given(sessions, sessions)
def test_figures_compare_on_the_same_sessions_only(tested, others):
    """An easy test set makes any model look better; the order of a split does not matter."""
    candidate = version("2", judged_by(1.0, 1.0, tested))
    refuse_worse(candidate, version("1", judged_by(1000.0, sessions=reversed(tested))))
    assume(set(tested) != set(others))
    with pytest.raises(ExportError, match="version 2 was tested on other sessions than version 1"):
        refuse_worse(candidate, version("1", judged_by(1000.0, sessions=others)))


@given(st.dictionaries(st.sampled_from(JUDGED), figures | not_finite))
def test_a_version_without_figures_is_refused_by_their_names(metrics):
    """Also as the first one: production is no place to find out."""
    missing = [name for name in JUDGED if not math.isfinite(metrics.get(name, math.nan))]
    assume(missing)
    with pytest.raises(ExportError, match=f"version 2 has no {' and no '.join(missing)};"):
        refuse_worse(version("2", evaluation_tags(metrics, [])), None)


@given(st.text().filter(lambda text: "{" not in text) | st.lists(figures).map(json.dumps))
def test_a_tag_without_metrics_is_shown(text):
    """It was edited by hand, and the operator must see what is there."""
    with pytest.raises(ExportError) as refused:
        refuse_worse(version("2", {"metrics": text}), None)
    assert f"tag 'metrics' of version 2 holds no metrics: {text:.100};" in str(refused.value)


@given(st.dictionaries(st.text(), figures))
def test_the_tags_keep_the_metrics_of_the_test_part(metrics):
    """What was measured on training sessions says nothing of a model's worth."""
    kept = json.loads(evaluation_tags(metrics | {"test/nll": 1.0}, [])["metrics"])
    wanted = {name: value for name, value in metrics.items() if name.startswith("test/")}
    assert kept == wanted | {"test/nll": 1.0}


def test_what_is_in_production_without_figures_blocks_nobody():
    """It was forced there, or is older than the rule."""
    refuse_worse(version("2", judged_by(1.0)), version("1", {}))


@pytest.fixture
def two(tracker, onnx_path, model_name):
    """Registers a good version and a worse one; the model's name."""
    for error_m in (1000.0, 2000.0):
        register(tracker, onnx_path, model_name=model_name, tags=judged_by(error_m))
    return model_name


def test_a_worse_version_goes_into_production_by_force_alone(tracking_uri, two):
    """Nothing moves when it is refused."""
    promote(tracking_uri, two, "1")
    with pytest.raises(ExportError, match="version 2 is worse than version 1"):
        promote(tracking_uri, two, "2")
    assert "production" in list_versions(tracking_uri, two)[1].aliases
    promote(tracking_uri, two, "2", force=True)
    assert "production" in list_versions(tracking_uri, two)[0].aliases
    promote(tracking_uri, two, "2")


def test_who_moved_production_and_why_is_recorded(tracking_uri, two):
    """After an incident somebody asks."""
    promote(tracking_uri, two, "1", reason="first field test")
    promote(tracking_uri, two, "2", reason="x" * 500, force=True)
    rollback(tracking_uri, two, reason="sigma too small at night")
    done = moves(tracking_uri, two)
    assert [(move.action, move.version) for move in done] == [
        ("promote", "1"),
        ("promote", "2"),
        ("rollback", "1"),
    ]
    assert {move.by for move in done} == {getpass.getuser()}
    assert [move.why for move in done] == [
        "first field test",
        "x" * 100,
        "sigma too small at night",
    ]
    assert all(move.at.endswith("+00:00") for move in done)


def test_a_record_that_is_none_is_told(tracking_uri, two):
    """A tag can be edited by hand."""
    MlflowClient(tracking_uri).set_registered_model_tag(two, "production.log", json.dumps([{}]))
    with pytest.raises(ExportError, match=r"'production.log' of .* is not a log: \[\{\}\]; delete"):
        moves(tracking_uri, two)


def test_a_record_that_somebody_edited_is_written_anew(tracking_uri, two):
    """The tag is a copy of the journal; a slip of the hand must not cost the history."""
    promote(tracking_uri, two, "1")
    client = MlflowClient(tracking_uri)
    client.set_registered_model_tag(two, "production.log", "x")
    promote(tracking_uri, two, "2", force=True)
    log = json.loads(client.get_registered_model(two).tags["production.log"])
    assert [entry["version"] for entry in log] == ["1", "2"]


def test_the_record_of_an_earlier_heimdall_is_taken_over(tracking_uri, two):
    """It kept the tag alone; the way back must lead along it."""
    client = MlflowClient(tracking_uri)
    by = {"at": "2026-01-01T00:00:00+00:00", "by": "ann", "why": ""}
    log = [{"action": "promote", "version": number, **by} for number in "12"]
    client.set_registered_model_tag(two, "production.log", json.dumps(log))
    client.set_registered_model_alias(two, "production", "2")
    assert [(move.version, move.by) for move in moves(tracking_uri, two)] == [
        ("1", "ann"),
        ("2", "ann"),
    ]
    assert rollback(tracking_uri, two) == "1"
