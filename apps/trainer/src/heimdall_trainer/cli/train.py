"""`heimdall train`: one run of the pipeline, and a closing table.

Its flags are the fields of `heimdall_trainer.config.TrainingConfig`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections, check_connections
from heimdall_trainer.events import LogFormat, logged_as, tell
from heimdall_trainer.flags import ConfigFile, Origins, Switch

DEFAULTS = TrainingConfig()
NOWHERE = Connections()


def train(
    *,
    config: TrainingConfig = DEFAULTS,
    connections: Connections = NOWHERE,
    config_file: ConfigFile = None,
    print_config: Switch = False,
    dry_run: Switch = False,
    log_format: LogFormat = "text",
    origins: Annotated[Origins | None, Parameter(parse=False)] = None,
) -> None:
    """Train a model on the approved recordings, export, register and evaluate it.

    Parameters
    ----------
    config_file
        YAML file of flags, such as `epochs: 40`; flags and variables come before it.
    print_config
        Print every value and where it comes from, as such a file, and do nothing else.
    dry_run
        Check configuration, connections, data and one batch, say how long an epoch will take, and
        store nothing.
    log_format
        What standard output has: lines and tables for people, or one JSON object an event.
    """
    del config_file  # read before the other flags had their values
    if print_config:
        values = {"config": config, "connections": connections, "log_format": log_format}
        print((origins or Origins()).yaml(values), end="")
        return
    with logged_as(log_format):
        if dry_run:
            from heimdall_trainer import dry_run as checks

            checks.dry_run(config, connections)
            return
        check_connections(connections)
        from heimdall_trainer.console import print_closing
        from heimdall_trainer.pipeline import TrainingPipeline

        outcome = TrainingPipeline(config, connections).run()
        tell("result", **asdict(outcome.summary))
        if log_format == "text":
            print_closing(outcome)
