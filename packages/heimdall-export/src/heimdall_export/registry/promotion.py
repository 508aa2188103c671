"""Production: the version that services use, moved by promotion and rollback.

A version may go into production only with test metrics that are no worse than those of the version
there. Metrics compare only if they were measured on the same sessions, so a version carries a hash
of those it was tested on.

Every move is recorded: who moved production, when, to which version, and why. Rollback goes back
along this record.
"""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from heimdall_features.names import user_name
from heimdall_features.outside_json import parsed_json

from heimdall_export.contract import REGISTERED_MODEL
from heimdall_export.errors import ExportError
from heimdall_export.registry.production import Decision, Move, Production, stack_of, unchanged
from heimdall_export.registry.versions import version_in
from heimdall_export.tracking.client import open_client

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlflow import MlflowClient

    from heimdall_export.registry.production import Seen
    from heimdall_export.registry.versions import RegisteredVersion

METRICS_TAG = "metrics"
_TESTED_TAG = "test_sessions"
_JUDGED = ("test/error_m_median", "test/nll")
"""Error and uncertainty; lower is better in both."""
_LONGEST_REASON = 100
_LONGEST_USER = 100
"""An environment variable may set it to anything."""


def evaluation_tags(metrics: Mapping[str, float], test_sessions: Iterable[str]) -> dict[str, str]:
    """The tags by which a version is compared with others.

    Kept are the metrics whose names begin with `test/`, and a hash of the ids of the sessions that
    they were measured on.
    """
    tested = {name: value for name, value in metrics.items() if name.startswith("test/")}
    digest = hashlib.sha256("\n".join(sorted(test_sessions)).encode()).hexdigest()
    return {METRICS_TAG: json.dumps(tested), _TESTED_TAG: digest}


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


def metrics_of(version: RegisteredVersion) -> dict[str, float]:
    """The metrics in a version's tags, by name; empty if it has none.

    Raises:
        ExportError: The tag is not what `evaluation_tags` writes.
    """
    text = version.tags.get(METRICS_TAG, "{}")
    try:
        return {name: float(value) for name, value in parsed_json(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ExportError(
            f"tag {METRICS_TAG!r} of version {version.version} holds no metrics: {text:.100}; "
            "correct or delete it"
        ) from error


def _tested_metrics(version: RegisteredVersion) -> dict[str, float]:
    found = metrics_of(version)
    if missing := [name for name in _JUDGED if not math.isfinite(found.get(name, math.nan))]:
        raise ExportError(
            f"version {version.version} has no {' and no '.join(missing)}; evaluate it, or force it"
        )
    return found


def moves(tracking: str | MlflowClient, model_name: str = REGISTERED_MODEL) -> tuple[Move, ...]:
    """All moves of production, oldest first.

    `tracking` is the registry's address or an open client of it; `ExportError` if it cannot be
    reached.
    """
    client = open_client(tracking) if isinstance(tracking, str) else tracking
    return Production(client, model_name).read().state.moves


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

    def choose(seen: Seen) -> Decision:
        candidate = version_in(seen.versions, model_name, version)
        if version not in seen.usable:
            raise ExportError(
                f"version {version} of {model_name!r} is being deleted; `heimdall models delete "
                f"{version}` finishes that"
            )
        present = seen.state.production
        if not force:
            refuse_worse(candidate, next((v for v in seen.versions if v.version == present), None))
        move = _move("promote", version, reason)
        return Decision(version=version, instead_of=present, moves=(move,))

    Production(open_client(tracking_uri), model_name).decide(choose)


def rollback(tracking_uri: str, model_name: str = REGISTERED_MODEL, *, reason: str = "") -> str:
    """Return production to the version that was there before the present one.

    Of two that roll back the same version at once, or of one that was interrupted and is repeated,
    only one has an effect.

    Returns:
        The version that is now in production.

    Raises:
        ExportError: Nothing is in production, or nothing was before it, or somebody put another
            version into production meanwhile.
    """
    production = Production(open_client(tracking_uri), model_name)
    bad: list[str] = []
    """The version to leave: what was in production at the first look."""

    def choose(seen: Seen) -> Decision:
        present = seen.state.production
        if present is None:
            raise ExportError(f"no version of {model_name!r} is in production; promote one")
        for last in [*seen.journal.valid.values()][-1:]:
            is_unfinished = last.is_open or production.disagreements(seen)
            if last.is_rollback and (is_unfinished or [last.decision.instead_of] == bad):
                return unchanged(seen.state)
        bad[:] = bad or [present]
        if bad != [present]:
            raise ExportError(
                f"version {present} of {model_name!r} went into production while version {bad[0]} "
                "was to be rolled back; repeat it if that one is to go, too"
            )
        usable = seen.usable - {present}
        earlier = [version for version in stack_of(seen.state.moves) if version in usable]
        if not earlier:
            raise ExportError(
                f"version {present} of {model_name!r} has no predecessor in production; "
                "promote the version that you want"
            )
        move = _move("rollback", earlier[-1], reason)
        return Decision(version=earlier[-1], instead_of=present, moves=(move,))

    return str(production.decide(choose).version)


def _move(action: Literal["promote", "rollback"], version: str, reason: str) -> Move:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    by, why = user_name()[:_LONGEST_USER], reason[:_LONGEST_REASON]
    return Move(action=action, version=version, at=now, by=by, why=why)
