"""The model registry: versions of one model, and the aliases that say which one is used.

Aliases and not MLflow's stages, which it has deprecated; the tag `stage` is for those who still
read it. The registered model's tag `production.history` lists what was in production, the present
version last; rollback goes back along it.

What was done to production: who moved the alias, when, where to, and why.

A tag of the registered model, so that it is kept where the alias is. The history that rollback
follows is another: it forgets what was rolled back, and this does not.
"""

from __future__ import annotations

import getpass
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from heimdall_export.contract import PRODUCTION, REGISTERED_MODEL, STAGING
from heimdall_export.errors import ExportError
from heimdall_export.registry.promotion import refuse_worse
from heimdall_export.registry.version import RegisteredVersion
from heimdall_export.tracking.client import MlflowException, open_client, told_plainly

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from numpy.typing import NDArray

    from heimdall_export.tracking.run import MLflowTracker

__all__ = [
    "Move",
    "RegisteredVersion",
    "find_version",
    "list_versions",
    "moves",
    "production_moves",
    "promote",
    "record_move",
    "register",
    "rollback",
]


_TAG = "production.log"
_LONGEST = 20
_LONGEST_REASON = 100
"""Twenty moves then fit into what MLflow's database takes as one tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One change of what is in production."""

    action: Literal["promote", "rollback"]
    version: str
    at: str
    """ISO 8601, UTC."""
    by: str
    why: str


def record_move(
    client: MlflowClient,
    model_name: str,
    action: Literal["promote", "rollback"],
    version: str,
    reason: str,
) -> None:
    """Add what has just been done.

    Raises:
        ExportError: The registry cannot be reached, or refuses.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    move = Move(
        action=action, version=version, at=now, by=_operator(), why=reason[:_LONGEST_REASON]
    )
    moves = [*production_moves(client, model_name), move][-_LONGEST:]
    with told_plainly(f"record what was done to {model_name!r}"):
        text = json.dumps([asdict(each) for each in moves])
        client.set_registered_model_tag(model_name, _TAG, text)


def production_moves(client: MlflowClient, model_name: str) -> tuple[Move, ...]:
    """What was done to production, oldest first.

    Raises:
        ExportError: The registry cannot be reached, or the tag was edited by hand.
    """
    with told_plainly(f"read what was done to {model_name!r}"):
        text = client.get_registered_model(model_name).tags.get(_TAG, "[]")
    try:
        return tuple(Move(**entry) for entry in json.loads(text))
    except (ValueError, TypeError) as error:
        raise ExportError(
            f"tag {_TAG!r} of {model_name!r} is no log: {text:.100}; delete the tag"
        ) from error


def _operator() -> str:
    """Who is at the keyboard; a container may have no name for its user."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"


_ARTIFACT = "model"
_HISTORY = "production.history"
_LONGEST_HISTORY = 20


def register(
    tracker: MLflowTracker,
    onnx_path: str | os.PathLike[str],
    *,
    model_name: str = REGISTERED_MODEL,
    tags: Mapping[str, str],
    input_example: NDArray[np.float32] | None = None,
) -> str:
    """Store a model file with its run and register it, with the alias `staging`.

    Args:
        tracker: The run that made it.
        onnx_path: A checked model file.
        model_name: Name in the registry.
        tags: Of the version, such as where the file is and what it is worth.
        input_example: Feature tensors, float32 `(n, receivers, n_mels, n_frames)`.

    Returns:
        The version's number.

    Raises:
        ExportError: The file is no model of ours, the name belongs to something else, or the
            registry cannot be reached or refuses. No version is left then.
    """
    from heimdall_export.registry.mlflow_model import save_mlflow_model

    client = tracker.client
    with told_plainly(f"register {model_name!r}"):
        _ensure_model(client, model_name)
        with tempfile.TemporaryDirectory(prefix="heimdall-register-") as temporary:
            folder = Path(temporary, _ARTIFACT)
            save_mlflow_model(Path(onnx_path), folder, input_example=input_example)
            tracker.log_artifact(folder, _ARTIFACT)
        source = f"runs:/{tracker.run_id}/{_ARTIFACT}"
        made = client.create_model_version(
            model_name, source, tracker.run_id, tags={"stage": "Staging", **tags}
        )
        try:
            client.set_registered_model_alias(model_name, STAGING, made.version)
        except BaseException:
            client.delete_model_version(model_name, made.version)
            raise
    return str(made.version)


def _ensure_model(client: MlflowClient, name: str) -> None:
    if _registered(client, name) is None:
        client.create_registered_model(name)


def _registered(client: MlflowClient, name: str) -> RegisteredModel | None:
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def list_versions(
    tracking_uri: str, model_name: str = REGISTERED_MODEL
) -> tuple[RegisteredVersion, ...]:
    """Every version of a model, newest first; empty where there is no such model.

    Raises:
        ExportError: The registry cannot be reached.
    """
    return _versions(open_client(tracking_uri), model_name)


def _versions(client: MlflowClient, model_name: str) -> tuple[RegisteredVersion, ...]:
    with told_plainly(f"list the versions of {model_name!r}"):
        model = _registered(client, model_name)
        if model is None:
            return ()
        quoted = model_name.replace("'", "''")
        found = client.search_model_versions(f"name = '{quoted}'")
    newest_first = sorted(found, key=lambda version: int(version.version), reverse=True)
    return tuple(_described(version, model.aliases) for version in newest_first)


def _described(version: ModelVersion, aliases: Mapping[str, str]) -> RegisteredVersion:
    own = tuple(name for name, which in aliases.items() if str(which) == str(version.version))
    return RegisteredVersion(
        version=str(version.version),
        run_id=version.run_id or "",
        aliases=own,
        tags=dict(version.tags),
    )


def find_version(tracking_uri: str, model_name: str, version: str) -> RegisteredVersion:
    """One version of a model.

    Raises:
        ExportError: There is no such version, or the registry cannot be reached.
    """
    return _found(list_versions(tracking_uri, model_name), model_name, version)


def _found(known: Sequence[RegisteredVersion], model_name: str, version: str) -> RegisteredVersion:
    for found in known:
        if found.version == version:
            return found
    numbers = ", ".join(found.version for found in known) or "none"
    raise ExportError(f"{model_name!r} has no version {version!r}; it has {numbers}")


def promote(
    tracking_uri: str, model_name: str, version: str, *, reason: str = "", force: bool = False
) -> None:
    """Put a version into production, and remember which one was there before.

    Args:
        tracking_uri: Of the registry.
        model_name: Name in the registry.
        version: Its number.
        reason: Why, for the record.
        force: Also one without test metrics, worse than the present one, or tested on other
            sessions.

    Raises:
        ExportError: There is no such version, it is not fit or is being deleted, or the registry
            cannot be reached.
    """
    client = open_client(tracking_uri)
    known = _versions(client, model_name)
    candidate = _found(known, model_name, version)
    if candidate.is_being_deleted:
        raise ExportError(
            f"version {version} of {model_name!r} is being deleted; `heimdall models delete "
            f"{version}` finishes that"
        )
    if not force:
        refuse_worse(candidate, next((v for v in known if PRODUCTION in v.aliases), None))
    present = _in_production(known)
    production_moves(client, model_name)  # what could not be recorded is not done
    history = _history(client, model_name)
    last = history[-1]["version"] if history else None
    if present not in (None, version, last):
        history.append(_entry(present))  # someone moved the alias without us
    if not present == version == last:
        history.append(_entry(version))
    _produce(client, model_name, history, known)
    record_move(client, model_name, "promote", version, reason)


def moves(tracking_uri: str, model_name: str = REGISTERED_MODEL) -> tuple[Move, ...]:
    """What was done to production, by whom and why, oldest first.

    Raises:
        ExportError: There is no such model, or the registry cannot be reached.
    """
    return production_moves(open_client(tracking_uri), model_name)


def rollback(tracking_uri: str, model_name: str = REGISTERED_MODEL, *, reason: str = "") -> str:
    """Return production to the version that was there before the present one.

    Returns:
        The version that is now in production.

    Raises:
        ExportError: Nothing is in production, or nothing was before it.
    """
    client = open_client(tracking_uri)
    known = _versions(client, model_name)
    present = _in_production(known)
    if present is None:
        raise ExportError(f"no version of {model_name!r} is in production; promote one")
    production_moves(client, model_name)  # as in promote
    history = _history(client, model_name)
    there = {found.version for found in known if not found.is_being_deleted} - {present}
    while history and history[-1]["version"] not in there:
        history.pop()
    if not history:
        raise ExportError(
            f"version {present} of {model_name!r} has no predecessor in production; "
            "promote the version that you want"
        )
    # Before the alias: interrupted and repeated, a rollback goes to the same version.
    _remember(client, model_name, history)
    _produce(client, model_name, history, known)
    record_move(client, model_name, "rollback", history[-1]["version"], reason)
    return history[-1]["version"]


def _produce(
    client: MlflowClient,
    model_name: str,
    history: Sequence[Mapping[str, str]],
    known: Sequence[RegisteredVersion],
) -> None:
    """Move the alias to the history's last version. The alias, which services read, goes first."""
    version = history[-1]["version"]
    with told_plainly(f"put version {version} of {model_name!r} into production"):
        client.set_registered_model_alias(model_name, PRODUCTION, version)
        _remember(client, model_name, history)
        client.set_model_version_tag(model_name, version, "stage", "Production")
        for other in known:
            if other.version != version and other.tags.get("stage") == "Production":
                client.set_model_version_tag(model_name, other.version, "stage", "Archived")


def _remember(client: MlflowClient, model_name: str, history: Sequence[Mapping[str, str]]) -> None:
    with told_plainly(f"remember the history of {model_name!r}"):
        text = json.dumps(list(history[-_LONGEST_HISTORY:]))
        client.set_registered_model_tag(model_name, _HISTORY, text)


def _in_production(versions: Sequence[RegisteredVersion]) -> str | None:
    return next((found.version for found in versions if PRODUCTION in found.aliases), None)


def _history(client: MlflowClient, model_name: str) -> list[dict[str, str]]:
    with told_plainly(f"read the history of {model_name!r}"):
        text = client.get_registered_model(model_name).tags.get(_HISTORY, "[]")
    try:
        return [{**entry, "version": str(entry["version"])} for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(
            f"tag {_HISTORY!r} of {model_name!r} is not a history: {text:.100}; delete the tag"
        ) from error


def _entry(version: str) -> dict[str, str]:
    return {"version": version, "at": datetime.now(UTC).isoformat(timespec="seconds")}
