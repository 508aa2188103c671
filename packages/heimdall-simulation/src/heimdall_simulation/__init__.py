"""Simulated recordings: honest physics, with the truth of every nuisance beside each session.

`simulate_sessions` makes sessions that go through the same ingestion as recorded ones. The
modules, from the earth to the session: `geometry`, `propagation`, `shadowing` (where and how
strong), `channel` (fading, echoes), `voice`, `fm`, `packets`, `modulation`, `waveforms` (what
is sent), `interference` (who else sends), `receiver`, `levels`, `kiwi_payload` (what is
written), `scenario`, `drawing` (what is drawn), `sessions`; and `cramer_rao`, how well it could
be located.

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
