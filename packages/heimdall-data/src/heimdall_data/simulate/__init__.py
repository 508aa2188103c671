"""Simulated recordings: honest physics, with the truth of every nuisance beside each session.

`simulate_sessions` makes sessions that go through the same ingestion as recorded ones. The
modules, from the earth to the session: `geometry`, `propagation`, `shadowing` (where and how
strong), `voice`, `fm` (what is sent), `receiver`, `levels` (what is written), `scenario`,
`drawing` (what is drawn), `sessions`; and `cramer_rao`, how well it could be located.
"""

from heimdall_data.simulate.drawing import simulate_truths
from heimdall_data.simulate.scenario import NO_MISHAPS, NORTHWEST_ITALY, Mishaps, Scenario
from heimdall_data.simulate.sessions import SimulatedSession, simulate_session, simulate_sessions
from heimdall_data.simulate.truth import ReceptionTruth, SessionTruth, SourceTruth

__all__ = [
    "NORTHWEST_ITALY",
    "NO_MISHAPS",
    "Mishaps",
    "ReceptionTruth",
    "Scenario",
    "SessionTruth",
    "SimulatedSession",
    "SourceTruth",
    "simulate_session",
    "simulate_sessions",
    "simulate_truths",
]
