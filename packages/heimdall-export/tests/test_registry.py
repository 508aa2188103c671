"""The registry on a real store: which version is used, and what is refused."""

from contextlib import contextmanager

import pytest
from heimdall_export import (
    ExportError,
    evaluation_tags,
    list_versions,
    promote,
    register,
    rollback,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient


@pytest.fixture
def three(tracker, onnx_path, model_name):
    """Registers three equally good versions; the model's name."""
    for _ in range(3):
        register(tracker, onnx_path, model_name=model_name, tags=judged_by(1000.0))
    return model_name


def judged_by(error_m, nll=5.0, sessions=("a", "b")):
    """Tags of a version with these figures."""
    return evaluation_tags({"test/error_m_median": error_m, "test/nll": nll}, sessions)


def production(tracking_uri, name):
    """The version in production, None where there is none."""
    return next(
        (v.version for v in list_versions(tracking_uri, name) if "production" in v.aliases), None
    )


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(wanted=st.lists(st.sampled_from("123"), min_size=2, max_size=6))
def test_rollback_undoes_promotions_one_by_one(tracking_uri, three, wanted):
    """In an incident the way back must be the way there."""
    client = MlflowClient(tracking_uri)
    client.delete_registered_model_tag(three, "production.log")
    if production(tracking_uri, three) is not None:
        client.delete_registered_model_alias(three, "production")
    different = [v for n, v in enumerate(wanted) if n == 0 or v != wanted[n - 1]]
    for version in wanted:
        promote(tracking_uri, three, version)
        assert production(tracking_uri, three) == version
    for version in reversed(different[:-1]):
        assert rollback(tracking_uri, three) == version
        assert production(tracking_uri, three) == version
    with pytest.raises(ExportError, match="has no predecessor in production"):
        rollback(tracking_uri, three)


def test_versions_are_listed_newest_first_with_aliases_and_tags(tracking_uri, three, tracker):
    """The list is what an operator decides by."""
    promote(tracking_uri, three, "2")
    found = list_versions(tracking_uri, three)
    assert [version.version for version in found] == ["3", "2", "1"]
    assert [version.aliases for version in found] == [("staging",), ("production",), ()]
    assert [version.tags["stage"] for version in found] == ["Staging", "Production", "Staging"]
    assert {version.run_id for version in found} == {tracker.run_id}


def test_one_version_at_most_says_it_is_in_production(tracking_uri, three):
    """The tag is for those who cannot read aliases; it must not contradict them."""
    promote(tracking_uri, three, "1")
    promote(tracking_uri, three, "3")
    rollback(tracking_uri, three)
    stages = {v.version: v.tags["stage"] for v in list_versions(tracking_uri, three)}
    assert stages == {"1": "Production", "2": "Staging", "3": "Archived"}


def test_rollback_passes_over_a_version_that_was_deleted(tracking_uri, three):
    """Production must never point at nothing."""
    for version in ("1", "2", "3"):
        promote(tracking_uri, three, version)
    MlflowClient(tracking_uri).delete_model_version(three, "2")
    assert rollback(tracking_uri, three) == "1"


def test_an_alias_that_others_moved_is_believed(tracking_uri, three):
    """The backend may promote too; rollback then returns to what was really there."""
    promote(tracking_uri, three, "1")
    MlflowClient(tracking_uri).set_registered_model_alias(three, "production", "2")
    promote(tracking_uri, three, "3")
    assert rollback(tracking_uri, three) == "2"
    assert rollback(tracking_uri, three) == "1"


def test_a_model_that_nobody_registered_has_no_versions(tracking_uri, model_name):
    """`heimdall models list` on a fresh machine shows nothing and is no error."""
    assert list_versions(tracking_uri, model_name) == ()


def test_a_version_that_is_not_there_is_refused_with_those_that_are(tracking_uri, three):
    """The operator mistyped, and wants to see what could have been meant."""
    with pytest.raises(ExportError, match="has no version '7'; it has 3, 2, 1"):
        promote(tracking_uri, three, "7")
    assert production(tracking_uri, three) is None


def test_rollback_without_production_says_what_to_do(tracking_uri, three):
    """Nothing was promoted yet."""
    with pytest.raises(ExportError, match=r"no version of .* is in production; promote one"):
        rollback(tracking_uri, three)


def test_a_history_that_is_none_is_told(tracking_uri, three):
    """A tag can be edited by hand."""
    promote(tracking_uri, three, "1")
    MlflowClient(tracking_uri).set_registered_model_tag(three, "production.log", "yesterday")
    with pytest.raises(ExportError, match="yesterday"):
        rollback(tracking_uri, three)


def test_a_name_that_a_prompt_has_is_refused(tracker, tracking_uri, onnx_path, model_name):
    """MLflow keeps prompts among the models; a model under such a name loads for nobody."""
    MlflowClient(tracking_uri).register_prompt(model_name, "Where is {{transmitter}}?")
    with pytest.raises(ExportError, match=f"'{model_name}'.* already taken by a prompt"):
        register(tracker, onnx_path, model_name=model_name, tags={})
    assert list_versions(tracking_uri, model_name) == ()


def test_a_name_that_mlflow_forbids_is_told(tracker, onnx_path):
    """Slashes would make `models:/` addresses ambiguous."""
    with pytest.raises(ExportError, match=r"MLflow cannot register 'a/b'"):
        register(tracker, onnx_path, model_name="a/b", tags={})


@pytest.mark.parametrize(
    ("contents", "said"),
    [(b"not a model", "is not an ONNX file"), (b"", "has inputs \\[\\]")],
)
def test_a_file_that_is_no_model_is_not_registered(
    tracker, tracking_uri, model_name, tmp_path, contents, said
):
    """A registered version that does not load stops a deployment."""
    (tmp_path / "m.onnx").write_bytes(contents)
    with pytest.raises(ExportError, match=said):
        register(tracker, tmp_path / "m.onnx", model_name=model_name, tags={})
    assert list_versions(tracking_uri, model_name) == ()


def test_an_example_that_does_not_fit_is_refused(tracker, onnx_path, model_name, features):
    """The example in the registry is what people try first."""
    with pytest.raises(ExportError, match=r"input example is \(1, 2, 128, 32\)"):
        register(tracker, onnx_path, model_name=model_name, tags={}, input_example=features[:1, :2])


@contextmanager
def interrupted(monkeypatch, step):
    """Ctrl-C arrives as MLflow is asked for one step."""

    def ctrl_c(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            yield


STEPS = ("set_registered_model_alias", "set_registered_model_tag", "set_model_version_tag")


@pytest.mark.parametrize("step", STEPS)
def test_a_promotion_that_was_interrupted_can_be_repeated(tracking_uri, three, monkeypatch, step):
    """The operator sees an error, and types the same line again."""
    promote(tracking_uri, three, "1")
    with interrupted(monkeypatch, step):
        promote(tracking_uri, three, "2")
    promote(tracking_uri, three, "2")
    stages = {v.version: v.tags["stage"] for v in list_versions(tracking_uri, three)}
    assert stages == {"1": "Archived", "2": "Production", "3": "Staging"}
    assert production(tracking_uri, three) == "2"
    assert rollback(tracking_uri, three) == "1"


@pytest.mark.parametrize("step", STEPS[:2])
def test_a_rollback_that_was_interrupted_goes_to_the_same_version(
    tracking_uri, three, monkeypatch, step
):
    """In an incident, typing it twice must not bring the bad version back."""
    for version in ("3", "2", "3"):
        promote(tracking_uri, three, version)
    with interrupted(monkeypatch, step):
        rollback(tracking_uri, three)
    assert production(tracking_uri, three) == "3"
    assert rollback(tracking_uri, three) == "2"


def test_a_registration_that_was_interrupted_leaves_no_version(
    tracker, tracking_uri, onnx_path, model_name, monkeypatch
):
    """A version without an alias would be a model that nobody decided about."""
    with interrupted(monkeypatch, "set_registered_model_alias"):
        register(tracker, onnx_path, model_name=model_name, tags={})
    assert list_versions(tracking_uri, model_name) == ()
