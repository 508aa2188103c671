"""The record that travels inside every checkpoint."""

import re

import pytest
from heimdall_models import LocalizationConfig, ModelError
from hypothesis import given
from hypothesis import strategies as st

configs = st.builds(
    LocalizationConfig,
    n_receivers=st.integers(1, 20),
    backbone=st.text(max_size=20),
    weights=st.none() | st.text(max_size=20),
    freeze_backbone=st.just(False),
    unfreeze_epoch=st.integers(0, 9),
    compile=st.booleans(),
    learning_rate=st.floats(1e-6, 1),
)


@given(configs)
def test_json_brings_back_the_same_record(config):
    """A checkpoint must rebuild the network that was trained and no other."""
    assert LocalizationConfig.from_json(config.to_json()) == config


def test_a_record_of_an_older_version_still_opens():
    """Fields that did not exist then have their defaults."""
    assert LocalizationConfig.from_json('{"backbone": "resnet18"}').sigma_max == 1.0


negative = st.floats(max_value=0, exclude_max=True)
out_of_range = {
    "n_receivers": st.integers(max_value=0),
    "sigma_min": st.floats(max_value=0) | st.floats(min_value=1),
    "sigma_max": st.just(float("inf")),
    "weight_decay": negative | st.just(float("inf")),
    **dict.fromkeys(("dropout", "drop_path", "warmup_fraction"), negative | st.floats(min_value=1)),
    **dict.fromkeys(("learning_rate", "head_rate"), st.floats(max_value=0) | st.just(float("nan"))),
    **dict.fromkeys(("unfreeze_epoch", "unfreeze_every"), st.integers(max_value=-1)),
}


@given(st.sampled_from(sorted(out_of_range)), st.data())
def test_a_value_out_of_range_is_named(field, data):
    """Found when the record is made, not an hour into training."""
    value = data.draw(out_of_range[field])
    with pytest.raises(ModelError, match=re.escape(f"{field} is {value}; ")):
        LocalizationConfig(**{field: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a model's configuration"),
        ("[1]", "is not a model's configuration"),
        ("[" * 10**5, "is not a model's configuration"),
        ("9" * 5000, "is not a model's configuration"),
        ('{"backbones": "resnet18"}', "unknown fields backbones"),
        ('{"n_receivers": "3"}', "n_receivers '3', not int"),
        ('{"dropout": null}', "dropout None, not float"),
        ('{"backbone": 5}', "backbone 5, not str"),
    ],
)
def test_text_that_is_no_record_is_refused(text, message):
    """A field from a later version may matter; ignoring it would rebuild another network."""
    with pytest.raises(ModelError, match=message):
        LocalizationConfig.from_json(text)


@given(st.integers(1, 99))
def test_a_backbone_that_is_frozen_for_good_cannot_be_unfrozen(epoch):
    """One of the two options would silently overrule the other."""
    with pytest.raises(ModelError, match=f"from epoch {epoch}"):
        LocalizationConfig(freeze_backbone=True, unfreeze_epoch=epoch)
