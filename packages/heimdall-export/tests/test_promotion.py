"""What may go into production, and the record of what did."""

import getpass
import json

import pytest
from heimdall_export import ExportError, evaluation_tags, list_versions, promote, register, rollback
from heimdall_export.registry.promotion import moves, refuse_worse
from heimdall_export.registry.registry import RegisteredVersion
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

figures = st.floats(-100, 1e6)


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


def test_figures_of_other_sessions_do_not_compare():
    """An easy test set makes any model look better."""
    candidate = version("2", judged_by(1.0, 1.0, sessions=("a", "c")))
    with pytest.raises(ExportError, match="version 2 was tested on other sessions than version 1"):
        refuse_worse(candidate, version("1", judged_by(1000.0)))


def test_the_order_of_the_sessions_does_not_matter():
    """The same split may be listed otherwise."""
    assert judged_by(1.0, sessions=("b", "a")) == judged_by(1.0)


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({}, "has no test/error_m_median and no test/nll"),
        (evaluation_tags({"test/error_m_median": 1.0}, []), "has no test/nll"),
        (judged_by(float("nan")), "has no test/error_m_median"),
        ({"metrics": "good"}, "tag 'metrics' of version 2 holds no metrics: good"),
        ({"metrics": "[1]"}, "holds no metrics"),
    ],
)
def test_a_version_without_figures_is_refused(tags, told):
    """Also as the first one: production is no place to find out."""
    with pytest.raises(ExportError, match=told):
        refuse_worse(version("2", tags), None)


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


def test_the_record_fits_into_a_tag_for_ever(tracking_uri, two):
    """MLflow refuses longer values, and a promotion must not fail for that."""
    for number in range(25):
        promote(tracking_uri, two, "12"[number % 2], reason="r" * 200, force=True)
    assert len(moves(tracking_uri, two)) == 20
    assert moves(tracking_uri, two)[-1].version == "1"


def test_a_record_that_is_none_is_told(tracking_uri, two):
    """A tag can be edited by hand."""
    MlflowClient(tracking_uri).set_registered_model_tag(two, "production.log", json.dumps([{}]))
    with pytest.raises(ExportError, match=r"'production.log' of .* is not a log: \[\{\}\]; delete"):
        moves(tracking_uri, two)


def test_what_cannot_be_recorded_is_not_done(tracking_uri, two):
    """An error after the move would say that nothing had happened."""
    promote(tracking_uri, two, "1")
    promote(tracking_uri, two, "2", force=True)
    MlflowClient(tracking_uri).set_registered_model_tag(two, "production.log", "x")
    for act in (lambda: promote(tracking_uri, two, "1"), lambda: rollback(tracking_uri, two)):
        with pytest.raises(ExportError, match=r"production\.log"):
            act()
        assert "production" in list_versions(tracking_uri, two)[0].aliases
