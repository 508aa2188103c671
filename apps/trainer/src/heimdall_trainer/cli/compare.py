"""`heimdall compare`: which of two models is better, on the same recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from heimdall_trainer.cli.flags import ConfigFile
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections

__all__ = ["compare"]

DEFAULTS = TrainingConfig()
NOWHERE = Connections()


def compare(
    a: str,
    b: str,
    /,
    *,
    split: Literal["train", "validation", "test", "all"] = "test",
    report: Path | None = None,
    config: TrainingConfig = DEFAULTS,
    connections: Connections = NOWHERE,
    config_file: ConfigFile = None,
) -> None:
    """Compare two models on the same sessions, with a paired test of significance.

    The test takes a transmitter for one observation, since its sessions are not independent.
    Reports hold what is needed: two of them are compared without any server. --summary writes
    everything as JSON.

    Parameters
    ----------
    a
        A model file, .ckpt, s3://bucket/key, models:/name@alias, or the report of a run (.html).
    b
        Another one.
    split
        Which part of the sessions; a report has those of its own evaluation.
    report
        Where the page goes; compare-A-B.html in the working directory when unset.
    config_file
        YAML file of flags, such as that of the training.
    """
    del config_file  # read before the other flags had their values
    from heimdall_trainer.comparison import is_report
    from heimdall_trainer.summary import require_writable

    if config.summary:
        require_writable(config.summary)
    if not (is_report(a) and is_report(b)):
        from heimdall_trainer.connections import check_connections

        check_connections(connections)
    from heimdall_trainer.comparison import compare_models

    compare_models((a, b), config, connections, part=split, report=report)
