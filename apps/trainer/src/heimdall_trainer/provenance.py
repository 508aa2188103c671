"""Provenance of a run: the command, the commit of the source, the versions and the split."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from heimdall_features.addresses import HIDDEN

from heimdall_trainer.connections import shown_value

OURS = ("features", "models", "data", "export", "simulation", "evaluation", "trainer")
THEIRS = ("torch", "timm", "lightning", "mlflow", "onnx", "onnxruntime", "numpy")
SECRET_FLAGS = frozenset(
    ("--database-url", "--s3-access-key", "--s3-secret-key", "--mlflow-tracking-uri")
)


def source_commit(folder: Path = Path(__file__).parent) -> str | None:
    """Git commit of a source folder, with `-modified` if files were edited.

    Returns:
        None for an installed package (also one inside another repository), and without git.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        return done.stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", "."):
            edited = "-modified" if git("status", "--porcelain", "-uno") else ""
            return git("rev-parse", "HEAD") + edited
    except (OSError, subprocess.CalledProcessError):
        pass
    return None


def package_versions() -> dict[str, str]:
    """Versions of our packages and of the libraries that affect results."""
    names = [f"heimdall-{name}" for name in OURS] + list(THEIRS)
    return {name: version(name) for name in names}


def command_line() -> str:
    """The running command as it could be typed again, with `***` for values of secret flags."""
    words, secret = ["heimdall"], False
    for word in sys.argv[1:]:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        is_secret = name.replace("_", "-") in SECRET_FLAGS
        hides = secret or (is_secret and equals)
        words.append(f"{name}{equals}{HIDDEN if hides else shown_value('', value)}")
        secret = is_secret and not equals
    return shlex.join(words)


def provenance_of_source() -> dict[str, str]:
    """Tag with the commit of the running source; empty for an installed package."""
    commit = source_commit()
    return {} if commit is None else {"git.commit": commit}
