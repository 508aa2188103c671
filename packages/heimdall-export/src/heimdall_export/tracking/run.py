"""A training run in MLflow: parameters, metrics, tags, datasets, artifacts, and how it ended.

Everything goes through one explicit client; MLflow's global state is left alone.

If the tracking server fails, training continues and no metric is lost: `_Outbox` keeps unsent
messages on disk, one line of JSON each, and sends them in order later. Each message carries its own
time and step, and MLflow records a repeated message once, so it is safe to send one again.

In the same folder a run claims that it lives (`heimdall_export.tracking.claims`). One that was
killed is marked as KILLED by the next run with the folder, unless it was resumed elsewhere, which
the tag `heimdall.claim` tells.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import socket
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

import numpy as np
from heimdall_features.addresses import may_hold_password
from heimdall_features.names import shown, shown_lines

from heimdall_export.contract import EXPERIMENT, INPUT, RUN_NAME_PREFIX
from heimdall_export.errors import ExportError, OutOfReach
from heimdall_export.object_store.store import ensure_bucket, store_errors, temporary_environment
from heimdall_export.tracking.claims import abandoned, claim, is_claimed, release
from heimdall_export.tracking.client import NO_RETRIES, mlflow_errors, open_client, store_artifact

# The client comes first: it silences MLflow before it is imported.
from mlflow.data.code_dataset_source import CodeDatasetSource  # isort: skip
from mlflow.data.schema import TensorDatasetSchema  # isort: skip
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag  # isort: skip
from mlflow.exceptions import MlflowException  # isort: skip
from mlflow.types import Schema, TensorSpec  # isort: skip
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID  # isort: skip

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import IO

    from mlflow import MlflowClient
    from mlflow.entities import Run

    from heimdall_export.object_store.store import ArtifactStore
    from heimdall_export.tracking.claims import Claim

_LONGEST_DIGEST = 36
_SECRET_NAME = re.compile(
    r"password|passwd|secret|(access|api|private)[-_]?key|token|credential|database_url",
    re.IGNORECASE,
)
_LONGEST_VALUE = 5000
"""Characters that MLflow keeps of a tag; a parameter may have 6000."""
CLAIM_TAG = "heimdall.claim"
"""Id of the newest claim of a run."""
_BATCH = 100
"""Parameters or tags in one request; metrics may be 1000."""
_PAUSE_S = 60.0
"""Between two attempts at a server that has not answered."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedDataset:
    """One part of the data of a run."""

    name: str
    """Name on the run's page."""
    digest: str
    """Hash of the contents, of which MLflow keeps 36 characters."""
    context: Literal["training", "validation", "testing"]
    """Use of this part in the run."""
    shape: tuple[int, ...]
    """Shape of one feature tensor."""
    source: Mapping[str, str] = field(default_factory=dict)
    """Origin of the data, without secrets."""
    profile: Mapping[str, Any] = field(default_factory=dict)
    """Summary of the contents, as JSON values."""


class MLflowTracker:
    """One MLflow run, as a context manager: finished, failed or killed as its body ends.

    Attributes:
        client: MLflow's client of the tracking server.
        tracking_uri: Address of the tracking server and registry.
        artifact_store: The S3 of `s3://` artifacts; None leaves that to MLflow's environment.
        artifact_uri: Address of this run's artifacts.
        run_id: MLflow's id of the run.
        run_name: `{prefix}_{YYYYMMDD_HHMMSS}` in UTC.
        experiment_id: MLflow's id of the experiment.
        is_resumed: True if the run was begun before.
        logged: Names and steps of the metrics that a resumed run has already.
        points: All points of each metric, in order; MLflow may not have the last ones yet.
    """

    def __init__(
        self,
        tracking_uri: str,
        *,
        artifact_root: str,
        artifact_store: ArtifactStore | None = None,
        experiment_name: str = EXPERIMENT,
        run_name_prefix: str = RUN_NAME_PREFIX,
        outbox: str | os.PathLike[str] | None = None,
        run_id: str | None = None,
        parent_run_id: str | None = None,
    ) -> None:
        """Begin a run, or resume one; the experiment is made where it is missing.

        `artifact_root` is the address of a new experiment's artifacts, whose bucket is made where
        it is missing; an existing experiment keeps its own. `run_id` resumes an interrupted run, in
        its own experiment. `parent_run_id` is the run that MLflow shows a new one below, such as
        that of a search. `outbox` is a folder that keeps messages while the server is down; a later
        run with the same folder sends them, and marks runs that were killed. Without one, a server
        that dies is an error, and a killed run is RUNNING for ever.

        Raises:
            ExportError: The tracking server cannot be reached or refuses, or the run to resume is
                going on in another process.
        """
        self.tracking_uri = tracking_uri
        self.artifact_store = artifact_store
        self._claim: IO[str] | None = None
        self._tags = {
            "heimdall.host": socket.gethostname(),
            "heimdall.pid": str(os.getpid()),
            CLAIM_TAG: uuid.uuid4().hex,
        }
        self.client = open_client(tracking_uri)
        if outbox is not None:
            _send_kept(self.client, outbox)
            try:
                end_killed_runs(self.client, outbox)
            except ExportError as unable:
                _LOG.warning("%s", unable)
            if run_id is not None:
                self._claim = claim(outbox, run_id, self._tags[CLAIM_TAG])
        self.is_resumed = run_id is not None
        self.logged: frozenset[tuple[str, int]] = frozenset()
        self.points: dict[str, list[Metric]] = {}
        if run_id is None:
            with mlflow_errors(f"begin a run in experiment {experiment_name!r}"):
                experiment_id = self._experiment(experiment_name, artifact_root)
                name = f"{run_name_prefix}_{datetime.now(UTC):%Y%m%d_%H%M%S}"
                tags = {MLFLOW_PARENT_RUN_ID: parent_run_id} if parent_run_id else {}
                run = self.client.create_run(experiment_id, run_name=name, tags=tags | self._tags)
                if outbox is not None:
                    self._claim = claim(outbox, str(run.info.run_id), self._tags[CLAIM_TAG])
        else:
            with mlflow_errors(f"resume run {run_id}"):
                run = self._resumed(run_id)
        self.experiment_id = str(run.info.experiment_id)
        self.run_name = str(run.info.run_name)
        self.run_id = str(run.info.run_id)
        self.artifact_uri = str(run.info.artifact_uri)
        self._outbox = None if outbox is None else _Outbox(outbox, self.client, self.run_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.end("FINISHED")
            return
        try:
            self.end("FAILED" if issubclass(kind, Exception) else "KILLED")
        except ExportError as unable:
            # Not raised: the error that ended the run is what the user must see.
            _LOG.warning("%s", unable)

    def _resumed(self, run_id: str) -> Run:
        run = self.client.get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            raise ExportError(f"run {run_id} was deleted in MLflow; restore it")
        self._reach(str(run.info.artifact_uri))
        # First, so that whoever finds the run RUNNING knows of this process.
        self.client.log_batch(run_id, tags=[RunTag(*tag) for tag in self._tags.items()])
        self.client.update_run(run_id, status="RUNNING")
        self.points = {
            name: list(self.client.get_metric_history(run_id, name)) for name in run.data.metrics
        }
        history = itertools.chain(*self.points.values())
        self.logged = frozenset((seen.key, seen.step) for seen in history)
        return run

    def _experiment(self, name: str, artifact_root: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            if self.artifact_store is not None and artifact_root.startswith("s3://"):
                bucket = urlsplit(artifact_root).netloc
                with store_errors(f"make bucket {bucket!r} for artifacts"):
                    ensure_bucket(self.artifact_store.client(), bucket)
            self._reach(artifact_root)
            return str(self.client.create_experiment(name, artifact_location=artifact_root))
        if found.lifecycle_stage == "deleted":
            raise ExportError(
                f"experiment {name!r} was deleted in MLflow; restore it, or choose another name"
            )
        self._reach(str(found.artifact_location))
        return str(found.experiment_id)

    def _reach(self, artifacts: str) -> None:
        """List artifacts as they will be stored, which must not fail at the end of a training."""
        if self.artifact_store is not None and artifacts.startswith("s3://"):
            self.artifact_store.check_artifacts(artifacts)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record the run's parameters; nested mappings become names with dots.

        A value is cut after 5000 characters, because MLflow would refuse a longer one.

        Raises:
            ExportError: A name that suggests a secret, an address with a password, another
                value than before, or MLflow refuses.
        """
        for entries in _batches(_flat(params), "parameter"):
            self._send(Message(doing="record the parameters", params=entries))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record metrics at a step, NaN included; `ExportError` if MLflow refuses."""
        now_ms = int(time.time() * 1000)
        entries = [(name, float(value), now_ms, step) for name, value in metrics.items()]
        for entry in entries:
            self.points.setdefault(entry[0], []).append(Metric(*entry))
        self._send(Message(doing="record metrics", metrics=entries))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record the run's identity: versions, seed, the git commit. Errors as `log_params`."""
        for entries in _batches(tags.items(), "tag"):
            self._send(Message(doing="record tags", tags=entries))

    def log_datasets(self, datasets: Iterable[TrackedDataset]) -> None:
        """Record the data of training and test; `mlflow.data.get_source` can read their source.

        Raises:
            ExportError: A source may hold a secret, or MLflow refuses or is out of reach.
        """
        inputs = []
        for dataset in datasets:
            _without_secrets(dataset.source.items(), f"source of dataset {dataset.name!r}")
            source = CodeDatasetSource(dict(dataset.source))
            tensor = TensorSpec(np.dtype("float32"), (-1, *dataset.shape), INPUT)
            entity = Dataset(
                name=dataset.name,
                digest=dataset.digest[:_LONGEST_DIGEST],
                source_type=source._get_source_type(),
                source=source.to_json(),
                schema=json.dumps(TensorDatasetSchema(Schema([tensor])).to_dict()),
                profile=json.dumps(dict(dataset.profile)),
            )
            inputs.append(DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, dataset.context)]))
        with mlflow_errors("record the datasets"):
            self.client.log_inputs(self.run_id, inputs)

    def log_artifact(self, path: str | os.PathLike[str], folder: str | None = None) -> None:
        """Store a file, or all of a folder's files, with the run, as `store_artifact` does."""
        store_artifact(self.client, self.run_id, path, folder, artifact_store=self.artifact_store)

    def end(self, status: str = "FINISHED") -> None:
        """Record how the run ended: FINISHED, FAILED or KILLED.

        Raises:
            ExportError: MLflow cannot be reached, and there is no outbox.
        """
        doing = f"mark run {self.run_id} as {status}"
        last = Message(doing=doing, status=status, claim_id=self._tags[CLAIM_TAG])
        if self._outbox is None:
            send(self.client, self.run_id, last)
            return
        if not self._outbox.finish(last):
            _LOG.warning(
                "MLflow has not taken all of run %s; the next run sends the rest from %s",
                self.run_id,
                self._outbox.path,
            )
        release(self._outbox.path.parent, self.run_id, self._claim)
        self._claim = None

    def _send(self, message: Message) -> None:
        if self._outbox is None:
            send(self.client, self.run_id, message)
        else:
            self._outbox.send(message)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _batches(entries: Iterable[tuple[str, Any]], what: str) -> Iterator[list[tuple[str, str]]]:
    """Names and values as text, in the numbers that MLflow takes at once."""
    pairs = [(name, text[:_LONGEST_VALUE]) for name, text in _without_secrets(entries, what)]
    return (pairs[start : start + _BATCH] for start in range(0, len(pairs), _BATCH))


def _without_secrets(entries: Iterable[tuple[str, Any]], what: str) -> list[tuple[str, str]]:
    """Names and values as `shown` text; `ExportError` if one may be a secret, not repeated."""
    texts = {shown(name): shown_lines(str(value)) for name, value in entries}
    for name, text in texts.items():
        words = (word for word in text.split() if "://" in word)
        if _SECRET_NAME.search(name) or any(map(may_hold_password, words)):
            raise ExportError(f"{what} {name!r} may hold a secret; leave it out of the run")
    return [*texts.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Something for MLflow to record about a run; the fields are those of a line of the file."""

    doing: str
    """Continues the sentence "MLflow cannot"."""
    metrics: Sequence[tuple[str, float, int, int]] = ()
    """Name, value, time in ms, step."""
    params: Sequence[tuple[str, str]] = ()
    tags: Sequence[tuple[str, str]] = ()
    status: str | None = None
    """Final status of the run; sent alone."""
    claim_id: str = ""
    """Claim that ends with the status; a run that was resumed since is left as it is."""


def send(client: MlflowClient, run_id: str, message: Message) -> None:
    """Send MLflow one message; `OutOfReach` if it does not answer, `ExportError` if it refuses."""
    with mlflow_errors(message.doing):
        if message.status is not None:
            client.set_terminated(run_id, message.status)
            return
        client.log_batch(
            run_id,
            metrics=[Metric(*entry) for entry in message.metrics],
            params=[Param(*entry) for entry in message.params],
            tags=[RunTag(*entry) for entry in message.tags],
        )


class _Outbox:
    """The waiting messages of one run, in memory and in a file, which exists only while they do."""

    def __init__(self, folder: str | os.PathLike[str], client: MlflowClient, run_id: str) -> None:
        self.path = Path(folder, f"{run_id}.jsonl")
        self._client = client
        self._run_id = run_id
        self._waiting: deque[Message] = deque()
        self._next_attempt_at = 0.0

    def send(self, message: Message) -> None:
        """Send a message, or keep it where MLflow does not answer; raise if MLflow refuses it."""
        if not self._waiting:
            self.finish(message)
            return
        self._keep(message)
        self._waiting.append(message)
        if time.monotonic() >= self._next_attempt_at:
            with temporary_environment(NO_RETRIES):
                self._send_all()

    def finish(self, message: Message) -> bool:
        """Send the last message, with all retries; True if MLflow has taken all messages."""
        if self._waiting:
            self._keep(message)
        self._waiting.append(message)
        self._send_all()
        return not self._waiting

    def _send_all(self) -> None:
        """Send the waiting messages in order, as far as MLflow answers."""
        while self._waiting:
            try:
                send(self._client, self._run_id, self._waiting[0])
            except OutOfReach as error:
                self._next_attempt_at = time.monotonic() + _PAUSE_S
                if not self.path.exists():
                    self._keep(*self._waiting)
                    _LOG.warning("%s; the run goes on, its messages wait in %s", error, self.path)
                return
            except ExportError:
                self._waiting.popleft()
                raise
            self._waiting.popleft()
        self.path.unlink(missing_ok=True)

    def _keep(self, *messages: Message) -> None:
        """Write messages to disk before the run goes on, because it may end at any time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(message)) + "\n" for message in messages)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ExportError(
                f"MLflow is out of reach, and {self.path} cannot be written: {error.strerror}"
            ) from error


def end_killed_runs(client: MlflowClient, folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Mark runs that claimed to live in a folder, and whose process was killed, as KILLED.

    Returns:
        Their ids. A run that this MLflow does not know stays claimed, for the one that does.

    Raises:
        ExportError: MLflow is out of reach, or refuses.
    """
    ended = []
    with abandoned(folder) as runs:
        for run_id, ended_claim in runs.items():
            with mlflow_errors(f"mark run {run_id}, whose process was killed"):
                try:
                    run = client.get_run(run_id)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
                    continue
                if is_killed(run, ended_claim):
                    client.set_terminated(run_id, "KILLED")
                    if _newest_claim(client, run_id) == ended_claim.id:
                        _LOG.warning("marked run %s, whose process was killed, as KILLED", run_id)
                        ended.append(run_id)
                    else:  # resumed elsewhere between the look and the mark
                        client.update_run(run_id, status="RUNNING")
            release(folder, run_id, ended_claim.file)
    return tuple(ended)


def is_killed(run: Run, ended: Claim) -> bool:
    """True if MLflow shows a run as running whose newest claim is this one, which has ended."""
    return run.info.status == "RUNNING" and run.data.tags.get(CLAIM_TAG) == ended.id


def _send_kept(client: MlflowClient, folder: str | os.PathLike[str]) -> None:
    """Send the messages that earlier runs left; a file that MLflow still refuses stays.

    A message that was cut off in writing, because its run was killed, is left out. Runs that are
    going on send theirs themselves.
    """
    for path in sorted(Path(folder).glob("*.jsonl")):
        if is_claimed(folder, path.stem):
            continue
        try:
            for message in _messages(path):
                if message.status is None or message.claim_id == _newest_claim(client, path.stem):
                    send(client, path.stem, message)
        except (ExportError, TypeError) as error:
            _LOG.warning("the messages of run %s stay in %s: %s", path.stem, path, error)
        else:
            path.unlink(missing_ok=True)
            _LOG.warning("sent MLflow the messages that run %s had left", path.stem)


def _newest_claim(client: MlflowClient, run_id: str) -> str:
    with mlflow_errors(f"look for run {run_id}"):
        return str(client.get_run(run_id).data.tags.get(CLAIM_TAG, ""))


def _messages(path: Path) -> list[Message]:
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    try:
        return [Message(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise ExportError(f"not a file of messages: {error}; remove it") from error
