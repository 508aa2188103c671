"""Configuration of a network and its training: one frozen record, kept in every checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

from heimdall_models.errors import ModelError, OptionError

HUB = "hub"
"""Value of `weights` that asks timm's hub instead of a file."""
MOST_EPOCHS = 100_000

_TYPES: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "str | None": (str, type(None)),
}
"""Types of JSON values that a field accepts, by its annotation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizationConfig:
    """Network and optimiser of one training run.

    Raises:
        ModelError: If a value is out of range. Names of backbones and weights are checked where
            the network is built, because that needs timm.
    """

    n_receivers: int = 3
    """Number of receivers that the model listens to."""
    backbone: str = "convnext_large"
    """Any timm backbone."""
    weights: str | None = None
    """Local file of pretrained backbone weights, or `hub` for timm's; none for random weights."""
    freeze_backbone: bool = False
    """Train the heads alone, to the end."""
    unfreeze_epoch: int = 0
    """Epoch from which the backbone learns, counted from 0; the heads learn alone before."""
    unfreeze_every: int = 0
    """Epochs from one stage of the backbone to the next, the last stage first; 0 is all at once."""
    sigma_min: float = 0.01
    """Smallest standard deviation the model may claim, in units of the region."""
    sigma_max: float = 1.0
    """Largest standard deviation the model may claim, in units of the region."""
    tilted: bool = False
    """Tilt the ellipses of levels; the model file then has a third output, `correlations`."""
    n_components: int = 1
    """Gaussians in an answer; with more than 1 the model file also has their `weights`, `means` and
    `covariances`."""
    dropout: float = 0.5
    """Share of the backbone's vector that training leaves out at random."""
    drop_path: float = 0.0
    """Stochastic depth: share of the backbone's blocks that training leaves out at random."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, of the backbone; see --head_rate."""
    head_rate: float = 5.0
    """Learning rate of the heads over that of the backbone."""
    weight_decay: float = 0.05
    """Weight decay of AdamW; norms and biases have none."""
    warmup_fraction: float = 0.1
    """Share of all steps in which the learning rate rises; then it falls along a cosine."""
    channels_last: bool = True
    """Keep images with the channels innermost, as fast convolutions want them."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: slower steps, less memory."""
    compile: bool = False
    """Compile the backbone with torch.compile: takes minutes, and on a CPU gains nothing."""

    def __post_init__(self) -> None:
        require(self, "learning_rate", 0 < self.learning_rate <= 1e9, "above 0, at most 1e9")
        require(self, "head_rate", 0 < self.head_rate <= 1000, "above 0, at most 1,000")
        for name in ("dropout", "drop_path", "warmup_fraction"):
            require(self, name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        require_within(self, 0, MOST_EPOCHS, "unfreeze_epoch", "unfreeze_every")
        require_within(self, 1, 1000, "n_receivers")
        require_within(self, 1, 32, "n_components")
        require_within(self, 0, 1000, "weight_decay", "sigma_max")
        require(self, "sigma_min", 0 < self.sigma_min < self.sigma_max, "above 0, below sigma_max")
        if self.freeze_backbone and self.unfreezes:
            raise ModelError(
                "freeze_backbone keeps the backbone frozen to the end; leave it out to unfreeze "
                f"from epoch {self.unfreeze_epoch}"
            )

    @property
    def unfreezes(self) -> bool:
        """True if the backbone starts frozen and learns later."""
        return self.unfreeze_epoch > 0 or self.unfreeze_every > 0

    def to_json(self) -> str:
        """The record as one JSON object."""
        # Without the training options of a subclass.
        names = [each.name for each in fields(LocalizationConfig)]
        return json.dumps({name: getattr(self, name) for name in names})

    @classmethod
    def from_json(cls, text: str) -> LocalizationConfig:
        """The record that `to_json` wrote; missing fields have their defaults.

        Raises:
            ModelError: If the text is no such record, or a field is unknown or has a wrong value.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise ModelError(f"{text[:80]!r} is not a model's configuration")
        if unknown := sorted(set(values) - {field.name for field in fields(cls)}):
            raise ModelError(
                f"the model's configuration has unknown fields {', '.join(unknown)}; use the "
                "version of heimdall-models that wrote it"
            )
        for field in fields(cls):
            value = values.get(field.name, field.default)
            if not isinstance(value, _TYPES[str(field.type)]):
                raise ModelError(
                    f"the model's configuration has {field.name} {value!r}, not {field.type}"
                )
        return cls(**values)


def require_within(options: object, least: float, most: float, *names: str) -> None:
    """Refuse the options of these names that are not from `least` to `most`.

    Raises:
        OptionError: One of them is not, or is NaN.
    """
    for name in names:
        within = least <= getattr(options, name) <= most
        require(options, name, within, f"from {least:,} to {most:,}")


def require(options: object, name: str, holds: bool, what: str) -> None:  # noqa: FBT001
    """Refuse the option `name` unless its condition holds; `what` completes "it must be".

    Raises:
        OptionError: The condition does not hold.
    """
    if not holds:
        value = getattr(options, name)
        raise OptionError(f"{name} is {None if value == () else value!r}; it must be {what}")
