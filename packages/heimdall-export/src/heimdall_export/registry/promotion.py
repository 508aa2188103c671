"""Production: the version that services use, moved by promotion and rollback.

A version may go into production only with test metrics that are no worse than those of the version
there. Metrics compare only if they were measured on the same sessions, so a version carries a hash
of those it was tested on.

Every move is recorded in a tag of the registered model, `production.log`: who moved the alias,
when, to which version, and why. Rollback goes back along this log.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from heimdall_features.outside_json import parsed_json

from heimdall_export.contract import PRODUCTION, REGISTERED_MODEL
from heimdall_export.errors import ExportError
from heimdall_export.registry.registry import list_versions, version_in
from heimdall_export.tracking.client import mlflow_errors, open_client

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlflow import MlflowClient

    from heimdall_export.registry.registry import RegisteredVersion

_METRICS_TAG = "metrics"
_TESTED_TAG = "test_sessions"
_JUDGED = ("test/error_m_median", "test/nll")
"""Error and uncertainty; lower is better in both."""
_LOG_TAG = "production.log"
_MOST_MOVES = 20
_LONGEST_REASON = 100
"""Twenty moves then fit into the longest tag of MLflow's database."""


def evaluation_tags(metrics: Mapping[str, float], test_sessions: Iterable[str]) -> dict[str, str]:
    """The tags by which a version is compared with others.

    Kept are the metrics whose names begin with `test/`, and a hash of the ids of the sessions that
    they were measured on.
    """
    tested = {name: value for name, value in metrics.items() if name.startswith("test/")}
    digest = hashlib.sha256("\n".join(sorted(test_sessions)).encode()).hexdigest()
    return {_METRICS_TAG: json.dumps(tested), _TESTED_TAG: digest}


def refuse_worse(candidate: RegisteredVersion, present: RegisteredVersion | None) -> None:
    """Refuse a candidate for production without figures, or with worse ones than the present.

    Raises:
        ExportError: It lacks figures, is worse, or was tested on other sessions.
    """
    own = _tested_metrics(candidate)
    if present is None or present.version == candidate.version:
        return
    try:
        other = _tested_metrics(present)
    except ExportError:
        return  # nothing to compare with
    if candidate.tags.get(_TESTED_TAG) != present.tags.get(_TESTED_TAG):
        raise ExportError(
            f"version {candidate.version} was tested on other sessions than version "
            f"{present.version}, which is in production, so their figures do not compare; "
            "evaluate both on one split, or force it"
        )
    if worse := [name for name in _JUDGED if own[name] > other[name]]:
        figures = ", ".join(f"{name} {own[name]:.6g} against {other[name]:.6g}" for name in worse)
        raise ExportError(
            f"version {candidate.version} is worse than version {present.version}, which is in "
            f"production: {figures}; keep the present one, or force it"
        )


def _tested_metrics(version: RegisteredVersion) -> dict[str, float]:
    text = version.tags.get(_METRICS_TAG, "{}")
    try:
        found = {name: float(value) for name, value in parsed_json(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ExportError(
            f"tag {_METRICS_TAG!r} of version {version.version} holds no metrics: {text:.100}; "
            "correct or delete it"
        ) from error
    if missing := [name for name in _JUDGED if not math.isfinite(found.get(name, math.nan))]:
        raise ExportError(
            f"version {version.version} has no {' and no '.join(missing)}; evaluate it, or force it"
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One change of the version in production; the fields are those of an entry of the log."""

    action: Literal["promote", "rollback"]
    version: str
    at: str
    """ISO 8601, UTC."""
    by: str
    why: str


def moves(tracking: str | MlflowClient, model_name: str = REGISTERED_MODEL) -> tuple[Move, ...]:
    """The last twenty moves of production, oldest first.

    `tracking` is the registry's address or an open client of it; `ExportError` if it cannot be
    reached or has no such model.
    """
    client = open_client(tracking) if isinstance(tracking, str) else tracking
    with mlflow_errors(f"read the moves of {model_name!r}"):
        text = client.get_registered_model(model_name).tags.get(_LOG_TAG, "[]")
    try:
        return tuple(Move(**entry) for entry in parsed_json(text))
    except (ValueError, TypeError) as error:
        raise ExportError(
            f"tag {_LOG_TAG!r} of {model_name!r} is not a log: {text:.100}; delete the tag"
        ) from error


def promote(
    tracking_uri: str, model_name: str, version: str, *, reason: str = "", force: bool = False
) -> None:
    """Put a version into production, and record the move and its reason.

    `force` also takes one without test metrics, worse than the present one, or tested on other
    sessions.

    Raises:
        ExportError: There is no such version, it is not fit or is being deleted, or the registry
            cannot be reached.
    """
    client = open_client(tracking_uri)
    known = list_versions(client, model_name)
    candidate = version_in(known, model_name, version)
    if candidate.is_being_deleted:
        raise ExportError(
            f"version {version} of {model_name!r} is being deleted; `heimdall models delete "
            f"{version}` finishes that"
        )
    present = _in_production(known)
    if not force:
        refuse_worse(candidate, present)
    log = moves(client, model_name)
    if present and present.version not in (version, *_stack(log)[-1:]):
        moved = _move("promote", present.version, "moved without heimdall")
        log = (*log, replace(moved, by=""))
    # The alias first: if interrupted before the log is written, repeating the command writes it.
    _move_alias(client, model_name, version, known)
    _record(client, model_name, (*log, _move("promote", version, reason)))


def rollback(tracking_uri: str, model_name: str = REGISTERED_MODEL, *, reason: str = "") -> str:
    """Return production to the version that was there before the present one.

    Returns:
        The version that is now in production.

    Raises:
        ExportError: Nothing is in production, or nothing was before it.
    """
    client = open_client(tracking_uri)
    known = list_versions(client, model_name)
    present = _in_production(known)
    if present is None:
        raise ExportError(f"no version of {model_name!r} is in production; promote one")
    log = moves(client, model_name)
    usable = {one.version for one in known if not one.is_being_deleted} - {present.version}
    earlier = [version for version in _stack(log) if version in usable]
    if not earlier:
        raise ExportError(
            f"version {present.version} of {model_name!r} has no predecessor in production; "
            "promote the version that you want"
        )
    # The log first: repeated after an interruption, a rollback goes to the same version.
    _record(client, model_name, (*log, _move("rollback", earlier[-1], reason)))
    _move_alias(client, model_name, earlier[-1], known)
    return earlier[-1]


def _in_production(known: Sequence[RegisteredVersion]) -> RegisteredVersion | None:
    return next((one for one in known if PRODUCTION in one.aliases), None)


def _stack(log: Sequence[Move]) -> list[str]:
    """Versions in production one after the other, without those that were rolled back."""
    stack: list[str] = []
    for move in log:
        while move.action == "rollback" and stack and stack[-1] != move.version:
            stack.pop()
        if stack[-1:] != [move.version]:
            stack.append(move.version)
    return stack


def _move_alias(
    client: MlflowClient, model_name: str, version: str, known: Sequence[RegisteredVersion]
) -> None:
    """Move the alias, which services read, then the tags `stage`."""
    with mlflow_errors(f"put version {version} of {model_name!r} into production"):
        client.set_registered_model_alias(model_name, PRODUCTION, version)
        client.set_model_version_tag(model_name, version, "stage", "Production")
        for other in known:
            if other.version != version and other.tags.get("stage") == "Production":
                client.set_model_version_tag(model_name, other.version, "stage", "Archived")


def _record(client: MlflowClient, model_name: str, log: Sequence[Move]) -> None:
    with mlflow_errors(f"record a move of {model_name!r}"):
        text = json.dumps([asdict(move) for move in log[-_MOST_MOVES:]])
        client.set_registered_model_tag(model_name, _LOG_TAG, text)


def _move(action: Literal["promote", "rollback"], version: str, reason: str) -> Move:
    try:
        by = getpass.getuser()
    except (OSError, KeyError):  # a container may have no name for its user
        by = f"user {os.getuid()}"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Move(action=action, version=version, at=now, by=by, why=reason[:_LONGEST_REASON])
