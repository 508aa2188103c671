"""Operators see every session, decide about it, and are on record for it."""

import threading
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from heimdall_data.catalogue.approval import (
    approved_since,
    decide,
    decisions,
    list_sessions,
    measurements,
    why_unusable,
)
from heimdall_data.catalogue.catalogue import Catalogue
from heimdall_data.catalogue.session import SessionFilter
from heimdall_data.errors import CatalogueError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.testing.fixtures import GENOVA, TORINO, new_session

EVERY = SessionFilter()
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def filled(catalogue, raw_iq_store):
    """A catalogue with sessions that can be trained on, and others."""
    sessions = [
        new_session("approved"),
        replace(new_session("undecided", approval_status="pending"), start=START.replace(hour=13)),
        replace(new_session("failed", status="failed", stations=()), start=START.replace(hour=14)),
    ]
    ingest(catalogue, raw_iq_store, sessions, progress=False)
    return catalogue


def found(catalogue, only=EVERY, **conditions):
    """Names of the sessions that meet conditions."""
    entries, n_all = list_sessions(catalogue, only, **conditions)
    assert n_all == len(entries)
    return [entry.session_name for entry in entries]


def test_every_session_is_listed_the_newest_first(filled):
    """Also one without a recording, which no training would see."""
    assert found(filled) == ["failed", "undecided", "approved"]
    assert found(filled, approval="pending") == ["undecided"]
    assert found(filled, status="failed", approval="approved") == ["failed"]
    assert found(filled, SessionFilter(until=START.replace(hour=13))) == ["approved"]
    assert found(filled, SessionFilter(stations=("Torino",))) == ["undecided", "approved"]
    (first,), n_all = list_sessions(filled, EVERY, limit=1)
    assert (first.session_name, first.start, n_all) == ("failed", START.replace(hour=14), 3)
    assert (first.stations, first.position_deg) == ((), (45.0, 8.0))
    (last,), _ = list_sessions(filled, SessionFilter(until=START.replace(hour=13)))
    assert (last.stations, last.source_name) == ((GENOVA.name, TORINO.name), "Beacon")


def test_a_session_without_source_time_or_decision_is_listed_too(filled):
    """Those are what an operator has to look at."""
    with filled.transaction() as connection:
        connection.execute(
            "ALTER TABLE heimdall.recording_sessions ALTER approval_status DROP NOT NULL, "
            "ALTER known_source_id DROP NOT NULL"
        )
        connection.execute(
            "UPDATE heimdall.recording_sessions SET approval_status = NULL, "
            "known_source_id = NULL, session_start = 'infinity' WHERE session_name = 'failed'"
        )
    (entry,), _ = list_sessions(filled, EVERY, approval="pending", status="failed")
    assert (entry.start, entry.source_name, entry.position_deg) == (None, None, None)
    assert entry.approval_status == "pending"
    assert why_unusable(filled, [entry.id]) == {entry.id: "not approved yet"}


def test_what_is_approved_is_trained_on_and_on_record(filled):
    """A model's data must be answered for: who let them in, when, and why."""
    (entry,), _ = list_sessions(filled, EVERY, approval="pending")
    assert why_unusable(filled, [entry.id]) == {entry.id: "not approved yet"}
    assert decisions(filled, entry.id) == ()
    decide(filled, [entry.id], "approved", by="Ada", reason="carrier is clean")
    assert {session.id for session in filled.sessions()} >= {entry.id}
    assert why_unusable(filled, [entry.id]) == {entry.id: None}
    decide(filled, [entry.id.upper()], "rejected", by="Bob", reason="")
    assert why_unusable(filled, [entry.id]) == {entry.id: "rejected"}
    first, second = decisions(filled, entry.id)
    assert (first.by, first.approval_status, first.reason) == (
        "Ada",
        "approved",
        "carrier is clean",
    )
    assert (second.by, second.approval_status, second.reason) == ("Bob", "rejected", "")
    assert first.at <= second.at
    assert [each.station for each in measurements(filled, entry.id)] == ["Genova", "Torino"]


def test_what_is_newly_approved_is_known_by_its_decision_else_by_its_start(filled):
    """A monitor must neither miss what was recorded long ago nor what the backend approved."""
    entries, _ = list_sessions(filled, EVERY)
    failed, undecided, approved = (entry.id for entry in entries)
    assert approved_since(filled, START) == {approved, failed}
    assert approved_since(filled, START.replace(minute=1)) == {failed}
    decide(filled, [undecided], "approved", by="Ada", reason="")
    (decision,) = decisions(filled, undecided)
    assert approved_since(filled, START) == {approved, failed, undecided}
    assert undecided in approved_since(filled, decision.at)
    assert undecided not in approved_since(filled, decision.at + timedelta(microseconds=1))
    decide(filled, [undecided], "rejected", by="Bob", reason="")
    assert approved_since(filled, START) == {approved, failed}


def test_all_are_decided_or_none(filled):
    """Half of a list would have to be looked for."""
    (entry,), _ = list_sessions(filled, EVERY, approval="pending")
    stranger = str(uuid.uuid4())
    with pytest.raises(CatalogueError, match=f"has no session {stranger}.*nothing was changed"):
        decide(filled, [entry.id, stranger], "approved", by="Ada", reason="")
    assert why_unusable(filled, [entry.id]) == {entry.id: "not approved yet"}
    assert decisions(filled, entry.id) == ()
    with pytest.raises(CatalogueError, match=f"has no session {stranger}"):
        why_unusable(filled, [entry.id, stranger])


def test_the_first_decisions_may_come_at_once(filled):
    """Both find no table for them."""
    ids = [entry.id for entry in list_sessions(filled, EVERY)[0]]
    threads = [
        threading.Thread(target=decide, args=(filled, [each], "rejected"), kwargs=who)
        for each in ids
        for who in ({"by": "Ada", "reason": ""}, {"by": "Bob", "reason": ""})
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sorted(one.by for one in decisions(filled, each)) for each in ids] == [
        ["Ada", "Bob"]
    ] * 3


def test_who_waited_for_the_table_does_not_lock_it(filled, database_url):
    """It would wait for its session, and whoever decides about that session for the table."""
    one, other, _ = (entry.id for entry in list_sessions(filled, EVERY)[0])
    lock = "SELECT FROM heimdall.recording_sessions WHERE id = %s FOR UPDATE"
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = %s"

    def decides(identity, by, waits_for):
        thread = threading.Thread(
            target=decide, args=(filled, [identity], "rejected"), kwargs={"by": by, "reason": ""}
        )
        thread.start()
        wait_for(waits_for)
        return thread

    def wait_for(kind):
        with filled.transaction() as connection:
            for _ in range(6000):
                if connection.execute(waiting, (kind,)).fetchone() != (0,):
                    return
                time.sleep(0.01)
        pytest.fail(f"nobody waits for the lock ({kind})")

    with Catalogue(database_url) as elsewhere, elsewhere.transaction() as third:
        third.execute(lock, (one,))
        with elsewhere.transaction() as fourth:
            fourth.execute(lock, (other,))
            makes_table = decides(other, "Ada", "transactionid")
            waits_for_table = decides(one, "Bob", "advisory")
        makes_table.join()
        wait_for("transactionid")
        third.execute(
            "INSERT INTO heimdall.session_decisions (session_id, decided_by, approval_status, "
            "reason) VALUES (%s, 'Carol', 'approved', '')",
            (one,),
        )
    waits_for_table.join()
    assert [made.by for made in decisions(filled, one)] == ["Carol", "Bob"]


def test_many_may_decide_about_the_same_sessions_at_once(filled):
    """None is refused because of another, and the newest decision on record is what counts."""
    ids = [entry.id for entry in list_sessions(filled, EVERY)[0]]
    refused = []

    def decide_often(by):
        for k in range(40):
            try:
                order = ids[k % 3 :] + ids[: k % 3]
                decide(filled, order, ("approved", "rejected")[by % 2], by=str(by), reason="")
            except CatalogueError as error:
                refused.append(error)

    threads = [threading.Thread(target=decide_often, args=(by,)) for by in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    for entry in list_sessions(filled, EVERY)[0]:
        made = decisions(filled, entry.id)
        assert len(made) == 160
        assert made[-1].approval_status == entry.approval_status
        assert [*made] == sorted(made, key=lambda one: one.at)


@pytest.mark.parametrize(
    ("by", "reason"), [("Ada", "caf\udce9"), ("A\0da", ""), ("", "clear"), (" \t", "clear")]
)
def test_a_decision_of_nobody_or_with_broken_text_is_none(filled, by, reason):
    """A terminal with another character set sends such reasons; a script may leave `by` out."""
    (entry,), _ = list_sessions(filled, EVERY, approval="pending")
    with pytest.raises(CatalogueError, match=r"^(by|reason) "):
        decide(filled, [entry.id], "approved", by=by, reason=reason)
    assert why_unusable(filled, [entry.id]) == {entry.id: "not approved yet"}


def test_a_source_that_is_nowhere_has_no_position(filled):
    """Postgres holds NaN, which no program can read as JSON."""
    with filled.transaction() as connection:
        connection.execute("UPDATE heimdall.known_sources SET latitude = 'NaN'")
    assert {entry.position_deg for entry in list_sessions(filled, EVERY)[0]} == {None}


def test_who_may_only_read_is_told_so(filled, database_url):
    """The backend's database is often given read-only."""
    (entry,), _ = list_sessions(filled, EVERY, approval="pending")
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("DROP ROLE IF EXISTS onlooker")
        owner.execute("CREATE ROLE onlooker LOGIN PASSWORD 'x'")
        owner.execute("GRANT USAGE ON SCHEMA heimdall TO onlooker")
        owner.execute("GRANT SELECT ON ALL TABLES IN SCHEMA heimdall TO onlooker")
        host = database_url.rpartition("@")[2]
        with Catalogue(f"postgresql://onlooker:x@{host}") as reader:
            assert why_unusable(reader, [entry.id]) == {entry.id: "not approved yet"}
            with pytest.raises(CatalogueError, match=r"permission denied.* for user 'onlooker'"):
                decide(reader, [entry.id], "approved", by="Ada", reason="")
        owner.execute("DROP OWNED BY onlooker")
        owner.execute("DROP ROLE onlooker")
    assert why_unusable(filled, [entry.id]) == {entry.id: "not approved yet"}
