"""What a run says of itself while it goes, in lines for people or in JSON for programs.

Every line is an event with figures, and goes through Python's logger `heimdall_trainer.run`, so
that a program which runs the pipeline can listen to them, too. On standard output there is one
line an event: its text, or, with `--log_format json`, one object with these keys.

- all: `event`, `time` (UTC)
- `stage`: `stage`, `state` (`begun`, `done`), and `seconds` when done
- `data`: `sessions` and `receivers` by part of the split, `region`, `excluded`
- `model`: `parameters`, `trainable_parameters`, `memory_bytes` before any batch
- `epoch`: `epoch` from 1, `epochs`, `seconds`, `seconds_left` at most, `learning_rate`, and all
  metrics by their names in MLflow, such as `train/loss`
- `check`: `check`, `ok`, `said`, of a dry run
- `result`: what `--summary` writes
- `failed`: `error`
- `note`: `said`, for whatever else there is
"""

from __future__ import annotations

import logging

__all__ = ["LOGGER", "duration", "tell"]


LOGGER = logging.getLogger("heimdall_trainer.run")


def tell(event: str, text: str = "", **figures: object) -> None:
    """Say that something happened.

    Args:
        event: Which kind of thing; see the module.
        text: For people, perhaps several lines; nothing is printed for an empty one.
        figures: For programs, in what JSON has; a NaN becomes null.
    """
    LOGGER.info("%s", text, extra={"event": event, "figures": figures})


def duration(seconds: float) -> str:
    """A length of time as people read it: `4.1 s`, `3:20 min`, `2:03:20 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


LOGGER.propagate = False  # whoever listens to all loggers would print each line twice
