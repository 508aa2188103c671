"""`heimdall train`: one call of the pipeline, and a closing table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from heimdall_trainer.connections import Connections
from heimdall_trainer.flag_sources import ConfigFile, Origins  # noqa: TC001 - cyclopts reads
from heimdall_trainer.run_log import LogFormat, logged_as, tell
from heimdall_trainer.training_config import TrainingConfig

__all__ = ["train"]

DEFAULTS = TrainingConfig()
NOWHERE = Connections()
Mode = Annotated[bool, Parameter(negative="")]


def train(
    *,
    config: TrainingConfig = DEFAULTS,
    connections: Connections = NOWHERE,
    config_file: ConfigFile = None,
    print_config: Mode = False,
    dry_run: Mode = False,
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
        _print_config(config, connections, origins)
        return
    with logged_as(log_format):
        if dry_run:
            _check(config, connections)
        else:
            _train(config, connections, tables=log_format == "text")


def _print_config(
    config: TrainingConfig, connections: Connections, origins: Origins | None
) -> None:
    from heimdall_trainer.print_config import config_yaml

    settings = origins.settings if origins else ()
    print(config_yaml(settings, {"config": config, "connections": connections}), end="")


def _check(config: TrainingConfig, connections: Connections) -> None:
    from heimdall_trainer.dry_run import dry_run

    dry_run(config, connections)


def _train(config: TrainingConfig, connections: Connections, *, tables: bool) -> None:
    from heimdall_trainer.preflight import check_connections

    check_connections(connections)
    from heimdall_trainer.closing import print_closing
    from heimdall_trainer.pipeline import TrainingPipeline

    outcome = TrainingPipeline(config, connections).run()
    tell("result", **asdict(outcome.summary))
    if tables:
        print_closing(outcome)
