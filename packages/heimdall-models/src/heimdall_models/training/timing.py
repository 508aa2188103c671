"""Training of the network of arrival times, beside that of spectrograms and after it.

A session is a few numbers a receiver, so all of them fit in memory, and training takes seconds
where the spectrograms take hours. Too few sessions are refused before those hours. The epoch with
the best validation is kept; an interrupted training goes on after its last whole epoch.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch.utils.data import DataLoader

from heimdall_models.calibration import LEAST_SESSIONS
from heimdall_models.checkpoint import read_checkpoint
from heimdall_models.errors import TrainingError
from heimdall_models.serving import TimedServingNet
from heimdall_models.timing.module import TimingConfig, TimingModule
from heimdall_models.timing.receivers import receiver_sites
from heimdall_models.trained import RunRecord, Trained, save_with_timing
from heimdall_models.training.batches import EpochOrder
from heimdall_models.training.checkpoint_files import (
    TIMING_FOLDER,
    WITH_TIMING,
    BestCheckpoints,
    WholeCheckpoints,
)
from heimdall_models.training.curves import EpochRecord, LearningCurve
from heimdall_models.training.fit import best_checkpoint, pass_on_interrupts, validated
from heimdall_models.training.history import log_epoch
from heimdall_models.training.resume import RunKeeper, run_record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from torch import Tensor

    from heimdall_models import Region
    from heimdall_models.timing.network import TimingNet
    from heimdall_models.training.fit import TrainedModel
    from heimdall_models.training.options import TrainingOptions
    from heimdall_models.training.parts import RunMetrics, SessionDataset, TrainingParts

LOGGER = logging.getLogger(__name__)
FEWEST_TIMED = 50
"""Sessions to train on; the network has some 1,700 weights and starts from geometry."""
LARGEST_BATCH = 128
SMALLEST_BATCH = 8
STEPS_PER_EPOCH = 10
"""Few sessions are divided into this many batches, smaller than the largest."""
GRADIENT_CLIP = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class TimedSessions:
    """Map-style dataset of the sessions with an arrival time at two receivers or more."""

    arrivals: Tensor
    """float32 `(n, receivers, 5)`, as the arrival extractor returns them."""
    target: Tensor
    """float32 `(n, 2)`, plane units."""
    n_asked: int
    """Sessions with and without arrival times."""

    def __len__(self) -> int:
        return len(self.arrivals)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"arrivals": self.arrivals[index], "target": self.target[index]}

    @classmethod
    def of(cls, dataset: SessionDataset, region: Region) -> Self:
        """The timed sessions of a dataset that measures arrivals, without augmentation."""
        plain = dataset.subset(dataset.sessions)
        arrivals = np.stack([plain[index]["arrivals"] for index in range(len(plain))])
        timed = arrivals[..., 0].sum(axis=1) >= 2
        places = np.array([session.position_deg for session in plain.sessions])[timed]
        target = torch.from_numpy(region.to_plane(places)).float()
        return cls(torch.from_numpy(arrivals[timed]), target, len(plain))


class TimedParts(NamedTuple):
    """Sessions that the network of times learns from, and those that calibrate its ellipses."""

    train: TimedSessions
    validation: TimedSessions


def timed_parts(data: TrainingParts) -> TimedParts:
    """The timed sessions of the training and the validation part; the test part stays unseen.

    Raises:
        TrainingError: They are too few to learn from.
    """
    train = TimedSessions.of(data.train, data.region)
    if len(train) < FEWEST_TIMED:
        raise TrainingError(
            f"{len(train)} of {train.n_asked} training sessions have arrival times, and the "
            f"network of times learns from {FEWEST_TIMED} or more; record more with GNSS clocks, "
            "or use --features mel"
        )
    return TimedParts(train, TimedSessions.of(data.validation, data.region))


def train_timing(
    parts: TimedParts,
    data: TrainingParts,
    config: TrainingOptions,
    tracker: RunMetrics | None = None,
    *,
    receiver_delays_s: Sequence[float] = (),
    receiver_delay_spreads_s: Sequence[float] = (),
    folder: Path | None = None,
    resume: bool = False,
) -> tuple[TimingNet, LearningCurve]:
    """Train a network of times; calibrate it if the validation part has enough sessions.

    Args:
        parts: The sessions.
        data: The split that they are of.
        config: Options of the run.
        tracker: Where metrics go.
        receiver_delays_s: Constant delays of the receivers, in channel order; see `TimingConfig`.
        receiver_delay_spreads_s: Their standard deviations.
        folder: Folder of the run's checkpoints; those of this training go to `timing` below it.
            Without one, they are not kept.
        resume: Go on with a training of the same sessions, seed, receivers and delays there.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        ModelError: A receiver is too far from the region, or delays are not one a receiver.
        TrainingError: No epoch's loss was finite, or no checkpoint could be written.
    """
    pl.seed_everything(config.seed, workers=True, verbose=False)
    sites = receiver_sites(data.receivers)
    module = TimingModule(
        TimingConfig(
            seed=config.seed,
            receiver_delays_s=tuple(receiver_delays_s),
            receiver_delay_spreads_s=tuple(receiver_delay_spreads_s),
        ),
        data.region,
        sites,
    )
    with contextlib.ExitStack() as stack:
        own = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        epochs = _fit(module, parts, data, config, tracker, own / TIMING_FOLDER, resume=resume)
    if len(parts.validation) >= LEAST_SESSIONS:
        module.calibrate(parts.validation.arrivals, parts.validation.target)
    else:
        LOGGER.warning(
            "%s",
            f"{len(parts.validation)} of {parts.validation.n_asked} validation sessions have "
            f"arrival times and calibration takes {LEAST_SESSIONS}; ellipses stay as training left "
            "them: a larger validation part would calibrate them",
        )
    return module.net.eval(), epochs


def _fit(
    module: TimingModule,
    parts: TimedParts,
    data: TrainingParts,
    config: TrainingOptions,
    tracker: RunMetrics | None,
    folder: Path,
    *,
    resume: bool,
) -> LearningCurve:
    """Train, and leave the weights of the best epoch in the module, on the CPU."""
    record = replace(run_record(data, config, tracker), run_id=None)
    is_validated = len(parts.validation) > 0
    history = _TimingEpochs(tracker)
    saver = BestCheckpoints(
        folder,
        filename="epoch={epoch:03d}",
        auto_insert_metric_name=False,
        monitor="val/timing_nll" if is_validated else None,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    trainer = pl.Trainer(
        max_epochs=config.timing_epochs,
        accelerator=config.accelerator,
        devices=1,
        callbacks=[history, saver, last, RunKeeper(record)],
        plugins=[WholeCheckpoints()],
        logger=False,
        gradient_clip_val=GRADIENT_CLIP,
        deterministic="warn",
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    begun = _begun(folder, record, module) if resume else None
    if begun is None:
        for stale in folder.glob("*.ckpt"):
            stale.unlink()
    first_epoch = 0
    if begun is not None:
        progress = read_checkpoint(begun)["loops"]["fit_loop"]["epoch_progress"]
        first_epoch = progress["current"]["processed"]
    size = min(LARGEST_BATCH, max(SMALLEST_BATCH, len(parts.train) // STEPS_PER_EPOCH))
    train: DataLoader[Any] = DataLoader(
        parts.train,  # type: ignore[arg-type] # map-style, without torch in its bases
        batch_size=size,
        sampler=EpochOrder(len(parts.train), config.seed, size, start=(first_epoch, 0)),
    )
    validation: DataLoader[Any] | None = None
    if is_validated:
        validation = DataLoader(parts.validation, batch_size=LARGEST_BATCH)  # type: ignore[arg-type]
    with pass_on_interrupts(trainer):
        trainer.fit(module, train, validation, ckpt_path=begun, weights_only=True)
    module.cpu()
    best = best_checkpoint(trainer, saver)
    module.load_state_dict(read_checkpoint(best)["state_dict"])
    at = int(best.stem.partition("=")[2])
    return LearningCurve(name="arrival times", history=tuple(history.epochs), best_epoch=at)


def _begun(folder: Path, record: RunRecord, module: TimingModule) -> Path | None:
    """The last checkpoint of the same training in its folder; None if there is none."""
    path = folder / "last.ckpt"
    if not path.exists():
        return None
    contents = read_checkpoint(path)
    state, own = contents["state_dict"], module.state_dict()
    given = [name for name in own if name.startswith(("net.delay", "net.ranges"))]
    same = all(name in state and torch.equal(state[name], own[name]) for name in given)
    return path if same and RunRecord.of(contents) == record else None


def with_timing(
    trained: TrainedModel,
    timing: tuple[TimingNet, LearningCurve],
    data: TrainingParts,
    config: TrainingOptions,
    calibration: str | None = None,
) -> TrainedModel:
    """The trained model with the network of times in its checkpoint and in its metrics.

    `calibration` is text with the receivers' delays, which the checkpoint keeps.
    """
    net, curve = timing
    path = trained.checkpoint.with_name(WITH_TIMING)
    save_with_timing(trained.checkpoint, net, receiver_sites(data.receivers), path, calibration)
    network = TimedServingNet(Trained.open(path).single.module.serving_net(), net).eval()
    metrics = {**trained.metrics, **validated(network, data.validation, config)}
    curves = (*trained.more_curves, curve)
    return replace(trained, checkpoint=path, metrics=metrics, more_curves=curves)


# A checkpoint to Lightning, so that those that are written contain their own epoch.
class _TimingEpochs(Checkpoint):
    """Logs each epoch in one line, and hands its losses to the tracker."""

    def __init__(self, tracker: RunMetrics | None) -> None:
        self.epochs: list[EpochRecord] = []
        self._tracker = tracker
        self._started_s = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far, for a run that goes on."""
        return {"epochs": [asdict(record) for record in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the epochs of a checkpoint."""
        self.epochs = [EpochRecord(**record) for record in state_dict["epochs"]]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch, whose validation is done."""
        del pl_module
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._tracker:
            self._tracker.log_metrics(seen, step=trainer.current_epoch)
        record = EpochRecord(
            epoch=trainer.current_epoch,
            train_loss=seen.get("train/timing_loss", math.nan),
            val_loss=seen.get("val/timing_nll", math.nan),
            val_error_m_median=math.nan,
            learning_rate=math.nan,
        )
        self.epochs.append(record)
        losses = "".join(f"  {name} {value:6.3f}" for name, value in sorted(seen.items()))
        took_s, self._started_s = time.monotonic() - self._started_s, time.monotonic()
        log_epoch(trainer, f"{losses}  {took_s:4.1f} s", seconds=took_s, **seen)
