"""What MLflow could not be told about a run: kept on disk, in order, until it can.

A tracking server that dies must cost neither the training nor its curves. Each message carries
its own time and step, and MLflow takes one twice as one, so that after an answer that was lost it
is told again. A line of the file is a message, in JSON.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heimdall_export.errors import ExportError, OutOfReach
from heimdall_export.object_store.settings import lent
from heimdall_export.tracking.client import ASKED_ONCE, told_plainly

from mlflow.entities import Metric, Param, RunTag  # isort: skip

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Message", "Outbox", "tell", "tell_kept"]

_PAUSE_S = 60.0
"""Between two questions to a server that has not answered."""
_SUFFIX = ".jsonl"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing that MLflow is to know of a run."""

    doing: str
    """Continues the sentence "MLflow cannot"."""
    metrics: tuple[tuple[str, float, int, int], ...] = ()
    """Name, value, time in ms, step."""
    params: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    status: str | None = None
    """How the run ended."""


def tell(client: MlflowClient, run_id: str, message: Message) -> None:
    """Tell MLflow one thing.

    Raises:
        OutOfReach: It does not answer.
        ExportError: It refuses.
    """
    with told_plainly(message.doing):
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
    """The messages of one run that wait, in memory and in a file.

    Attributes:
        path: The file; there is none while nothing waits.
    """

    def __init__(self, folder: str | os.PathLike[str], client: MlflowClient, run_id: str) -> None:
        self.path = Path(folder, run_id + _SUFFIX)
        self._client = client
        self._run_id = run_id
        self._waiting: deque[Message] = deque()
        self._ask_again_at = 0.0

    def send(self, message: Message) -> None:
        """Tell MLflow, or keep the message where it does not answer.

        Raises:
            ExportError: MLflow refuses the message, or it cannot be kept.
        """
        is_out = bool(self._waiting)
        self._waiting.append(message)
        if not is_out:
            self._tell_all()
            return
        self._keep(message)
        if time.monotonic() >= self._ask_again_at:
            with lent(ASKED_ONCE):
                self._tell_all()

    def finish(self, message: Message) -> bool:
        """Tell MLflow the last message, with all the patience there is; whether it knows all.

        Raises:
            ExportError: As `send`.
        """
        if self._waiting:
            self._keep(message)
        self._waiting.append(message)
        self._tell_all()
        return not self._waiting

    def _tell_all(self) -> None:
        """Empty the queue, as far as MLflow answers."""
        while self._waiting:
            first = self._waiting[0]
            try:
                tell(self._client, self._run_id, first)
            except OutOfReach as error:
                self._go_on_without(error)
                return
            except ExportError:
                self._waiting.popleft()
                raise
            self._waiting.popleft()
        self.path.unlink(missing_ok=True)

    def _go_on_without(self, error: OutOfReach) -> None:
        self._ask_again_at = time.monotonic() + _PAUSE_S
        if not self.path.exists():
            for message in self._waiting:
                self._keep(message)
            _LOG.warning("%s; the run goes on, what MLflow must know waits in %s", error, self.path)

    def _keep(self, message: Message) -> None:
        """On disk before the run goes on, because it may end at any time."""
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


def tell_kept(client: MlflowClient, folder: str | os.PathLike[str]) -> None:
    """Tell MLflow what earlier runs could not; what it still does not take stays where it is.

    A message that was cut off as it was written, by whatever ended its run, is left out.
    """
    for path in sorted(Path(folder).glob(f"*{_SUFFIX}")):
        try:
            for message in _messages(path):
                tell(client, path.stem, message)
        except ExportError as error:
            _LOG.warning("what run %s has to say stays in %s: %s", path.stem, path, error)
        else:
            path.unlink(missing_ok=True)
            _LOG.warning("told MLflow what it missed of run %s", path.stem)


def _messages(path: Path) -> list[Message]:
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    try:
        return [_message(json.loads(line)) for line in lines]
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(f"it holds something else: {error}; remove it") from error


def _message(entry: dict[str, Any]) -> Message:
    return Message(
        doing=entry["doing"],
        metrics=tuple(map(tuple, entry["metrics"])),
        params=tuple(map(tuple, entry["params"])),
        tags=tuple(map(tuple, entry["tags"])),
        status=entry["status"],
    )
