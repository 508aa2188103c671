"""The owner of production: a journal of decisions, from which alias, tags and history follow.

MLflow can neither compare and set nor lock. What every backend of it does atomically, in SQLite, in
Postgres and over HTTP, is to add a version under the next number. So each decision about production
(promote, roll back, delete) is one version of the registered model `{model}.production-journal`,
whose numbers put all decisions of all machines in one order. Whoever reads the journal from its
beginning finds the same decisions valid: a promotion or rollback only if the version that it
replaces is in production and the new one is not deleted; a deletion only if its version is not in
production.

The alias `production`, the tags `stage` and the tag `production.log` are copies for others to read.
Who decides, writes them until they agree with the journal. A process that is killed on the way
leaves them for the next decision, and one that was slow and overwrites newer ones sees that when it
looks again, and corrects it. There is no lock that could be left behind.

Others may move the alias too, and such a move is taken into the journal. But the journal wins while
a decision may be on its way, at most ten minutes, and afterwards if the alias is where a decision
that was never carried out found it. A command that is refused changes nothing, except that it
carries out what may be on its way.
"""

from __future__ import annotations

import itertools
import json
import random
import time
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from heimdall_features.outside_json import parsed_json

from heimdall_export.contract import DELETING, JOURNAL_SUFFIX, PRODUCTION
from heimdall_export.errors import ExportError, OutOfReach
from heimdall_export.registry.registry import (
    registered,
    require_model_name,
    search_versions,
    versions_of,
)
from heimdall_export.registry.versions import version_in
from heimdall_export.tracking.client import mlflow_errors

# The client comes first: it sets the environment before MLflow is imported.
from mlflow.exceptions import MlflowException  # isort: skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

    from heimdall_export.registry.versions import RegisteredVersion

_LOG_TAG = "production.log"
_MOST_MOVES = 20
_LONGEST_LOG = 5000
"""Characters in the longest tag of a model that MLflow's databases take."""
_SOURCE = "heimdall:///journal"
"""MLflow wants an address of every version."""
_ABOUT = (
    "Journal of the production of {name!r}, one version a decision. Written by heimdall; without "
    "it, the history of production is that of the tag production.log."
)
_UNKNOWN = ""
"""Production before the journal's first entry."""
_CARRIED_OUT_AFTER_S = 600.0
"""By then, a decision that is not marked as carried out is of a process that was killed."""
_MOST_ATTEMPTS = 100
_CROWDED = "Model Version creation error"
"""MLflow's words when others were faster in taking the next number, three times in a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One change of the version in production; the fields are those of an entry of the log."""

    action: Literal["promote", "rollback"]
    version: str
    at: str
    """ISO 8601, UTC."""
    by: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Put a version into production instead of another one, or delete a version."""

    version: str | None
    """None where production was found empty."""
    instead_of: str | None = None
    """Version that must be in production for the decision to be valid; not asked of a deletion."""
    moves: tuple[Move, ...] = ()
    """Entries that it adds to the log."""
    is_deletion: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A decision in the journal."""

    id: str
    """Tells a decision from a repeated one; MLflow sends a request again if no answer comes."""
    decision: Decision
    number: str = ""
    """Version in the journal."""
    is_done: bool = False
    """True once its author has carried it out."""
    is_open: bool = False
    """True while its author may still be writing."""

    @property
    def is_rollback(self) -> bool:
        """True if it rolls production back."""
        return any(move.action == "rollback" for move in self.decision.moves)


@dataclass(frozen=True, slots=True)
class State:
    """What the valid decisions of a journal lead to."""

    production: str | None = _UNKNOWN
    moves: tuple[Move, ...] = ()
    deleted: frozenset[str | None] = frozenset()
    valid: Mapping[str, Entry] = field(default_factory=dict)
    """Entries of the valid decisions by their ids, in order."""

    @property
    def is_open(self) -> bool:
        """True while the author of a decision may still be writing."""
        return any(entry.is_open for entry in self.valid.values())

    @property
    def log(self) -> str:
        """Content of the tag `production.log`: the newest moves, as many as the tag takes."""
        newest = [asdict(move) for move in self.moves[-_MOST_MOVES:]]
        while len(text := json.dumps(newest)) > _LONGEST_LOG:
            del newest[0]
        return text


def state_after(entries: Iterable[Entry]) -> State:
    """The state after a journal's entries, in order; each decision is valid or has no effect."""
    production: str | None = _UNKNOWN
    moves: list[Move] = []
    deleted: set[str | None] = set()
    valid: dict[str, Entry] = {}
    known: set[str] = set()
    for entry in entries:
        decision = entry.decision
        if entry.id in known:
            continue
        known.add(entry.id)
        if decision.is_deletion:
            if decision.version == production:
                continue
            deleted.add(decision.version)
        else:
            if decision.instead_of != production or decision.version in deleted:
                continue
            production = decision.version
            moves += decision.moves
        valid[entry.id] = entry
    return State(production, tuple(moves), frozenset(deleted), valid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The registry as it was read."""

    model: RegisteredModel | None
    versions: tuple[RegisteredVersion, ...] = ()
    journal: State = field(default_factory=State)
    """What is recorded."""
    found: Decision | None = None
    """Move of others that is not in the journal yet."""

    @property
    def state(self) -> State:
        """What is recorded, and the move of others."""
        if self.found is None:
            return self.journal
        return state_after([*self.journal.valid.values(), Entry(id="found", decision=self.found)])

    @property
    def usable(self) -> set[str]:
        """Versions that may be in production."""
        there = {one.version for one in self.versions if not one.is_being_deleted}
        return there.difference(self.state.deleted)


class Production:
    """The production of one registered model; `ExportError` if its name is not allowed."""

    def __init__(self, client: MlflowClient, model_name: str) -> None:
        require_model_name(model_name)
        self.model_name = model_name
        self._client = client
        self._journal = f"{model_name}{JOURNAL_SUFFIX}"

    def read(self) -> Seen:
        """Read versions, aliases and journal; `ExportError` if one of them cannot be read."""
        with mlflow_errors(f"read the production of {self.model_name!r}"):
            model = registered(self._client, self.model_name)
            if model is None:
                return Seen(model=None, journal=State(production=None))
            versions = versions_of(self._client, model)
            journal = state_after(self._entries(model))
            if journal.production == _UNKNOWN:
                found: Decision | None = self._before_the_journal(model)
            else:
                found = self._moved_by_others(model, journal)
        return Seen(model=model, versions=versions, journal=journal, found=found)

    def decide(
        self, choose: Callable[[Seen], Decision], act: Callable[[], None] | None = None
    ) -> Decision:
        """Record a decision and carry it out, unless `choose` refuses.

        `choose` is asked again about what there is then if others decided in between. If it
        refuses, only decisions of others that may be on their way are carried out. `act` is what
        else belongs to the decision; it is done when services see the decision.

        Raises:
            ExportError: `choose` refuses, or MLflow does or is out of reach. In the last case the
                decision may be recorded; the next one carries it out.
        """
        for _ in range(_MOST_ATTEMPTS):
            seen = self.read()
            try:
                decision = choose(seen)
            except ExportError:
                if seen.journal.is_open:
                    self.mend(seen)
                raise
            if seen.found is not None:
                self._record(seen, seen.found, is_done=True)
                continue
            mine = self._record(seen, decision)
            seen = self.read()
            if (entry := seen.journal.valid.get(mine)) is None:
                continue  # not valid any more: others were faster
            seen = self._write_copies(seen)
            if act is not None:
                act()
                seen = self._write_copies(self.read())
            if decision.version and decision.version == seen.journal.production:
                version_in(seen.versions, self.model_name, decision.version)
            with mlflow_errors(f"mark a decision about {self.model_name!r} as carried out"):
                self._client.set_model_version_tag(self._journal, entry.number, "done", "true")
            return decision
        raise ExportError(
            f"others changed the production of {self.model_name!r} {_MOST_ATTEMPTS} times; try "
            "again"
        )

    def mend(self, seen: Seen) -> None:
        """Carry out what others decided and did not finish, if there is any."""
        if seen.found is None and self.disagreements(seen):
            self.decide(lambda now: unchanged(now.state))

    def disagreements(self, seen: Seen) -> tuple[str, ...]:
        """What a service or an operator reads that is not as decided; a line for each."""
        return tuple(what for what, _ in self._corrections(seen))

    def _entries(self, model: RegisteredModel) -> list[Entry]:
        """The journal's entries about this model, not about an earlier one of its name."""
        entries = []
        for one in reversed(search_versions(self._client, self._journal)):
            text = one.tags.get("entry", "")
            try:
                fields: dict[str, Any] = parsed_json(text)
                decision = fields["decision"]
                moves = tuple(Move(**move) for move in decision.pop("moves"))
                of_model, entry_id = fields["model"], str(fields["id"])
                made = Decision(**decision, moves=moves)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ExportError(
                    f"version {one.version} of {self._journal!r} is no decision about production: "
                    f"{text:.100}; delete that version"
                ) from error
            if of_model == model.creation_timestamp:
                is_done = "done" in one.tags
                age_s = time.time() - one.creation_timestamp / 1000
                entry = Entry(
                    id=entry_id,
                    decision=made,
                    number=str(one.version),
                    is_done=is_done,
                    is_open=not is_done and age_s < _CARRIED_OUT_AFTER_S,
                )
                entries.append(entry)
        return entries

    def _before_the_journal(self, model: RegisteredModel) -> Decision:
        """Production and its log as they are, for the first entry."""
        text = model.tags.get(_LOG_TAG, "[]")
        try:
            moves = tuple(Move(**entry) for entry in parsed_json(text))
        except (ValueError, TypeError) as error:
            raise ExportError(
                f"tag {_LOG_TAG!r} of {self.model_name!r} is not a log: {text:.100}; delete the tag"
            ) from error
        version = _aliased(model)
        if version is not None and [move.version for move in moves[-1:]] != [version]:
            moves = (*moves, _moved_elsewhere(version))
        return Decision(version=version, instead_of=_UNKNOWN, moves=moves)

    def _moved_by_others(self, model: RegisteredModel, journal: State) -> Decision | None:
        """Move of the alias that is not in the journal, although nobody is carrying one out."""
        if journal.production == _aliased(model):
            return None
        if journal.production is not None and journal.is_open:
            return None
        # Asked again: the journal is newer than the answer above.
        version = _aliased(self._client.get_registered_model(self.model_name))
        if version == journal.production or version in journal.deleted:
            return None
        if journal.production is not None and model.tags.get(_LOG_TAG, "[]") != journal.log:
            entries = reversed([*journal.valid.values()])
            newest = (entry for entry in entries if not entry.decision.is_deletion)
            not_done = itertools.takewhile(lambda entry: not entry.is_done, newest)
            if version in {entry.decision.instead_of for entry in not_done}:
                return None  # where the killed one left it
        moves = () if version is None else (_moved_elsewhere(version),)
        return Decision(version=version, instead_of=journal.production, moves=moves)

    def _record(self, seen: Seen, decision: Decision, *, is_done: bool = False) -> str:
        """Add a decision to the journal and return the entry's id."""
        if seen.model is None:
            raise ExportError(f"no model {self.model_name!r} is registered")
        entry_id, model = uuid.uuid4().hex, seen.model.creation_timestamp
        fields = {"id": entry_id, "model": model, "decision": asdict(decision)}
        tags = {"entry": json.dumps(fields), **({"done": "true"} if is_done else {})}
        doing = f"record a decision about the production of {self.model_name!r}"
        for _ in range(_MOST_ATTEMPTS):
            try:
                with mlflow_errors(doing):
                    if registered(self._client, self._journal) is None:
                        self._make_journal()
                    self._client.create_model_version(
                        self._journal, _SOURCE, tags=tags, await_creation_for=0
                    )
            except OutOfReach as error:
                if _CROWDED not in str(error):
                    raise
                time.sleep(random.uniform(0.0, 0.2))  # noqa: S311 - spreads attempts, no secret
            else:
                return entry_id
        raise ExportError(f"MLflow cannot {doing}: too many decide at once; try again")

    def _make_journal(self) -> None:
        about = _ABOUT.format(name=self.model_name)
        try:
            self._client.create_registered_model(self._journal, description=about)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # somebody was faster
                raise

    def _write_copies(self, seen: Seen) -> Seen:
        """Write alias and tags until a reading agrees with the journal, whoever else writes."""
        for _ in range(_MOST_ATTEMPTS):
            corrections = tuple(self._corrections(seen))
            if not corrections:
                return seen
            with mlflow_errors(f"carry out what was decided about {self.model_name!r}"):
                for _, write in corrections:
                    try:
                        write()
                    except MlflowException as error:
                        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                            raise
                        break  # Deleted since it was read.
            seen = self.read()
        raise ExportError(f"the production of {self.model_name!r} does not come to rest; try again")

    def _corrections(self, seen: Seen) -> Iterator[tuple[str, Callable[[], object]]]:
        """What does not agree with the journal, and the act that makes it agree."""
        client, name, journal = self._client, self.model_name, seen.journal
        if seen.model is None or journal.production in (None, _UNKNOWN):
            decided = None  # Nobody takes a version out of production; it was found empty.
        else:
            decided = next((v for v in seen.versions if v.version == journal.production), None)
        if decided is not None and PRODUCTION not in decided.aliases:
            number = decided.version
            yield (
                f"version {number} was put into production, the alias is {_aliased(seen.model)}",
                partial(client.set_registered_model_alias, name, PRODUCTION, number),
            )
        for one in seen.versions:
            stage = one.tags.get("stage")
            wanted = stage
            if one is decided:
                wanted = "Production"
            elif one.version in journal.deleted:
                wanted = DELETING
            elif stage == "Production" and decided is not None:
                wanted = "Archived"
            if wanted is not None and wanted != stage:
                yield (
                    f"version {one.version} has the tag stage={stage}, {wanted} was decided",
                    partial(client.set_model_version_tag, name, one.version, "stage", wanted),
                )
        # Last, because it tells that the copies were written.
        log = journal.log
        if seen.model is not None and journal.moves and seen.model.tags.get(_LOG_TAG) != log:
            yield (
                f"the tag {_LOG_TAG} is not the log of what was decided",
                partial(client.set_registered_model_tag, name, _LOG_TAG, log),
            )


def unchanged(state: State) -> Decision:
    """The decision to leave production as it is, by which others' decisions are carried out."""
    return Decision(version=state.production, instead_of=state.production)


def stack_of(moves: Sequence[Move]) -> list[str]:
    """Versions in production one after the other, without those that were rolled back."""
    stack: list[str] = []
    for move in moves:
        while move.action == "rollback" and stack and stack[-1] != move.version:
            stack.pop()
        if stack[-1:] != [move.version]:
            stack.append(move.version)
    return stack


def _aliased(model: RegisteredModel | None) -> str | None:
    """Version with the alias `production`."""
    version = None if model is None else model.aliases.get(PRODUCTION)
    return None if version is None else str(version)


def _moved_elsewhere(version: str) -> Move:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Move(action="promote", version=version, at=now, by="", why="moved without heimdall")
