"""Configuration of a network and its training: one frozen record, kept in every checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from heimdall_models.errors import ModelError

__all__ = ["LocalizationConfig"]

_TYPES: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "str | None": (str, type(None)),
}
"""Types that a JSON value of a field may have: a stranger's record may hold anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizationConfig:
    """Network and optimiser of one training run.

    Raises:
        ModelError: If a value is out of range. Names of backbones and weights are checked where
            the network is built, because that needs timm.
    """

    n_receivers: int = 3
    backbone: str = "convnext_large"
    weights: str | None = None
    """Start of the backbone: None for random weights, a local file, or `hub`."""
    freeze_backbone: bool = False
    """Train the heads alone, to the end."""
    unfreeze_epoch: int = 0
    """Epoch from which the backbone learns; the heads learn alone before."""
    unfreeze_every: int = 0
    """Epochs from one stage of the backbone to the next, the last stage first; 0 is all at once."""
    sigma_min: float = 0.01
    sigma_max: float = 1.0
    """Bounds of the standard deviations in plane units."""
    tilted: bool = False
    """Tilt ellipses as the posterior by levels is; a model file then has a correlation output."""
    dropout: float = 0.5
    """Share of the backbone's vector that is left out at random."""
    drop_path: float = 0.0
    """Stochastic depth rate."""
    learning_rate: float = 1e-3
    """The backbone's peak, reached after the warm-up."""
    head_rate: float = 5.0
    """Learning rate of the heads over the backbone's."""
    weight_decay: float = 0.05
    """Applied to matrices and kernels, not to norms and biases."""
    warmup_fraction: float = 0.1
    """Share of all steps in which the learning rate rises; then it falls along a cosine."""
    channels_last: bool = True
    """Keep the backbone's kernels with the channels innermost, as fast convolutions want them."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile the backbone with torch.compile; the checkpoints are the same."""

    def __post_init__(self) -> None:
        limits = {
            "n_receivers": self.n_receivers >= 1,
            "sigma_min": 0 < self.sigma_min < self.sigma_max,
            "sigma_max": self.sigma_max < float("inf"),
            "dropout": 0 <= self.dropout < 1,
            "drop_path": 0 <= self.drop_path < 1,
            "learning_rate": 0 < self.learning_rate < float("inf"),
            "head_rate": 0 < self.head_rate < float("inf"),
            "weight_decay": 0 <= self.weight_decay < float("inf"),
            "warmup_fraction": 0 <= self.warmup_fraction < 1,
            "unfreeze_epoch": self.unfreeze_epoch >= 0,
            "unfreeze_every": self.unfreeze_every >= 0,
        }
        for name, holds in limits.items():
            if not holds:
                raise ModelError(f"{name} is {getattr(self, name)!r}, out of range")
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
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LocalizationConfig:
        """The record that `to_json` wrote; fields that it lacks have their defaults.

        Raises:
            ModelError: If the text is not that, names a field that we do not know, or a value is
                of the wrong type or out of range.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ModelError(f"{text[:80]!r} is not a model's configuration: {error}") from error
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
