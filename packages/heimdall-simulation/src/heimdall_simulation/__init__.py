"""Simulated recordings, with the true value of every nuisance of each session.

`simulate_sessions` makes sessions that are ingested like recorded ones. Modules, from the earth
to the session: `geometry`, `propagation`, `world` (stations and shadowing), `channel` (fading,
echoes, interferers), `voice`, `modulation`, `waveforms` (transmitted signals), `receiver`
(converter, files, levels), `scenario` (settings), `truth`, `drawing` (random draws), `sessions`;
and `cramer_rao`, lower bounds on the error of any position estimate.

Everything beyond FM over a constant, direct path is off unless a `Scenario` turns it on.
"""

from heimdall_simulation.channel import Channel, Interference
from heimdall_simulation.drawing import simulate_truths
from heimdall_simulation.modulation import MODULATIONS, Modulation
from heimdall_simulation.propagation import Propagation, Wave
from heimdall_simulation.scenario import NO_MISHAPS, NORTHWEST_ITALY, Mishaps, Scenario
from heimdall_simulation.sessions import (
    SimulatedSession,
    session_start,
    simulate_session,
    simulate_sessions,
)
from heimdall_simulation.truth import (
    EchoTruth,
    InterfererTruth,
    ReceptionTruth,
    RicianTruth,
    SessionTruth,
    SourceTruth,
)

__version__ = "0.1.0"

__all__ = [
    "MODULATIONS",
    "NORTHWEST_ITALY",
    "NO_MISHAPS",
    "Channel",
    "EchoTruth",
    "Interference",
    "InterfererTruth",
    "Mishaps",
    "Modulation",
    "Propagation",
    "ReceptionTruth",
    "RicianTruth",
    "Scenario",
    "SessionTruth",
    "SimulatedSession",
    "SourceTruth",
    "Wave",
    "session_start",
    "simulate_session",
    "simulate_sessions",
    "simulate_truths",
]
