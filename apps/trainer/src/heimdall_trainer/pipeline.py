"""The training pipeline: `run` takes all steps in order, and each step can be called alone.

Steps return values that the next ones take. The pipeline itself holds only its two frozen
configurations and the durations of its finished stages.
"""

from __future__ import annotations

import contextlib
import sys
import time
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from heimdall_evaluation.model_file import read_model
from heimdall_export.errors import ExportError
from heimdall_models import LocalizationModule, LocalizationNet
from heimdall_models.execution import arrange
from heimdall_models.trained import Trained
from heimdall_models.training.checkpoint_files import (
    ENSEMBLE,
    exclusive,
    newest_checkpoint,
    newest_of_members,
    require_fresh,
    started_ensemble,
)
from heimdall_models.training.curves import takes_levels_alone
from heimdall_models.training.devices import is_first
from heimdall_models.training.ensemble import merged_model, train_ensemble
from heimdall_models.training.fit import TrainedModel, fit, make_trainer
from heimdall_models.training.resume import (
    require_same_features,
    require_same_network,
    warn_of_other_sessions,
)
from heimdall_models.training.timing import timed_parts, train_timing, with_timing

from heimdall_trainer.calibration import delays_of_channels, learned_delays
from heimdall_trainer.config import require_writable
from heimdall_trainer.console import (
    RunOutcome,
    RunSummary,
    tell_data,
    tell_model,
    write_json,
)
from heimdall_trainer.data import load_training_data
from heimdall_trainer.delivery import Delivery, export_and_register, write_report
from heimdall_trainer.errors import UsageError, describe
from heimdall_trainer.events import LOGGER, tell
from heimdall_trainer.mlflow_run import describe_run, new_steps, tracked_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heimdall_export.tracking.run import MLflowTracker
    from heimdall_models.training.parts import RunMetrics, TrainingParts
    from heimdall_models.training.timing import TimedParts

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.data import TrainingData


class TrainingPipeline:
    """From approved recordings to a registered and evaluated model.

    Attributes:
        config: Configuration of the training.
        connections: Addresses of all servers.
        resumable: Whether the command has flags that go on with an interrupted training.
        timings: Seconds that each finished stage took, by name, in order.
    """

    def __init__(
        self, config: TrainingConfig, connections: Connections, *, resumable: bool = True
    ) -> None:
        self.config = config
        self.connections = connections
        self.resumable = resumable
        self.timings: dict[str, float] = {}

    def check(self) -> None:
        """Check files and names before minutes are spent on reading data.

        Raises:
            TrainerError: The summary cannot be written, a checkpoint has another network or other
                features, there is no ensemble to resume, or a new one would overwrite another.
            ModelError: There is no such backbone or checkpoint, or its weights do not fit.
        """
        config = self.config
        require_writable(config.summary)
        if config.ensemble > 1:
            self._members_folder("")
        if config.export_only:
            require_same_features(config.checkpoint, config.features)
        elif config.ensemble == 1 and (config.resume_training or config.checkpoint):
            require_same_network(self._resume_from(), config.network(config.n_receivers))
        else:
            network = config.network(len(config.receivers) or config.n_receivers)
            net = LocalizationNet(network.n_receivers, network.backbone, network.weights)
            arrange(net.backbone, network)

    def load_data(self) -> TrainingData:
        """The three parts of the approved sessions, with their features computed.

        Raises:
            TrainerError, DataError: See `load_training_data`.
        """
        with self.stage("data"):
            return load_training_data(self.config, self.connections)

    def create_lightning_module(self, data: TrainingParts) -> LocalizationModule:
        """An untrained network for the data's receivers and region; the seed sets its weights.

        Raises:
            ModelError: The backbone is unknown, or pretrained weights do not fit it.
        """
        pl.seed_everything(self.config.seed, workers=True, verbose=False)
        network = self.config.network(len(data.receivers))
        return LocalizationModule(network, data.region, data.stats.mean, data.stats.std)

    def create_trainer(self, tracker: RunMetrics | None = None) -> pl.Trainer:
        """Lightning's trainer with this run's callbacks."""
        name = tracker.run_name if tracker else "untracked"
        folder = self._checkpoint_dir(name)
        return make_trainer(self.config, folder, tracker, resumable=self.resumable)

    def train(self, data: TrainingData, tracker: RunMetrics | None = None) -> TrainedModel:
        """Train a new network or ensemble, or resume an interrupted one.

        Raises:
            TrainerError: There is nothing to resume from, no loss was ever finite, or too few
                sessions have arrival times.
            ModelError: Training diverged; the message says where, and what was kept.
        """
        config = self.config
        if config.ensemble > 1:
            folder = self._members_folder(tracker.run_name if tracker else "untracked")
            if (n_processes := self.create_trainer().world_size) > 1:
                raise UsageError(
                    f"--ensemble trains its members in one process, and there are {n_processes}; "
                    "train each with a --seed of its own and --devices, and merge them with "
                    "--export_only --checkpoint A B"
                )
            return train_ensemble(
                self._member,
                self.stage,
                config,
                folder,
                data,
                self._timed_parts(data),
                tracker,
                resume=config.resume_training,
            )
        resume_from = self._resume_from() if config.resume_training else None
        timed = self._timed_parts(data)
        trained = self.train_spectrograms(data, tracker, resume_from)
        return trained if timed is None else self.train_times(trained, timed, data, tracker)

    def _member(self, seed: int, folder: Path) -> TrainingPipeline:
        """The pipeline of one member of an ensemble, with its own seed and folder."""
        member = copy(self)
        member.config = replace(self.config, ensemble=1, seed=seed, checkpoint_dir=folder)
        member.timings = {}
        return member

    def train_spectrograms(
        self, data: TrainingParts, tracker: RunMetrics | None, resume_from: Path | None = None
    ) -> TrainedModel:
        """Train the network of spectrograms alone; see `train`."""
        with self.stage("training"):
            module = self.create_lightning_module(data)
            tell_model(module, self.config)
            if resume_from is None:
                # Not augmented, which would widen the distribution of levels.
                plain = data.train.subset(data.train.sessions)
                module.learn_levels(plain[index] for index in range(len(plain)))
            return fit(self.create_trainer(tracker), module, data, self.config, resume_from)

    def train_times(
        self,
        trained: TrainedModel,
        timed: TimedParts,
        data: TrainingData,
        tracker: RunMetrics | None,
    ) -> TrainedModel:
        """Train a network of times for a trained network of spectrograms; see `train`."""
        with self.stage("training on arrival times"):
            calibration = learned_delays(data)
            delays_s, spreads_s = delays_of_channels(calibration, data.receivers)
            timing = train_timing(
                timed,
                data,
                self.config,
                tracker,
                receiver_delays_s=delays_s,
                receiver_delay_spreads_s=spreads_s,
                folder=trained.checkpoint.parent,
                resume=self.config.resume_training,
            )
            whole = with_timing(trained, timing, data, self.config, calibration.to_json())
        if tracker:
            # Later than every step of the spectrogram network: these are the run's final metrics.
            tracker.log_metrics(whole.metrics, step=self.config.epochs * len(data.train))
        return whole

    def export_and_register(
        self, trained: TrainedModel, data: TrainingData, tracker: MLflowTracker
    ) -> Delivery:
        """Export the model file, compare it with the network, evaluate, upload and register it.

        Raises:
            ExportError: The file does not agree with the network, or cannot be stored.
        """
        with self.stage("export and evaluation"):
            s3 = self.connections.need_s3()
            return export_and_register(trained, data, self.config, tracker, s3)

    def run(self) -> RunOutcome:
        """Take every step in order, as one MLflow run.

        Raises:
            ValueError: A step failed, and the MLflow run is marked as failed; or another training
                holds the folder of checkpoints.
            SystemExit: In all training processes but the first, which does the rest alone.
        """
        started = time.monotonic()
        self.check()
        if not is_first():
            self.train(self.load_data())
            sys.exit(0)
        config, connections = self.config, self.connections
        resumed = self._resume_from() if config.resume_training else None
        with contextlib.ExitStack() as held:
            # Before the run of MLflow goes on, which the training that holds the folder may own.
            folders = set[Path]()
            if resumed is not None:
                folders.add(self._folder_of(resumed))
            if config.checkpoint_dir is not None and not config.export_only:
                folders.add(config.checkpoint_dir.resolve())
            for folder in folders:
                held.enter_context(exclusive(folder))
            data = self.load_data()
            tell_data(data)
            tracker = held.enter_context(tracked_run(config, connections, resumed))
            own = self._checkpoint_dir(tracker.run_name).resolve()
            if own not in folders and not config.export_only:
                held.enter_context(exclusive(own))
            describe_run(tracker, config, data, connections)
            trained = (
                self._given(data, tracker)
                if config.export_only
                else self.train(data, new_steps(tracker))
            )
            delivery = self.export_and_register(trained, data, tracker)
            report = self._report(trained, data, delivery, tracker)
        summary = RunSummary(
            run_id=tracker.run_id,
            model_version=delivery.version,
            onnx_uri=delivery.uri,
            onnx_path=str(delivery.path),
            checkpoint=str(trained.checkpoint),
            metrics=delivery.metrics,
            elapsed_seconds=time.monotonic() - started,
            excluded_sessions=tuple(
                {"id": left.session_id, "reason": left.reason} for left in data.exclusions
            ),
            report=None if report is None else str(report),
        )
        if config.summary:
            write_json(
                config.summary,
                asdict(summary),
                f"; the run itself is complete: MLflow run {summary.run_id}, "
                f"model {summary.onnx_uri}",
            )
        return RunOutcome(
            summary=summary, delivery=delivery, data=data, report=report, run_name=tracker.run_name
        )

    def _report(
        self,
        trained: TrainedModel,
        data: TrainingData,
        delivery: Delivery,
        tracker: MLflowTracker,
    ) -> Path | None:
        """Write the report and store it with the run; None, with a warning, if it has no page."""
        path = self.connections.state_directory() / "reports" / f"{tracker.run_name}.html"
        name = self.config.backbone
        if (n_members := max(self.config.ensemble, len(self.config.checkpoint))) > 1:
            name = f"{name}, ensemble of {n_members}"
        if takes_levels_alone(trained.metrics):
            name = f"{name}, by levels alone"
        try:
            with self.stage("report"):
                self.connections.state_folder("reports")
                found = read_model(delivery.path, name)
                model = replace(found, n_parameters=delivery.n_parameters).summary
                write_report(
                    path,
                    data,
                    model,
                    delivery.evaluated,
                    seed=self.config.seed,
                    timings=self.timings,
                    trained=trained,
                )
                tracker.log_artifact(path)
        except Exception as error:  # noqa: BLE001 - the model is registered: no page is worth the run
            reason = describe(error)
            LOGGER.warning(
                "the run has no report in MLflow (%s); the model is registered, and `heimdall "
                "evaluate %s` makes a report of it",
                reason,
                delivery.uri,
            )
            with contextlib.suppress(ExportError):
                tracker.set_tags({"report.error": reason})
        return path if path.exists() else None

    def _given(self, data: TrainingData, tracker: MLflowTracker) -> TrainedModel:
        """The checkpoint that `--export_only` exports; several are merged into an ensemble."""
        given = self.config.checkpoint
        for checkpoint in given:
            warn_of_other_sessions(Trained.open(checkpoint), data)
        if len(given) == 1:
            return TrainedModel(checkpoint=given[0])
        path = self._checkpoint_dir(tracker.run_name) / f"{tracker.run_name}-{ENSEMBLE}"
        with self.stage("merging"):
            return merged_model(given, data, self.config, path, tracker)

    def _timed_parts(self, data: TrainingParts) -> TimedParts | None:
        with_times = self.config.features == "mel+timing" and is_first()
        return timed_parts(data) if with_times else None

    def _members_folder(self, run_name: str) -> Path:
        """Folder of the members of an ensemble."""
        folder = self._checkpoint_dir(run_name if not self.config.resume_training else "")
        if self.config.resume_training:
            return started_ensemble(folder)
        require_fresh(folder)
        return folder

    def _folder_of(self, checkpoint: Path) -> Path:
        """Folder of the training that a checkpoint to resume from is of."""
        folder = checkpoint.resolve().parent
        return folder.parent if self.config.ensemble > 1 else folder

    def _checkpoint_dir(self, run_name: str) -> Path:
        folder = self.config.checkpoint_dir
        return folder or self.connections.state_folder("checkpoints") / run_name

    def _resume_from(self) -> Path:
        if self.config.checkpoint:
            return self.config.checkpoint[0]
        newest = newest_of_members if self.config.ensemble > 1 else newest_checkpoint
        return newest(self._checkpoint_dir(""))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log the begin and end of a stage, and keep its duration."""
        tell("stage", f"{name} …", stage=name, state="begun")
        started = time.monotonic()
        yield
        self.timings[name] = time.monotonic() - started
        tell("stage", stage=name, state="done", seconds=self.timings[name])
