"""What a run was made from: the source's commit, and the sessions on each side of the split."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from heimdall_data import Session

__all__ = ["dataset_fingerprint", "source_commit"]


def source_commit(folder: Path = Path(__file__).parent) -> str | None:
    """The commit that the running source was checked out from, with `-modified` if it was edited.

    Args:
        folder: Of the source.

    Returns:
        None for an installed package, also inside somebody else's repository, and without git.
    """
    try:
        if _git(folder, "ls-files", "--error-unmatch", "."):
            edited = "-modified" if _git(folder, "status", "--porcelain", "-uno") else ""
            return _git(folder, "rev-parse", "HEAD") + edited
    except (OSError, subprocess.CalledProcessError):
        pass
    return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def dataset_fingerprint(sides: Mapping[str, Iterable[Session]]) -> str:
    """A hash of which session is on which side; equal for equal splits, in any order.

    Args:
        sides: The sessions of each side, by its name.
    """
    digest = hashlib.sha256()
    for side, sessions in sorted(sides.items()):
        digest.update("\n".join([side, *sorted(session.id for session in sessions)]).encode())
    return digest.hexdigest()
