"""The record that travels inside every checkpoint."""

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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_receivers", 0),
        ("sigma_min", 0.0),
        ("sigma_max", float("inf")),
        ("dropout", -0.1),
        ("drop_path", 1.0),
        ("head_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -1.0),
        ("warmup_fraction", 1.0),
        ("unfreeze_epoch", -1),
        ("unfreeze_every", -1),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    """Found when the record is made, not an hour into training."""
    with pytest.raises(ModelError, match=f"{field} is {value}; "):
        LocalizationConfig(**{field: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a model's configuration"),
        ("[1]", "is not a model's configuration"),
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


def test_a_backbone_that_is_frozen_for_good_cannot_thaw():
    """Either wish would silently overrule the other."""
    with pytest.raises(ModelError, match="leave it out to unfreeze from epoch 2"):
        LocalizationConfig(freeze_backbone=True, unfreeze_epoch=2)
