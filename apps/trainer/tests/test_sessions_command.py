"""`heimdall sessions`: operators approve recordings without SQL."""

import json

import pytest
from heimdall_data import Catalogue, ObjectStore
from heimdall_data.ingest.ingest import ingest
from heimdall_data.testing.fixtures import new_session


@pytest.fixture
def stored(empty):
    """Connections to a catalogue with two sessions, one of them undecided."""
    s3 = empty.need_s3()
    sessions = [new_session(), new_session("evening", approval_status="pending")]
    with Catalogue(empty.need_database()) as catalogue:
        catalogue.create_schema()
        ingest(catalogue, ObjectStore(s3, s3.raw_iq_bucket), sessions, progress=False)
    return empty


def test_a_pending_session_is_found_looked_at_and_approved(stored, heimdall_here):
    """The way of every recording into training."""

    def run(*words):
        done = heimdall_here("sessions", *words, connections=stored)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    (pending,) = json.loads(run("list", "--approval", "pending", "--json"))
    identity = pending["id"]
    assert pending["stations"] == ["Genova", "Torino"]
    assert "not trained on: not approved yet" in run("show", identity)
    said = run("approve", identity, "--reason", "clean carrier", "--by", "Ada")
    assert said == f"{identity} is approved\n"
    assert run("list", "--approval", "pending") == f"no such session in {where(stored)}\n"
    shown = json.loads(run("show", identity, "--json"))
    assert (shown["unusable"], shown["approval_status"]) == (None, "approved")
    assert [each["station"] for each in shown["recordings"]] == ["Genova", "Torino"]
    (decision,) = shown["decisions"]
    assert (decision["by"], decision["reason"]) == ("Ada", "clean carrier")
    run("reject", identity, "--by", "Bob")
    *_, state, first, second = run("show", identity).splitlines()
    assert state == "not trained on: rejected"
    assert first == f"{decision['at'][:16].replace('T', ' ')}  Ada: approved  clean carrier"
    assert second.endswith("  Bob: rejected  ")
    assert "1 older; --limit 2 lists them" in run("list", "--limit", "1")


def where(connections):
    """How errors name the database."""
    with Catalogue(connections.need_database()) as catalogue:
        return catalogue.where


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "no session is given; see `heimdall sessions list --approval pending`"),
        (("morning",), "'morning' is no id of a session, which is a UUID"),
    ],
)
def test_who_names_no_session_is_told_how(stored, heimdall_here, words, told):
    """A name is not enough: sources have sessions of the same name."""
    done = heimdall_here("sessions", "approve", *words, connections=stored)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


def test_what_programs_read_is_json_and_says_when_it_is_cut(stored, heimdall_here):
    """`jq` and `xargs` approve what is listed: it must be readable, and nobody may think it all."""
    with Catalogue(stored.need_database()) as catalogue, catalogue.transaction() as connection:
        connection.execute("UPDATE heimdall.measurements SET snr_db = 'NaN'")
        connection.execute("UPDATE heimdall.known_sources SET latitude = 'Infinity'")
    listed = heimdall_here("sessions", "list", "--json", "--limit", "1", connections=stored)
    (entry,) = json.loads(listed.stdout)
    assert entry["position_deg"] is None
    assert listed.stderr == "... and 1 older; --limit 2 lists them\n"
    shown = heimdall_here("sessions", "show", entry["id"], "--json", connections=stored)
    told = json.loads(shown.stdout, parse_constant=pytest.fail)
    assert {each["snr_db"] for each in told["recordings"]} == {None}
    assert [type(each["start"]) for each in told["recordings"]] == [str, str]


def test_several_sessions_are_approved_and_each_says_why_it_is_not_trained_on(
    stored, heimdall_here, database_url
):
    """Asked once for all, which takes seconds in a large catalogue."""
    with Catalogue(database_url) as catalogue, catalogue.transaction() as connection:
        connection.execute("UPDATE heimdall.recording_sessions SET status = 'failed'")
    entries = json.loads(heimdall_here("sessions", "list", "--json", connections=stored).stdout)
    ids = [entry["id"] for entry in entries]
    done = heimdall_here("sessions", "approve", *ids, connections=stored)
    assert done.stdout.splitlines() == [
        f"{each} is approved, but not trained on: not completed" for each in ids
    ]


def test_an_unknown_session_is_no_decision(stored, heimdall_here):
    """A slip must not be taken for an approval."""
    nobody = "00000000-0000-4000-8000-000000000000"
    done = heimdall_here("sessions", "reject", nobody, connections=stored)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"has no session {nobody}; see `heimdall sessions list`; nothing was" in done.stderr
