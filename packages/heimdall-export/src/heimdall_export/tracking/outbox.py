"""Messages to MLflow about a run that it could not take: kept on disk, in order, until it can.

A tracking server that dies must cost neither the training nor its curves. Each message carries
its own time and step, and MLflow takes the same message twice as one, so that after a lost answer
it is sent again. A line of the file is a message, in JSON.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_export.errors import ExportError, OutOfReach
from heimdall_export.object_store.store import temporary_environment
from heimdall_export.tracking.client import NO_RETRIES, mlflow_errors

from mlflow.entities import Metric, Param, RunTag  # isort: skip

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Message", "Outbox", "send", "send_kept"]

_PAUSE_S = 60.0
"""Between two attempts at a server that has not answered."""
_SUFFIX = ".jsonl"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Something for MLflow to record about a run; the fields are those of a line of the file."""

    doing: str
    """Continues the sentence "MLflow cannot"."""
    metrics: tuple[tuple[str, float, int, int], ...] = ()
    """Name, value, time in ms, step."""
    params: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    status: str | None = None
    """How the run ended; sent alone."""


def send(client: MlflowClient, run_id: str, message: Message) -> None:
    """Send MLflow one message.

    Raises:
        OutOfReach: It does not answer.
        ExportError: It refuses.
    """
    with mlflow_errors(message.doing):
        if message.status is None:
            client.log_batch(
                run_id,
                metrics=[Metric(*entry) for entry in message.metrics],
                params=[Param(*entry) for entry in message.params],
                tags=[RunTag(*entry) for entry in message.tags],
            )
        else:
            client.set_terminated(run_id, message.status)


class Outbox:
    """The waiting messages of one run, in memory and in a file.

    Attributes:
        path: The file, which exists only while messages wait.
    """

    def __init__(self, folder: str | os.PathLike[str], client: MlflowClient, run_id: str) -> None:
        self.path = Path(folder, run_id + _SUFFIX)
        self._client = client
        self._run_id = run_id
        self._waiting: deque[Message] = deque()
        self._next_attempt_at = 0.0

    def send(self, message: Message) -> None:
        """Send a message, or keep it where MLflow does not answer.

        Raises:
            ExportError: MLflow refuses the message, or it cannot be kept.
        """
        is_down = bool(self._waiting)
        self._waiting.append(message)
        if not is_down:
            self._send_all()
            return
        self._keep(message)
        if time.monotonic() >= self._next_attempt_at:
            with temporary_environment(NO_RETRIES):
                self._send_all()

    def finish(self, message: Message) -> bool:
        """Send the last message, with all retries; True if MLflow has taken all messages.

        Raises:
            ExportError: As `send`.
        """
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
                    for message in self._waiting:
                        self._keep(message)
                    _LOG.warning("%s; the run goes on, its messages wait in %s", error, self.path)
                return
            except ExportError:
                self._waiting.popleft()
                raise
            self._waiting.popleft()
        self.path.unlink(missing_ok=True)

    def _keep(self, message: Message) -> None:
        """Write a message to disk before the run goes on, because it may end at any time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(message)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ExportError(
                f"MLflow is out of reach, and {self.path} cannot be written: {error.strerror}"
            ) from error


def send_kept(client: MlflowClient, folder: str | os.PathLike[str]) -> None:
    """Send the messages that earlier runs left; a file that MLflow still refuses stays.

    A message that was cut off in writing, by whatever ended its run, is left out.
    """
    for path in sorted(Path(folder).glob(f"*{_SUFFIX}")):
        try:
            for message in _messages(path):
                send(client, path.stem, message)
        except ExportError as error:
            _LOG.warning("the messages of run %s stay in %s: %s", path.stem, path, error)
        else:
            path.unlink(missing_ok=True)
            _LOG.warning("sent MLflow the messages that run %s had left", path.stem)


def _messages(path: Path) -> list[Message]:
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    try:
        entries = map(json.loads, lines)
        return [
            Message(
                doing=entry["doing"],
                metrics=tuple(map(tuple, entry["metrics"])),
                params=tuple(map(tuple, entry["params"])),
                tags=tuple(map(tuple, entry["tags"])),
                status=entry["status"],
            )
            for entry in entries
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(f"not a file of messages: {error}; remove it") from error
