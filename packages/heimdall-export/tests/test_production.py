"""One owner of production: processes at once, killed, stopped, on every backend of MLflow."""

import itertools
import json
import random
import re
import sqlite3
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from heimdall_export import ExportError, list_versions, promote, rollback
from heimdall_export.registry.production import (
    Decision,
    Entry,
    Move,
    Production,
    Seen,
    State,
    state_after,
)
from heimdall_export.registry.promotion import moves
from heimdall_export.registry.versions import RegisteredVersion
from heimdall_export.tracking.client import open_client
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities.model_registry import (
    RegisteredModel,
    RegisteredModelAlias,
    RegisteredModelTag,
)

pytestmark = pytest.mark.slow

AT_ONCE = 3
ROUNDS = 2
WRITES = range(1, 8)
"""More than any act has; one that is not reached kills nobody."""

versions = st.sampled_from("123")
AT = {"at": "2026-01-01T00:00:00+00:00", "by": "ann", "why": ""}
FIRST = Entry(id="first", decision=Decision(version=None, instead_of=""))


def moved(version, instead_of, action):
    """A decision that moves production."""
    move = Move(action=action, version=version, **AT)
    return Decision(version=version, instead_of=instead_of, moves=(move,))


decisions = st.builds(
    moved, versions, st.none() | versions, st.sampled_from(["promote", "rollback"])
) | st.builds(Decision, version=versions, is_deletion=st.just(True))
journals = st.lists(decisions, max_size=30).map(
    lambda made: [FIRST, *(Entry(id=str(n), decision=each) for n, each in enumerate(made))]
)


@given(journals)
def test_what_was_deleted_is_never_in_production(journal):
    """Services load it when they restart."""
    for length in range(len(journal) + 1):
        state = state_after(journal[:length])
        assert state.production not in state.deleted


@given(journals)
def test_the_history_ends_in_the_version_in_production(journal):
    """A history that ends elsewhere sends a rollback to the wrong version."""
    state = state_after(journal)
    assert [move.version for move in state.moves[-1:]] == [state.production] * bool(state.moves)
    assert (state.production is None) == (not state.moves)


@given(journals, st.data())
def test_a_decision_that_is_recorded_twice_counts_once(journal, data):
    """MLflow's client repeats a request whose answer it did not get."""
    again = data.draw(st.sampled_from(journal))
    place = data.draw(st.integers(journal.index(again) + 1, len(journal)))
    repeated = [*journal[:place], again, *journal[place:]]
    assert state_after(repeated) == state_after(journal)


@given(journals, journals)
def test_later_decisions_do_not_undo_the_validity_of_earlier_ones(journal, later):
    """Who was told that a promotion succeeded must find it in the history for ever."""
    more = [replace(entry, id=f"later {entry.id}") for entry in later]
    before = state_after(journal)
    after = state_after([*journal, *more])
    assert [*after.valid][: len(before.valid)] == [*before.valid]
    assert after.moves[: len(before.moves)] == before.moves


@given(st.lists(st.text(max_size=4), max_size=30))
def test_the_log_fits_into_its_tag_and_ends_in_the_newest_move(reasons):
    """Postgres refuses a longer one, and JSON needs twelve characters for a rare letter."""
    made = [Move(action="promote", version="1", **AT | {"why": why * 25}) for why in reasons]
    newest = [asdict(move) for move in made[-20:]]
    text = State(moves=tuple(made)).log
    log = json.loads(text)
    assert len(text) <= 5000
    assert log == newest[len(newest) - len(log) :]
    assert log == newest or len(json.dumps(newest[-len(log) - 1 :])) > 5000


def registry_with(alias, stages, log):
    """The registry as it is read, with version 2 decided on and version 3 deleted."""
    deleted = Decision(version="3", is_deletion=True)
    made = [Decision(version="1", instead_of=""), moved("2", "1", "promote"), deleted]
    journal = state_after(Entry(id=str(n), decision=each) for n, each in enumerate(made))
    return Seen(
        model=RegisteredModel(
            "m",
            aliases=[RegisteredModelAlias(*one) for one in alias.items()],
            tags=[RegisteredModelTag("production.log", log)],
        ),
        versions=tuple(
            RegisteredVersion(
                version=number,
                run_id="",
                tags={"stage": stage} if stage else {},
                aliases=tuple(name for name, which in alias.items() if which == number),
            )
            for number, stage in stages.items()
        ),
        journal=journal,
    )


def test_every_copy_that_differs_from_what_was_decided_is_told(tracking_uri):
    """`heimdall doctor` prints these lines, and the next decision corrects what they tell."""
    production = Production(open_client(tracking_uri), "m")
    stages = {"4": "Staging", "3": "Staging", "2": "Archived", "1": "Production"}
    said = production.disagreements(registry_with({"production": "1"}, stages, "[]"))
    assert said == (
        "version 2 was put into production, the alias is 1",
        "version 3 has the tag stage=Staging, Deleting was decided",
        "version 2 has the tag stage=Archived, Production was decided",
        "version 1 has the tag stage=Production, Archived was decided",
        "the tag production.log is not the log of what was decided",
    )
    right = {"4": "Staging", "3": "Deleting", "2": "Production", "1": "Archived", "0": None}
    log = registry_with({}, {}, "").journal.log
    assert production.disagreements(registry_with({"production": "2"}, right, log)) == ()


def test_stages_stay_where_nothing_was_decided(tracking_uri):
    """Somebody else's `Production` is not ours to archive."""
    seen = registry_with({}, {"1": "Production"}, "[]")
    production = Production(open_client(tracking_uri), "m")
    assert production.disagreements(replace(seen, journal=State())) == ()


class Contenders:
    """Processes that decide about one model, on one backend."""

    def __init__(self, address, model):
        self.address, self.model = address, model
        self.client = open_client(address)
        self.client.create_registered_model(model)
        script = Path(__file__).with_name("contender.py")
        self._process = subprocess.Popen(
            [sys.executable, script, address, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def let(self, *orders, go_on=None):
        """Have an order each carried out at once, or a stopped process go on; what was done."""
        order = [*orders] if go_on is None else go_on
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return [*iter(lambda: json.loads(next(self._process.stdout)), None)]

    def register(self, number):
        """Add versions; their numbers."""
        tags = {"stage": "Staging"}
        made = [
            self.client.create_model_version(self.model, "s3://nowhere/model", tags=tags)
            for _ in range(number)
        ]
        return [str(one.version) for one in made]

    def check(self):
        """Production as everybody sees it: one version, which exists; what was done to it."""
        by_mlflow = list_versions(self.client, self.model)
        assert list_versions(self.address, self.model) == by_mlflow
        there = {found.version: found for found in by_mlflow}
        done = moves(self.client, self.model)
        model = self.client.get_registered_model(self.model)
        present = str(model.aliases["production"])
        assert present in there
        assert [n for n, v in there.items() if v.tags["stage"] == "Production"] == [present]
        assert done[-1].version == present
        log = json.loads(model.tags["production.log"])
        assert log == [asdict(move) for move in done[-20:]]
        return there, done

    def end(self):
        """End the process that starts the others."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(params=["sqlite", "postgres", "http"])
def contenders(request, tracking_uri, model_name):
    """On SQLite, on Postgres, and on a server whose database is out of reach."""
    address = tracking_uri
    if request.param != "sqlite":
        server = request.getfixturevalue("mlflow_server")
        address = server.uri if request.param == "http" else server.database_url
    there = Contenders(address, model_name)
    yield there
    there.end()


on_sqlite = pytest.mark.parametrize("contenders", ["sqlite"], indirect=True)
REFUSED = (
    "is in production; promote another|has no version|is being deleted|no predecessor|"
    "went into production while|not found"
)


def test_many_at_once_leave_one_production_and_a_history_of_what_succeeded(contenders):
    """A night's script and two operators; services must load one model, and rollback find back."""
    chance = random.Random(contenders.model)
    contenders.let({"steps": [["promote", contenders.register(4)[0]]]})
    told = []
    for _ in range(ROUNDS):
        contenders.register(2)
        there = [found.version for found in list_versions(contenders.client, contenders.model)]
        acts = [(what, n) for n in there for what in ("promote", "promote", "delete")]
        acts += [("rollback", None)] * len(there)
        told += contenders.let(*({"steps": chance.sample(acts, 3)} for _ in range(AT_ONCE)))
        there, done = contenders.check()
        succeeded = [one for one in told if one["error"] is None]
        places = {move.why: place for place, move in enumerate(done)}
        promoted = [one for one in succeeded if one["act"] == "promote"]
        for one in promoted:
            assert done[places[one["reason"]]].version == one["version"]
        for one, other in itertools.permutations(promoted, 2):
            if one["ended"] < other["began"]:
                assert places[one["reason"]] < places[other["reason"]]
        assert not {one["version"] for one in succeeded if one["act"] == "delete"} & {*there}
        for one in told:
            assert one["error"] is None or re.search(REFUSED, one["error"]), one
    assert len(told) == ROUNDS * AT_ONCE * 3
    assert succeeded


def test_of_promoting_and_deleting_a_version_at_once_one_succeeds(contenders):
    """Both did: the model was gone, and nothing in production."""
    contenders.let({"steps": [["promote", contenders.register(1)[0]]]})
    for _ in range(2):
        (number,) = contenders.register(1)
        told = contenders.let(*({"steps": [[what, number]]} for what in ("promote", "delete")))
        (done,) = [one["act"] for one in told if one["error"] is None]
        there, _ = contenders.check()
        assert (number in there) == (done == "promote")


@on_sqlite
@pytest.mark.parametrize("what", ["promote", "rollback", "delete"])
def test_what_was_killed_at_any_step_is_mended_by_the_next_call(contenders, what):
    """Machines lose power; nobody must have to know what state that leaves."""
    contenders.let({"steps": [["promote", n] for n in contenders.register(2)]})
    killed = []
    for at in WRITES:
        *_, before = contenders.register(3)
        contenders.let({"steps": [["promote", before]]})
        number, other = contenders.register(2)
        order = {"steps": [[what, number]], "at": at, "signal": "SIGKILL"}
        killed += ["killed" in one for one in contenders.let(order)]
        assert [one["error"] for one in contenders.let({"steps": [["delete", other]]})] == [None]
        there, _ = contenders.check()
        assert other not in there
        if what == "delete" and number in there:
            contenders.let({"steps": [["delete", number]]})
            assert number not in contenders.check()[0]
    assert killed[0]
    assert not killed[-1]


@on_sqlite
@pytest.mark.parametrize("at", range(1, 6))
def test_one_that_was_slow_does_not_undo_what_others_did_meanwhile(contenders, at):
    """A laptop that was asleep wakes up in the middle of its promotion."""
    slow, fast, first = contenders.register(3)
    contenders.let({"steps": [["promote", first]]})
    order = {"steps": [["promote", slow]], "at": at, "signal": "SIGSTOP"}
    (stopped,) = contenders.let(order)
    contenders.let({"steps": [["promote", fast], ["delete", first]]})
    contenders.check()
    contenders.let(go_on=stopped["stopped"])
    _, done = contenders.check()
    assert sorted(move.version for move in done[1:]) == sorted([slow, fast])
    if at > 1:
        assert done[-1].version == fast


@on_sqlite
@pytest.mark.parametrize(
    ("minutes_ago", "by_hand", "after"),
    [(1, None, "2"), (1, "3", "2"), (11, None, "1"), (11, "3", "3")],
)
def test_a_refused_command_only_carries_out_what_may_be_on_its_way(
    contenders, minutes_ago, by_hand, after
):
    """A typing error must not put a version into production that somebody decided against."""
    contenders.let({"steps": [["promote", contenders.register(4)[0]]]})
    contenders.let({"steps": [["promote", "2"]], "at": 2, "signal": "SIGKILL"})
    put_back(contenders, minutes_ago)
    if by_hand is not None:
        contenders.client.set_registered_model_alias(contenders.model, "production", by_hand)
    with pytest.raises(ExportError, match="no version '99'"):
        promote(contenders.address, contenders.model, "99")
    model = contenders.client.get_registered_model(contenders.model)
    assert str(model.aliases["production"]) == after
    contenders.let({"steps": [["delete", "4"]]})
    _, done = contenders.check()
    assert [move.version for move in done] == ["1", "2", "3"][: 3 if after == "3" else 2]


def put_back(contenders, minutes):
    """Have the decisions of a model be some minutes older."""
    with sqlite3.connect(contenders.address.removeprefix("sqlite:///")) as database:
        database.execute(
            "UPDATE model_versions SET creation_time = creation_time - ? WHERE name = ?",
            (minutes * 60_000, f"{contenders.model}.production-journal"),
        )
    database.close()


@on_sqlite
def test_a_rollback_that_is_typed_twice_or_by_two_goes_back_once(contenders):
    """In an incident, two operators act; the bad version must not come back."""
    numbers = contenders.register(3)
    contenders.let({"steps": [["promote", number] for number in numbers]})
    told = contenders.let(*({"steps": [["rollback", None]]} for _ in range(2)))
    assert [one["error"] for one in told] == [None, None]
    versions = [one["version"] for one in told]
    assert versions in ([numbers[1]] * 2, [numbers[1], numbers[0]], [numbers[0], numbers[1]])
    contenders.check()


@on_sqlite
def test_a_model_that_was_made_anew_under_its_name_starts_a_new_history(contenders):
    """Its versions count from 1 again, and the old ones' decisions are not about them."""
    for _ in range(2):
        first, second = contenders.register(2)
        contenders.let({"steps": [["promote", first], ["delete", second]]})
        there, done = contenders.check()
        assert ([*there], [move.version for move in done]) == (["1"], ["1"])
        contenders.client.delete_registered_model(contenders.model)
        contenders.client.create_registered_model(contenders.model)


@pytest.mark.parametrize("contenders", ["postgres"], indirect=True)
def test_long_reasons_in_any_script_are_kept(contenders, monkeypatch):
    """One that was too long for the tag made every later promotion and rollback fail."""
    monkeypatch.setenv("LOGNAME", "ж" * 1000)
    numbers = contenders.register(3)
    for number in numbers * 4:
        promote(contenders.address, contenders.model, number, reason="ж" * 1000, force=True)
    assert rollback(contenders.address, contenders.model) == numbers[1]
    done = moves(contenders.client, contenders.model)
    assert [move.why for move in done] == ["ж" * 100] * 12 + [""]
    model = contenders.client.get_registered_model(contenders.model)
    assert json.loads(model.tags["production.log"])[-1] == asdict(done[-1])


@on_sqlite
def test_an_entry_that_is_none_is_told(contenders):
    """The journal is versions of a model, which can be edited by hand."""
    (number,) = contenders.register(1)
    promote(contenders.address, contenders.model, number, force=True)
    journal = f"{contenders.model}.production-journal"
    contenders.client.set_model_version_tag(journal, "2", "entry", "{}")
    with pytest.raises(ExportError, match=r"version 2 of .* is no decision .*: \{\}; delete"):
        rollback(contenders.address, contenders.model)
