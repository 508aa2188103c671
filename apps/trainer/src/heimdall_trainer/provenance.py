"""Provenance of a run: the command, the commit of the source, the versions and the split."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from heimdall_data import Session

__all__ = [
    "command_line",
    "dataset_fingerprint",
    "package_versions",
    "provenance_of_source",
    "source_commit",
]


OURS = ("features", "models", "data", "export", "simulation", "evaluation", "trainer")
THEIRS = ("torch", "timm", "lightning", "mlflow", "onnx", "onnxruntime", "numpy")
SECRET_FLAGS = frozenset(
    ("--database-url", "--s3-access-key", "--s3-secret-key", "--mlflow-tracking-uri")
)


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


def package_versions() -> dict[str, str]:
    """Versions of our packages and of those that the numbers depend on."""
    names = [f"heimdall-{name}" for name in OURS] + list(THEIRS)
    return {name: version(name) for name in names}


def command_line() -> str:
    """The command that is running, as one could type it again."""
    words = ["heimdall", *sys.argv[1:]]
    return shlex.join(_hide(words))


def provenance_of_source() -> dict[str, str]:
    """The commit that runs, if it is one."""
    commit = source_commit()
    return {} if commit is None else {"git.commit": commit}


def _hide(words: list[str]) -> list[str]:
    """Replace the values of flags that carry a secret, and passwords in addresses."""
    hidden, secret = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        is_secret = name.replace("_", "-") in SECRET_FLAGS
        hidden.append("***" if secret else f"{name}=***" if is_secret and equals else word)
        secret = is_secret and not equals
    return hidden
