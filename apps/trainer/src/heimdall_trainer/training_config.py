"""What `heimdall train` can be told: one frozen value, the same from flags and from Python."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from heimdall_data.session_filter import SessionFilter

from heimdall_trainer.errors import UsageError

__all__ = ["TrainingConfig"]

FILTER = Parameter(name="*", negative="", consume_multiple=True)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train, on what, and what to call the result."""

    epochs: int = 100
    """Most passes over the training split."""
    batch_size: int = 32
    """Sessions in a batch."""
    learning_rate: Annotated[float, Parameter(name=("--learning-rate", "--lr"))] = 1e-3
    """Peak learning rate of AdamW."""
    validation_split: Annotated[float, Parameter(name=("--validation-split", "--val-split"))] = 0.2
    """Fraction of the groups that chooses the checkpoint."""
    test_split: float = 0.1
    """Fraction of the groups that nothing but the final evaluation sees."""
    split_by: Literal["source", "session", "time", "region"] = "source"
    """What a group is: nothing of one group is on two sides of the split."""
    num_workers: int = 0
    """Processes that load batches; 0 loads them in the training process."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu."""
    devices: str = "auto"
    """Lightning's devices: auto, a count, or a list such as 0,1."""
    num_nodes: int = 1
    """Machines that train together."""
    precision: str = "32-true"
    """Lightning's precision: 32-true, bf16-mixed, 16-mixed."""
    checkpoint_dir: Path | None = None
    """Where checkpoints go; a folder of the run under the state directory when unset."""
    checkpoint: Path | None = None
    """A checkpoint to resume from or to export."""
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
    backbone: str = "convnext_large"
    """Any timm backbone."""
    weights: Path | None = None
    """Local file of pretrained backbone weights; none starts from random weights."""
    freeze_backbone: bool = False
    """Train the heads alone."""
    n_receivers: int = 3
    """How many receivers the model listens to."""
    receivers: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()
    """Which receivers, in channel order; the most often present when not given."""
    only: Annotated[SessionFilter, FILTER] = SessionFilter()  # noqa: RUF009 - frozen
    sample_rate_hz: float | None = None
    """Rate that every recording is brought to; the most common one when unset."""
    patience: int = 10
    """Epochs without a better validation loss before training stops."""
    seed: int = 42
    """Seed of the split, the weights, the order of the data and the augmentation."""
    sigma_min: float = 0.01
    """Smallest standard deviation the model may claim, in units of the region."""
    sigma_max: float = 1.0
    """Largest standard deviation the model may claim, in units of the region."""
    augment: bool = True
    """Vary the training features as the radio channel does."""
    opset: int = 20
    """ONNX operator set of the exported model."""
    quantize: Literal["none"] = "none"
    """Precision of the exported model; only float32 for now."""
    max_excluded: float = 0.1
    """Largest fraction of unusable sessions that a run puts up with."""
    cache_gb: float = 100.0
    """Most that computed features may take on disk, in GB; what was used longest ago goes."""
    summary: Path | None = None
    """Write the run's summary to this JSON file."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: A value is out of its range; the message names it.
        """
        for name in ("epochs", "batch_size", "n_receivers", "patience", "num_nodes"):
            self._need(name, getattr(self, name) >= 1, "a whole number of at least 1")
        for name in ("num_workers", "seed"):
            self._need(name, getattr(self, name) >= 0, "a whole number of at least 0")
        finite = math.isfinite(self.learning_rate)
        self._need("learning_rate", finite and self.learning_rate > 0, "a positive number")
        for name in ("validation_split", "test_split"):
            self._need(name, 0 < getattr(self, name) < 1, "a fraction between 0 and 1")
        total = self.validation_split + self.test_split
        self._need("validation_split", total < 1, "less than 1 together with test_split")
        self._need("max_excluded", 0 <= self.max_excluded <= 1, "a fraction from 0 to 1")
        rate = self.sample_rate_hz
        self._need("sample_rate_hz", rate is None or 0 < rate < math.inf, "a positive rate")
        self._need("cache_gb", 0 < self.cache_gb < math.inf, "a positive number")
        self._need("sigma_min", 0 < self.sigma_min < self.sigma_max, "above 0, below sigma_max")
        self._need("sigma_max", self.sigma_max < math.inf, "finite")
        named = self.receivers
        self._need("receivers", len(set(named)) == len(named), "a list without repetition")
        if self.export_only:
            self._need("checkpoint", self.checkpoint is not None, "given with --export_only")

    def _need(self, name: str, holds: bool, what: str) -> None:  # noqa: FBT001
        if not holds:
            raise UsageError(f"--{name} is {getattr(self, name)!r}; it must be {what}")

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Fractions of the training, validation and test split."""
        rest = 1 - self.validation_split - self.test_split
        return (rest, self.validation_split, self.test_split)
