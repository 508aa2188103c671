"""Events of a run, as lines for people or as JSON for programs.

Every event goes through Python's logger `heimdall_trainer.run`, so that a program which runs the
pipeline can listen to it; log messages of our libraries are handed to that logger. On standard
output there is one line an event: its text, or, with `--log_format json`, one object with the keys
below. Warnings and errors go to standard error.

- all: `event`, `time` (UTC)
- `stage`: `stage`, `state` (`begun`, `done`), and `seconds` when done
- `data`: `sessions` and `receivers` by part of the split, `region`, `excluded`
- `run`: `run_id` and `run_name` in MLflow
- `model`: `parameters`, `trainable_parameters`, `memory_bytes` before any batch
- `epoch`: `epoch` from 1, `epochs`, `seconds`, `seconds_left` at most, `learning_rate`, and all
  metrics by their names in MLflow, such as `train/loss`
- `check`: `check`, `ok`, `said`, of a dry run
- `result`: what `--summary` writes
- `failed`: `error`
- `note`: `said`, for whatever else there is
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LOGGER", "LogFormat", "logged_as", "tell"]

LOGGER = logging.getLogger("heimdall_trainer.run")
LIBRARIES = ("heimdall_data", "heimdall_evaluation", "heimdall_export", "heimdall_models")
"""Packages whose log messages become lines of the run."""


LogFormat = Literal["text", "json"]


def tell(event: str, text: str = "", **figures: object) -> None:
    """Log an event of the run.

    Args:
        event: Its kind; see the module.
        text: For people, perhaps several lines; nothing is printed for an empty one.
        figures: For programs, in what JSON has; a NaN becomes null.
    """
    LOGGER.info("%s", text, extra={"event": event, "figures": figures})


@contextlib.contextmanager
def logged_as(form: LogFormat) -> Iterator[None]:
    """While this lasts, events are lines of text or of JSON; JSON tells of failures, too."""
    before = _LINES.form
    _LINES.form = form
    try:
        yield
    except BaseException as error:
        if form == "json":
            tell("failed", error=_told(error))
        raise
    finally:
        _LINES.form = before


def _told(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, SystemExit):
        return f"ended with status {error.code}"
    return str(error) or type(error).__name__


class _Lines(logging.Handler):
    """Prints events on standard output, above a progress bar if there is one.

    Warnings and errors go to standard error, as text.
    """

    form: LogFormat = "text"

    def emit(self, record: logging.LogRecord) -> None:
        """Print one event; a full disk or a closed pipe ends the run as `print` would."""
        if record.levelno >= logging.ERROR:
            print(f"heimdall: {record.getMessage()}", file=sys.stderr, flush=True)
            return
        if record.levelno >= logging.WARNING:
            if _is_first_process():
                print(f"warning: {record.getMessage()}", file=sys.stderr, flush=True)
            return
        line = self._json(record) if self.form == "json" else record.getMessage()
        if not line or not _is_first_process():
            return
        if (bars := sys.modules.get("tqdm")) is None:
            print(line, flush=True)
        else:
            bars.tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    @staticmethod
    def _json(record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        event = getattr(record, "event", "note")
        figures = getattr(record, "figures", {"said": record.getMessage()})
        whole = {"event": event, "time": when, **figures}
        return json.dumps(_finite(whole), allow_nan=False, default=str)


def _is_first_process() -> bool:
    """Of several that train together, one speaks; Lightning knows which, once it is loaded."""
    known = sys.modules.get("lightning.fabric.utilities.rank_zero")
    return known is None or getattr(known.rank_zero_only, "rank", 0) == 0


def _finite(value: object) -> object:
    """JSON has no NaN and no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class _Forwarding(logging.Handler):
    """Hands messages of the libraries to the run's own logger."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one on."""
        LOGGER.handle(record)


_LINES = _Lines()
LOGGER.addHandler(_LINES)
_FORWARDING = _Forwarding()
for _name in LIBRARIES:
    logging.getLogger(_name).addHandler(_FORWARDING)
for _name in (LOGGER.name, *LIBRARIES):
    logging.getLogger(_name).setLevel(logging.INFO)
    # Whoever listens to all loggers would print each line twice.
    logging.getLogger(_name).propagate = False
