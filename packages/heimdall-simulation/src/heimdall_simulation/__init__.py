"""Simulated recordings with the truth of every nuisance beside each session.

`simulate_sessions` makes sessions that go through the same ingestion as recorded ones. The
modules, from the earth to the session: `geometry`, `propagation`, `world` (places and losses),
`channel` (fading, echoes, interferers), `voice`, `packets`, `waveforms` (transmitted signals),
`receiver` (converter, files, levels), `scenario` (settings), `truth`, `drawing` (random draws),
`sessions`; and `cramer_rao`, bounds on any estimate of the position.

All beyond FM over a still, direct path is off until a `Scenario` asks for it.
"""

from heimdall_simulation.channel import Channel, Interference
from heimdall_simulation.drawing import simulate_truths
from heimdall_simulation.modulation import MODULATIONS, Modulation
from heimdall_simulation.scenario import NO_MISHAPS, NORTHWEST_ITALY, Mishaps, Scenario
from heimdall_simulation.sessions import SimulatedSession, simulate_session, simulate_sessions
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
    "ReceptionTruth",
    "RicianTruth",
    "Scenario",
    "SessionTruth",
    "SimulatedSession",
    "SourceTruth",
    "simulate_session",
    "simulate_sessions",
    "simulate_truths",
]
