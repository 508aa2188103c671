"""Simulated sessions are ingested like recorded ones, on real servers."""

from collections import Counter
from dataclasses import replace

import pytest
from heimdall_data.errors import ObjectMissing, RecordingError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.recordings.decode import decode
from heimdall_simulation import NORTHWEST_ITALY, Mishaps, simulate_sessions, simulate_truths

MISHAPS = Mishaps(
    receiver_down=0.3,
    pending=0.1,
    rejected=0.1,
    failed=0.1,
    no_position=0.1,
    object_missing=0.2,
    object_truncated=0.2,
)
SCENARIO = replace(NORTHWEST_ITALY, n_samples=1024, mishaps=MISHAPS)
N_SESSIONS = 40


def new_sessions():
    """The sessions to ingest, made on demand."""
    return (session.new_session for session in simulate_sessions(N_SESSIONS, 3, SCENARIO))


@pytest.fixture
def stored(catalogue, raw_iq_store):
    """Report of a first ingestion."""
    return ingest(catalogue, raw_iq_store, new_sessions(), progress=False)


def usable_truths():
    """Truths of the sessions that the contract uses: completed, approved, of a known place."""
    return [
        truth
        for truth in simulate_truths(N_SESSIONS, 3, SCENARIO)
        if (truth.status, truth.approval_status) == ("completed", "approved")
        and truth.source.position_known
    ]


def damage(store, measurement):
    """Damage of an object that reading it shows."""
    try:
        data = store.get(measurement.key)
        decode(data, measurement.format, name=measurement.key, sample_rate_hz=48_000.0)
    except ObjectMissing:
        return "missing"
    except RecordingError:
        return "truncated"
    return None


def test_the_catalogue_returns_the_usable_sessions(stored, catalogue):
    """Pending, rejected and failed sessions and those without position are stored, not used."""
    expected = {t.source.position_deg: len(t.receptions) for t in usable_truths()}
    found = {s.position_deg: len(s.measurements) for s in catalogue.sessions()}
    assert stored.sessions_added == N_SESSIONS
    assert found == expected
    assert sum(catalogue.rejected_counts().values()) == N_SESSIONS - len(expected)


def test_damaged_objects_are_damaged_in_the_store(stored, catalogue, raw_iq_store):
    """The pipeline finds the damage where operators find it: when it reads."""
    expected = Counter(r.damage for t in usable_truths() for r in t.receptions)
    found = Counter(
        damage(raw_iq_store, measurement)
        for session in catalogue.sessions()
        for measurement in session.measurements
    )
    assert found == expected
    assert min(expected["missing"], expected["truncated"]) >= 2


def test_ingesting_the_simulation_again_changes_nothing(stored, catalogue, raw_iq_store):
    """The second run of the demo finds its sessions, and does not repair the damage."""
    before = {found.key: found.etag for found in raw_iq_store.list()}
    again = ingest(catalogue, raw_iq_store, new_sessions(), progress=False)
    assert again.sessions_known == N_SESSIONS
    assert again.objects_stored == 0
    assert {found.key: found.etag for found in raw_iq_store.list()} == before
