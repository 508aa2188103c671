"""The main job on embedded servers and simulated recordings: `heimdall demo`.

Nothing here is special to the demo but where the servers come from and who made the
recordings: ingestion, training, export and evaluation are those of every other command.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from heimdall_data import Catalogue, ObjectStore
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.ingest.ingest import ingest
from heimdall_models.training.events import tell
from heimdall_simulation import simulate_sessions
from tqdm import tqdm

from heimdall_trainer.cli.simulation_flags import SimulationFlags
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.pipeline import TrainingPipeline

if TYPE_CHECKING:
    from pathlib import Path

    from heimdall_trainer.summary import RunOutcome

__all__ = ["DEMO_RECEIVERS", "DemoConfig", "run_demo"]

DEMO_RECEIVERS = ("Torino", "Genova", "Milano-Baggio")
"""Three of the seven stations, as far apart as the region allows."""

N_STATIONS = 7
"""All of them, where each has a clock."""
N_SIMULATORS = os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How large a demonstration."""

    n_sessions: int = 900
    epochs: int = 40
    seed: int = 42
    features: Literal["mel", "mel+timing"] = "mel"
    """With timing, seven receivers record in KiwiSDR's format, which has GNSS clocks."""
    summary: Path | None = None

    @property
    def folder(self) -> str:
        """Where the servers' data are, below the demonstrations'."""
        return f"seed-{self.seed}" + ("" if self.features == "mel" else "-timing")

    @property
    def radio(self) -> SimulationFlags:
        """What is simulated."""
        return SimulationFlags(
            recording_format="npy" if self.features == "mel" else "kiwi_wav",
        )


def run_demo(config: DemoConfig, state_dir: Path) -> RunOutcome:
    """Start servers, fill them once, train, export, evaluate, report, and stop the servers.

    Each seed has its own servers' data, with clocks and without, apart from those of
    `heimdall stack`, so that no simulated recording ever stands beside a real one.

    Raises:
        ValueError: A step failed; the servers are stopped all the same.
    """
    tell("stage", "starting Postgres and S3 …", stage="servers", state="begun")
    with EmbeddedStack(state_dir / "demo" / config.folder) as stack:
        connections = Connections.to_stack(stack)
        fill(connections, config)
        return TrainingPipeline(_training(config), connections).run()


def _training(config: DemoConfig) -> TrainingConfig:
    receivers = DEMO_RECEIVERS if config.features == "mel" else ()
    return TrainingConfig(
        epochs=config.epochs,
        # At 1e-3 the heads, which learn five times faster, overshoot on a few hundred sessions:
        # 36 km of median validation error after 40 epochs instead of 32.
        learning_rate=3e-4,
        seed=config.seed,
        summary=config.summary,
        backbone="convnext_atto",
        features=config.features,
        receivers=receivers,
        n_receivers=len(receivers) or N_STATIONS,
        validation_split=0.15,
        test_split=0.15,
    )


def fill(connections: Connections, config: DemoConfig) -> None:
    """Store the simulated sessions that the catalogue does not have yet.

    Raises:
        DataError: A server refused.
    """
    s3 = connections.need_s3()
    store = ObjectStore(s3, s3.raw_iq_bucket)
    with Catalogue(connections.need_database()) as catalogue:
        catalogue.create_schema()
        n_there = len(catalogue.sessions()) + sum(catalogue.rejected_counts().values())
        if n_there >= config.n_sessions:
            return
        said = f"simulating {config.n_sessions} sessions …"
        tell("stage", said, stage="simulation", state="begun")
        scenario = config.radio.scenario()
        simulated = simulate_sessions(
            config.n_sessions, config.seed, scenario, workers=N_SIMULATORS
        )
        with tqdm(total=config.n_sessions, desc="simulate", unit="session", disable=None) as bar:
            ingest(catalogue, store, (made.new_session for made in simulated), progress=bar.update)
