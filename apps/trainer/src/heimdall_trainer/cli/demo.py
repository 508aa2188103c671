"""`heimdall demo`: the whole path, on servers and recordings that it brings along."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from heimdall_trainer.cli.flags import ConfigFile
from heimdall_trainer.connections import Connections

__all__ = ["demo"]


def demo(
    *,
    sessions: int = 900,
    epochs: int = 40,
    seed: int = 42,
    features: Literal["mel", "mel+timing"] = "mel",
    summary: Path | None = None,
    state_dir: Annotated[Path | None, Parameter(env_var="HEIMDALL_STATE_DIR")] = None,
    config_file: ConfigFile = None,
) -> None:
    """Simulate recordings, train on them, export, evaluate, and write a report to look at.

    Parameters
    ----------
    sessions
        Simulated recording sessions, a tenth of which have something missing.
    epochs
        Most passes over the training sessions.
    seed
        Of the recordings, the split and the weights.
    features
        With timing: seven receivers that have GNSS clocks, and a model that uses them.
    summary
        Write the run's summary to this JSON file.
    state_dir
        Where servers keep their data; the user data directory when unset.
    config_file
        YAML file of these flags, such as `epochs: 20`.
    """
    del config_file  # read before the other flags had their values
    folder = Connections(state_dir=state_dir).state_directory()
    from heimdall_trainer.console import print_closing
    from heimdall_trainer.demo import DemoConfig, run_demo

    config = DemoConfig(
        n_sessions=sessions, epochs=epochs, seed=seed, features=features, summary=summary
    )
    print_closing(run_demo(config, folder))
