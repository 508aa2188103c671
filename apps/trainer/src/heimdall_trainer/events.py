"""Events of a run, as text for people or as JSON for programs.

All events and the log messages of our libraries go through the logger `heimdall_trainer.run`, to
which a program that runs the pipeline can add a handler. Standard output gets the text of each
event or, with `--log_format json`, one object with the keys below. Warnings and errors, each on one
line, go to standard error, or to standard output if that cannot be written. Control characters,
which names may have, are escaped in all of them.

- all: `event`, `time` (UTC)
- `stage`: `stage`, `state` (`begun`, `done`), and `seconds` when done
- `data`: `sessions` and `receivers` by part of the split, `region`, `excluded`
- `run`: `run_id` and `run_name` in MLflow
- `model`: `parameters`, `trainable_parameters`, `memory_bytes` before any batch
- `epoch`: `epoch` from 1, `epochs`, `seconds`, `seconds_left` at most, `learning_rate`, and all
  metrics by their names in MLflow, such as `train/loss`
- `delays`: `receivers`, a list of their constant delays as in calibration.json
- `check`: `check`, `ok`, `said`, of a dry run
- `result`: what `--summary` writes
- `failed`: `error`
- `note`: `said`, for everything else
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from heimdall_trainer.errors import without_passwords
from heimdall_trainer.streams import error_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGER = logging.getLogger("heimdall_trainer.run")
LIBRARIES = ("heimdall_data", "heimdall_evaluation", "heimdall_export", "heimdall_models")
"""Packages whose log messages become lines of the run."""


LogFormat = Literal["text", "json"]


def tell(event: str, text: str = "", **figures: object) -> None:
    """Log an event of the run.

    Args:
        event: One of the kinds in the module's docstring.
        text: One or more lines for people; nothing is printed if it is empty.
        figures: Values for programs, of types that JSON has; a NaN becomes null.
    """
    LOGGER.info("%s", text, extra={"event": event, "figures": figures})


@contextlib.contextmanager
def logged_as(form: LogFormat) -> Iterator[None]:
    """Print events as text or as JSON within the context; JSON includes the final error."""
    before = _LINES.form
    _LINES.form = form
    try:
        yield
    except BaseException as error:
        if form == "json":
            said = without_passwords(str(error)) or type(error).__name__
            if isinstance(error, KeyboardInterrupt):
                said = "interrupted"
            elif isinstance(error, SystemExit):
                said = f"ended with status {error.code}"
            tell("failed", error=said)
        raise
    finally:
        _LINES.form = before


class _Lines(logging.Handler):
    """Prints events on standard output, above Lightning's progress bar; warnings on error."""

    form: LogFormat = "text"
    has_printed = False
    """True if standard output has events: a log, and not the answer of a command."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one event, if it can be: a full disk or a closed pipe ends no run."""
        with contextlib.suppress(OSError, ValueError):  # of a program's own streams, or closed ones
            self._print(record)

    def _print(self, record: logging.LogRecord) -> None:
        from heimdall_features.names import shown, shown_lines  # loads NumPy, needless for --help

        text = shown_lines(record.getMessage())
        if not _is_first_process() and record.levelno < logging.ERROR:
            return
        if record.levelno >= logging.WARNING:
            who = "heimdall" if record.levelno >= logging.ERROR else "warning"
            text = f"{who}: {shown(text)}"
            print(text, file=sys.stderr, flush=True)
            if error_of("stderr") is None:
                return
        if line := _json(record) if self.form == "json" else text:
            self.has_printed = True
            if (bars := sys.modules.get("tqdm")) is None:
                print(line, flush=True)
            else:
                bars.tqdm.write(line, file=sys.stdout)
                sys.stdout.flush()


def has_log() -> bool:
    """Return True if this process has printed events."""
    return _LINES.has_printed


def _json(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    event = getattr(record, "event", "note")
    figures = getattr(record, "figures", {"said": record.getMessage()})
    whole = {"event": event, "time": when, **figures}
    return json.dumps(finite(whole), allow_nan=False, default=str)


def _is_first_process() -> bool:
    """Return True if this process prints; of several that train together, only the first does."""
    known = sys.modules.get("lightning.fabric.utilities.rank_zero")
    return known is None or getattr(known.rank_zero_only, "rank", 0) == 0


def finite(value: object) -> object:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


class _Forwarding(logging.Handler):
    """Passes messages of the libraries to the run's own logger."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one message on."""
        LOGGER.handle(record)


_LINES, _FORWARDING = _Lines(), _Forwarding()
for _logger in (LOGGER, *map(logging.getLogger, LIBRARIES)):
    _logger.addHandler(_LINES if _logger is LOGGER else _FORWARDING)
    _logger.setLevel(logging.INFO)
    _logger.propagate = False  # a handler of the root logger would print each line twice
