"""What was done to production: who moved the alias, when, where to, and why.

A tag of the registered model, so that it is kept where the alias is. The history that rollback
follows is another: it forgets what was rolled back, and this does not.
"""

from __future__ import annotations

import getpass
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from heimdall_export.errors import ExportError
from heimdall_export.mlflow_client import told_plainly

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Move", "production_moves", "record_move"]

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
