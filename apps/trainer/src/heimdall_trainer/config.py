"""Configuration of `heimdall train`, with the flags of `heimdall_models.training.options`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CoercionError, Parameter
from heimdall_data.catalogue.session import SessionFilter
from heimdall_export.contract import DEFAULT_OPSET, OPSETS, allowed_model_name
from heimdall_models import LocalizationConfig, ModelError
from heimdall_models.config import require, require_within
from heimdall_models.training.options import TrainingOptions

from heimdall_trainer.errors import UsageError

if TYPE_CHECKING:
    from cyclopts import ArgumentCollection

FILTER = Parameter(name="*", group="Which sessions", negative="", consume_multiple=True, parse=True)


# The options of training are inherited, not nested, so that `TrainingConfig(epochs=3)` stays as
# flat as the flags are, and the value is itself what `heimdall_models.training` takes.
@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainingConfig(TrainingOptions):
    """Configuration of a training: its data, its network and the names of its results.

    Raises:
        UsageError: A value is out of its range; the message names it.
    """

    learning_rate: Annotated[float, Parameter(name=("--learning-rate", "--lr"))] = 1e-3
    validation_split: Annotated[float, Parameter(name=("--validation-split", "--val-split"))] = 0.2
    """Fraction of the groups that chooses the checkpoint."""
    test_split: float = 0.1
    """Fraction of the groups that nothing but the final evaluation sees."""
    split_by: Literal["source", "session", "time", "region"] = "source"
    """Kind of the groups that the split keeps together."""
    checkpoint_dir: Path | None = None
    """Folder of checkpoints; a folder of the run under the state directory when unset."""
    checkpoint: Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative="")] = ()
    """A checkpoint to resume from or to export; several are exported as one ensemble."""
    export_only: bool = False
    """Export and register --checkpoint without training."""
    resume_training: bool = False
    """Go on from --checkpoint, or from the newest one in --checkpoint-dir."""
    experiment_name: str = "heimdall-localization"
    """MLflow experiment."""
    run_name_prefix: str = "rf-localization"
    """MLflow run name before the time."""
    model_name: str = "heimdall-localization-onnx"
    """Name in the MLflow registry."""
    features: Literal["mel", "mel+timing"] = "mel"
    """Inputs of the model: levels alone, or also each receiver's arrival time."""
    receivers: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()
    """Receivers in channel order; those present most often when not given."""
    only: Annotated[SessionFilter, FILTER] = SessionFilter()  # noqa: RUF009 - frozen
    sample_rate_hz: float | None = None
    """Rate that every recording is brought to; the most common one when unset."""
    augment: bool = True
    """Vary the training features as the radio channel does."""
    opset: int = DEFAULT_OPSET
    """ONNX operator set of the exported model, 14 (for old runtimes) to 26."""
    quantize: Literal["none", "fp16", "bf16", "int8", "int4", "auto"] = "none"
    """Precision of the exported model; auto takes the fastest that is as good on validation."""
    max_excluded: float = 0.1
    """Largest fraction of unusable sessions that a run puts up with."""
    cache_gb: float = 100.0
    """Most that computed features may take on disk, in GB; what was used longest ago goes."""
    summary: Path | None = None
    """Write the run's summary to this JSON file."""

    def __post_init__(self) -> None:
        try:
            TrainingOptions.__post_init__(self)
            self._check()
        except ModelError as error:
            raise UsageError(f"--{error}") from error

    def _check(self) -> None:
        from heimdall_features.names import composed, is_printable  # NumPy, needless for --help

        for name in ("experiment_name", "model_name", "run_name_prefix"):
            object.__setattr__(self, name, composed(getattr(self, name)))
        object.__setattr__(self, "receivers", tuple(map(composed, self.receivers)))
        for name in ("validation_split", "test_split"):
            require(self, name, 0 < getattr(self, name) < 1, "a fraction between 0 and 1")
        total = self.validation_split + self.test_split
        require(self, "validation_split", total < 1, "less than 1 together with test_split")
        require_within(self, 0, 1, "max_excluded")
        rate = self.sample_rate_hz
        require(self, "sample_rate_hz", rate is None or 0 < rate <= 1e9, "above 0, at most 1e9")
        require(self, "cache_gb", 0 < self.cache_gb <= 1e6, "above 0, at most 1,000,000")
        once = len(set(self.receivers)) == len(self.receivers)
        require(self, "receivers", once, "a list without repetition")
        require(self, "opset", self.opset in OPSETS, f"from {OPSETS[0]} to {OPSETS[-1]}")
        # MLflow and the file system would refuse these too, but after the training.
        for name, letters, what in (
            ("experiment_name", r"(?!\s*$).+", "a printable name on one line"),
            ("model_name", r"(?!\s*$)[^/:]+", "a printable name on one line without / and :"),
            ("run_name_prefix", r"[^/]*", "the begin of a file's name, without /"),
        ):
            value = getattr(self, name)
            require(self, name, bool(re.fullmatch(letters, value)) and is_printable(value), what)
        allowed = allowed_model_name(self.model_name)
        require(self, "model_name", not allowed, allowed)
        n_given = len(self.checkpoint)
        if self.export_only:
            require(self, "checkpoint", n_given >= 1, "given with --export_only")
            require(self, "ensemble", self.ensemble == 1, "1 with --export_only: give --checkpoint")
        else:
            require(self, "checkpoint", n_given <= 1, "one, or used with --export_only")
        if self.ensemble > 1:
            alone = "left out: --checkpoint_dir tells what to resume"
            require(self, "checkpoint", not n_given, alone)

    def network(self, n_receivers: int) -> LocalizationConfig:
        """The network and its optimiser, for a number of receivers."""
        own = {field.name: getattr(self, field.name) for field in fields(LocalizationConfig)}
        tilted = self.tilted or self.features == "mel+timing"
        return LocalizationConfig(**own | {"n_receivers": n_receivers, "tilted": tilted})

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Fractions of the training, validation and test split."""
        rest = 1 - self.validation_split - self.test_split
        return (rest, self.validation_split, self.test_split)


OF_DATA = ("receivers", "sample_rate_hz", "cache_gb")
"""Fields that choose the data, beside the conditions on sessions."""
OF_SPLIT = (*OF_DATA, "seed", "split_by", "validation_split", "test_split", "max_excluded", "opset")
"""Fields that matter to whoever evaluates a model: the split of its training, and the data."""


def whole_numbers_only(
    _app: App, _commands: tuple[str, ...], arguments: ArgumentCollection
) -> None:
    """Refuse a fraction where a whole number is expected, which cyclopts would round.

    Raises:
        CoercionError: A fraction was given.
    """
    for argument in arguments:
        for token in argument.tokens if argument.hint is int else ():
            if re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*", token.value):
                raise CoercionError(token=token, argument=argument, target_type=int)
