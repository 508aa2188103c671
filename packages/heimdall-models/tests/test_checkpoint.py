"""Files that are no checkpoint of ours: one clear refusal each."""

import os
import pickle
import re

import pytest
import torch
from heimdall_models import LocalizationConfig, LocalizationModule, ModelError, Region
from heimdall_models.checkpoint import Format, model_record
from heimdall_models.trained import Trained
from hypothesis import given, settings
from hypothesis import strategies as st

REGION = Region(45.0, 8.2, 1e5)
CONFIG = LocalizationConfig(backbone="test_convnext")


@pytest.fixture(scope="module")
def contents():
    """What Lightning writes, less what only resuming needs."""
    module = LocalizationModule(CONFIG, REGION, [[[0.0]]] * 3, [[[1.0]]] * 3)
    return {"state_dict": module.state_dict(), "heimdall_models": model_record(CONFIG, REGION)}


def refused(path, message):
    """Loading raises the one error, and its message starts from the file."""
    with pytest.raises(ModelError, match=message) as caught:
        Trained.open(path)
    assert path.name in str(caught.value)


def saved(tmp_path, contents):
    """The contents as a PyTorch file."""
    torch.save(contents, path := tmp_path / "model.ckpt")
    return path


def test_loading_does_not_look_for_the_weights_that_training_started_from(tmp_path, contents):
    """That file was on another machine; the checkpoint has every weight, and opens."""
    config = LocalizationConfig(backbone="test_convnext", weights="/gone/weights.safetensors")
    record = model_record(config, REGION)
    module = Trained.open(saved(tmp_path, {**contents, "heimdall_models": record})).single.module
    assert module.config == config


@settings(max_examples=30)
@given(st.none() | st.just(pickle.dumps({"state_dict": {}})) | st.binary())
def test_a_file_that_is_absent_or_of_another_kind_is_refused(tmp_path_factory, content):
    """Not a traceback from the unpickler: no file, a bare pickle, any bytes."""
    path = tmp_path_factory.mktemp("other") / "model.ckpt"
    if content is not None:
        path.write_bytes(content)
    refused(path, "no checkpoint at" if content is None else "is not a PyTorch checkpoint, or was")


@settings(max_examples=20)
@given(kept=st.floats(0, 0.9999))
def test_a_truncated_file_is_refused(tmp_path_factory, contents, kept):
    """A full disk or a broken copy."""
    path = saved(tmp_path_factory.mktemp("cut"), contents)
    os.truncate(path, int(path.stat().st_size * kept))
    refused(path, "was cut short")


def test_a_damaged_file_is_refused(tmp_path, contents):
    """The archive's directory survives, its contents do not."""
    path = saved(tmp_path, contents)
    whole = bytearray(path.read_bytes())
    whole[50:500] = bytes(450)
    path.write_bytes(whole)
    refused(path, "is not a PyTorch checkpoint|holds pickled objects|no checkpoint of")


def test_pickled_code_is_refused_and_not_run(tmp_path, contents):
    """A checkpoint from a stranger must not be a program."""
    ran = tmp_path / "ran"

    class Malice:
        def __reduce__(self):
            return ran.touch, ()

    refused(saved(tmp_path, {**contents, "extra": Malice()}), "holds pickled objects")
    assert not ran.exists()


@pytest.mark.parametrize("other", [{"state_dict": {}}, {"epoch": 1}, [1, 2], torch.zeros(2)])
def test_somebody_else_s_pytorch_file_is_refused(tmp_path, other):
    """Another project's checkpoint has weights too."""
    refused(saved(tmp_path, other), "no checkpoint")


def test_weights_of_another_architecture_are_refused(tmp_path, contents):
    """The record says one backbone, the weights are another's."""
    config = LocalizationConfig(backbone="test_resnet")
    record = {**contents, "heimdall_models": model_record(config, REGION)}
    refused(saved(tmp_path, record), "of another architecture than its test_resnet")


def test_a_checkpoint_without_statistics_is_refused(tmp_path, contents):
    """Without them every input would mean something else."""
    state = {name: v for name, v in contents["state_dict"].items() if name != "standardize.std"}
    refused(saved(tmp_path, {**contents, "state_dict": state}), "lacks standardize.std")


@given(st.integers(2, 99), st.none() | st.from_regex(r"\d\.\d\.\d", fullmatch=True))
def test_a_newer_record_names_the_version_that_opens_it(found, writer):
    """Guessing at a newer record could rebuild another network."""
    record = {"format": found, "version": writer}
    with pytest.raises(ModelError, match=rf"a\.ckpt .*format {found}, .*{writer or 'newer'}"):
        Format("record").migrate({"record": record}, "a.ckpt")


@given(st.integers(max_value=0) | st.none() | st.text() | st.lists(st.integers()))
def test_a_format_that_never_was_is_refused(found):
    """It is damaged, and no newer version would help."""
    with pytest.raises(ModelError, match=re.escape(f"format {found!r}")):
        Format("record").migrate({"record": {"format": found}}, "a.ckpt")


@given(st.integers(1, 6), st.integers(0, 5))
def test_every_step_from_an_older_format_is_taken_once_in_order(first, n_steps):
    """A step knows the format before it and no other."""

    def step(contents):
        record = contents["record"]
        passed = [*record["passed"], record["format"]]
        return {**contents, "record": {"format": record["format"] + 1, "passed": passed}}

    last = first + n_steps
    form = Format("record", last, dict.fromkeys(range(first, last), step))
    older = {"record": {"format": first, "passed": []}, "beside": 1}
    record = {"format": last, "passed": list(range(first, last))}
    assert form.migrate(older, "a.ckpt") == {"record": record, "beside": 1}
    assert form.migrate({"beside": 1}, "a.ckpt") == {"beside": 1}
    assert form.begin()["format"] == last
