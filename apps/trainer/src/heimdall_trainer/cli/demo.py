"""`heimdall demo`: the whole path on embedded servers and simulated recordings.

Ingestion, training, export and evaluation are those of every other command.
"""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import sys
import textwrap
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from heimdall_data.catalogue.session import SessionFilter

from heimdall_trainer.cli.ingest import MOST_SIMULATED, SimulationFlags, open_servers
from heimdall_trainer.config import TrainingConfig, require_writable
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import TrainerError, UsageError
from heimdall_trainer.flags import ConfigFile

if TYPE_CHECKING:
    from heimdall_data import Session

    from heimdall_trainer.console import RunOutcome
    from heimdall_trainer.data import TrainingData

DEMO_RECEIVERS = ("Torino", "Genova", "Milano-Baggio")
"""Three of the seven stations, as far apart as the region allows."""
N_STATIONS = 7
FEWEST_TIMED = 200
"""Sessions of which the split leaves 50 or more for training, which the network of times takes."""
WIDTH = 80
UNSEEN = "unseen"
"""Folder of the recordings of a transmitter that was not trained on."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Size of a demonstration."""

    sessions: Annotated[int, Parameter(validator=Number(gte=1, lte=MOST_SIMULATED))] = 300
    """Simulated recording sessions, a tenth of which have something missing."""
    epochs: int = 5
    """Most passes over the training sessions."""
    seed: int = 42
    """Seed of the recordings, the split and the weights."""
    features: Literal["mel", "mel+timing"] = "mel+timing"
    """With timing: seven receivers that have GNSS clocks, and a model that uses them; without:
    the levels of three receivers."""
    summary: Path | None = None
    """Write the run's summary to this JSON file."""


DEFAULTS = DemoConfig()


def demo(
    *,
    config: DemoConfig = DEFAULTS,
    state_dir: Annotated[Path | None, Parameter(env_var="HEIMDALL_STATE_DIR")] = None,
    config_file: ConfigFile = None,
) -> None:
    """Simulate recordings, train on them, export, evaluate, and write a report to look at.

    Parameters
    ----------
    state_dir
        Where servers keep their data; the user data directory when unset.
    config_file
        YAML file of these flags, such as `epochs: 20`.
    """
    del config_file  # read before the other flags had their values
    if find_spec("torch") is None:  # Its import takes seconds, and comes after the simulation.
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    timed = config.features == "mel+timing"
    if timed and config.sessions < FEWEST_TIMED:
        raise UsageError(
            f"--sessions is {config.sessions}, too few to learn from arrival times; give "
            f"{FEWEST_TIMED} or more, or --features mel"
        )
    training = TrainingConfig(
        epochs=config.epochs,
        timing_epochs=config.epochs,
        # At 1e-3 the heads, which learn five times faster, overshoot on a few hundred sessions:
        # 36 km of median validation error after 40 epochs instead of 32.
        learning_rate=3e-4,
        seed=config.seed,
        summary=config.summary,
        backbone="convnext_atto",
        features=config.features,
        receivers=() if timed else DEMO_RECEIVERS,
        n_receivers=N_STATIONS if timed else len(DEMO_RECEIVERS),
        validation_split=0.2,
        test_split=0.4,
    )
    state = Connections(state_dir=state_dir).state_directory()
    require_writable(config.summary)
    from heimdall_data.embedded import EmbeddedStack
    from heimdall_simulation import session_start

    from heimdall_trainer.events import tell

    tell("stage", "starting Postgres and S3 …", stage="servers", state="begun")
    # Servers of this seed alone, so that its recordings are mixed with no others.
    folder = state / "demo" / (f"seed-{config.seed}" + ("-timing" if timed else ""))
    with EmbeddedStack(folder) as stack:
        if stack.is_anothers:
            raise TrainerError(
                f"another demo runs in {folder} and stops its servers at its end; wait for it, or "
                "give another --seed or --state-dir"
            )
        connections = Connections.to_stack(stack)
        fill(connections, config)
        from heimdall_trainer.pipeline import TrainingPipeline  # 8 s: after the first lines

        only = SessionFilter(until=session_start(config.sessions))  # There may be more.
        training = replace(training, only=only)
        outcome = TrainingPipeline(training, connections, resumable=False).run()
        unseen = keep_unseen(outcome.data, connections, folder / UNSEEN) if timed else None
    print_end(outcome, config, folder, unseen)


def fill(connections: Connections, config: DemoConfig) -> None:
    """Store the simulated sessions that the catalogue does not have yet.

    With timing they are in KiwiSDR's format, which has GNSS clocks.

    Raises:
        DataError: A server refused.
    """
    from heimdall_data.ingest.ingest import ingest
    from heimdall_simulation import simulate_sessions

    from heimdall_trainer.events import tell

    catalogue, store = open_servers(connections)
    with catalogue:
        catalogue.create_schema()
        if len(catalogue.sessions()) + sum(catalogue.rejected_counts().values()) >= config.sessions:
            return
        text = f"simulating {config.sessions} sessions …"
        tell("stage", text, stage="simulation", state="begun")
        radio = SimulationFlags(recording_format="npy" if config.features == "mel" else "kiwi_wav")
        simulated = simulate_sessions(
            config.sessions, config.seed, radio.scenario(), workers=os.cpu_count() or 1
        )
        made = (session.new_session for session in simulated)
        ingest(catalogue, store, made, progress=sys.stderr.isatty(), total=config.sessions)


def keep_unseen(data: TrainingData, connections: Connections, folder: Path) -> Session:
    """Copy the recordings of a test session out of the store, with a table of the stations.

    Raises:
        DataError: The store refused.
        OSError: The folder cannot be written.
    """
    from heimdall_data import ObjectStore

    store = ObjectStore(s3 := connections.need_s3(), s3.raw_iq_bucket)
    damaged = {left.session_id for left in data.unusable}
    session = next(s for s in data.test.sessions if s.id not in damaged)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for each in session.measurements:
        # As kiwirecorder names its files, whose stamps lack the week.
        name = f"{session.start:%Y%m%dT%H%M%SZ}_{session.frequency_hz:.0f}_{each.station}_iq.wav"
        (folder / name).write_bytes(store.get(each.key))
    with (folder / "stations.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("name", "latitude", "longitude", "altitude_m"))
        table.writerows((s.name, *s.position_deg, s.altitude_m or 0) for s in data.receivers)
    return session


def print_end(
    outcome: RunOutcome, config: DemoConfig, folder: Path, unseen: Session | None
) -> None:
    """Print the results, what they mean, where they are, and commands to go on with."""
    from heimdall_evaluation.evaluate import print_evaluation, verdict

    data, summary, evaluated = outcome.data, outcome.summary, outcome.delivery.evaluated
    n_used = sum(map(len, (data.train, data.validation, data.test)))
    n_damaged = len(data.unusable)
    print()
    print_evaluation(evaluated)
    for text in (
        verdict(evaluated.evaluation),
        f"On purpose, as in practice: {config.sessions - n_used} of {config.sessions} sessions "
        "cannot be used (not approved, failed, or of an unknown position), and the simulator "
        f"damaged or removed the files of {n_damaged} recordings, which were left out.",
    ):
        print(f"\n{textwrap.fill(text, WIDTH)}")
    report = "none" if outcome.report is None else outcome.report.relative_to(folder)
    print(
        f"\nAll of it is in {typed(folder)}\n"
        f"  report  {report}\n"
        f"  model   version {summary.model_version}, alias staging\n"
        f"  file    {Path(summary.onnx_path).parent.relative_to(folder)}/*.onnx\n"
        f"  took    {summary.elapsed_seconds:.0f} s\n"
        f"\nNext:\n  cd {typed(folder)}"
    )
    heimdall = program()
    commands = [
        ("its models", "models list --state-dir ."),
        ("its servers again, for `heimdall evaluate` and others", "stack up --state-dir ."),
    ]
    if unseen is None:
        commands.insert(1, ("its model", f"models show {summary.model_version} --state-dir ."))
    else:
        latitude, longitude = unseen.position_deg
        what = f"one of the unseen, by times alone; it is at {latitude:.5f}, {longitude:.5f}"
        commands.insert(0, (what, f"locate {UNSEEN} --stations {UNSEEN}/stations.csv"))
    for what, words in commands:
        print(f"  # {what}\n  {heimdall} {words}")


def program() -> str:
    """The running program, as it is typed in any folder."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return f"{typed(Path(sys.executable))} -m heimdall_trainer"
    return typed(Path(shutil.which(path) or path).absolute())


def typed(path: Path) -> str:
    """A path as it is typed in a shell, below the home directory with a tilde."""
    # Not Path.home(), which fails for a user without one.
    if path.is_relative_to(home := os.path.expanduser("~")):  # noqa: PTH111
        return f"~/{shlex.quote(str(path.relative_to(home)))}"
    return shlex.quote(str(path))
