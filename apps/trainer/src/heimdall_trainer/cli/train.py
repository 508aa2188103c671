"""`heimdall train`: one run of the pipeline, and a closing table.

Its flags are the fields of `heimdall_trainer.config.TrainingConfig`.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections, check_connections
from heimdall_trainer.events import LogFormat, logged_as, tell
from heimdall_trainer.flags import ConfigFile, Origins, Switch

DEFAULTS = TrainingConfig()
ROOM_BYTES = 6e9
"""For the default backbone with its gradient, its average, two moments, and a batch."""
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
        is_new = not (config.export_only or config.resume_training or config.checkpoint)
        if is_new and origins is not None and origins.is_default("backbone"):
            tell("note", said := about_backbone(config, connections), said=said)
        from heimdall_trainer.console import print_closing
        from heimdall_trainer.pipeline import TrainingPipeline

        outcome = TrainingPipeline(config, connections).run()
        tell("result", **asdict(outcome.summary))
        if log_format == "text":
            print_closing(outcome)


def about_backbone(config: TrainingConfig, connections: Connections) -> str:
    """What the default backbone takes, and what is advised for this machine and these sessions.

    Raises:
        CatalogueError: The catalogue cannot be read.
    """
    import torch
    from heimdall_data import Catalogue

    with Catalogue(connections.need_database()) as catalogue:
        n_sessions = len(catalogue.sessions(config.only, load_up_to=0))
    if torch.cuda.is_available() and config.accelerator != "cpu":
        device, fit = torch.cuda.get_device_name(), "fits"
        memory_bytes = torch.cuda.get_device_properties(0).total_memory
    else:
        device, fit = "no GPU", "is slow"
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if memory_bytes < ROOM_BYTES:
        fit = "does not fit"
    return (
        f"--backbone is unset: {DEFAULTS.backbone}, 785 MB of weights, 3.9 GB to train\n"
        f"it {fit} here ({device}, {memory_bytes / 1e9:.0f} GB, {n_sessions:,} sessions); "
        "first try --backbone convnext_atto, 14 MB"
    )
