"""A YAML file of flags: the names that it sets, and the line that each stands on.

Values stay the text that was typed, so that they mean what they mean behind a flag: `NO` is a
station and no boolean, `1e-3` a number. Only null, `~` and nothing at all are no value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heimdall_trainer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["SECRETS", "Entry", "holds_password", "masked", "read_entries"]

GROUP = "only"
"""Under this name the flags that choose sessions may stand together."""
NULL = "tag:yaml.org,2002:null"
SECRETS = frozenset(("s3_access_key", "s3_secret_key"))
MOST_CHARACTERS = 1_000_000
"""No file of flags is longer; a device that never ends is."""
_PARAMETER = re.compile(
    r"(password|passwd|pwd|secret|token|key|signature|credential)\s*=", re.IGNORECASE
)
_LOGIN = re.compile(
    r"\w:(?!\d+/)[^@\s/][^@\s]*@|:/+[^@\s/]*:(?!\d+/)[^@\s]*@|https?:/+[^/@\s]+@", re.IGNORECASE
)
"""`user:password@`, or a token in its place; also where a path has made one slash of `://`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name of the file and what it is set to."""

    name: str
    """As typed, but with underscores."""
    value: str | tuple[str, ...] | None
    where: str
    """File and line, as `run.yaml:3`."""
    within: str = ""
    """The name it stands below, if any."""

    def error(self, message: str) -> UsageError:
        """An error that says where."""
        return UsageError(f"{self.where}: {message}")


def read_entries(path: Path) -> tuple[Entry, ...]:
    """Everything that a file sets, in order; a name may come twice.

    Raises:
        UsageError: It cannot be read, is no YAML, empty, or not names with values; the message
            has the file and, where there is one, the line.
    """
    root = _root(path)
    if root is None:
        raise UsageError(f"{path} is empty; write flags there, such as `epochs: 40`, or drop it")
    if root.id != "mapping":
        raise UsageError(
            f"{path}:{_line(root)}: not names with values; write flags as `epochs: 40`"
        )
    return tuple(_entries(root, path))


def _root(path: Path) -> Any:  # noqa: ANN401 - the library's nodes have no types
    import yaml

    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise UsageError(f"--config {path} cannot be read: {reason}") from error
    if len(text) > MOST_CHARACTERS:
        raise UsageError(
            f"--config {path} is no file of flags: it has over {MOST_CHARACTERS:,} letters"
        )
    try:
        # Composed and not constructed: text with lines, and no object is ever made of it.
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: not YAML ({error.problem}); correct it") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML ({error}); correct it") from error


def _entries(mapping: Any, path: Path, within: str = "") -> Iterator[Entry]:  # noqa: ANN401
    for key, node in mapping.value:
        where = f"{path}:{_line(key)}"
        if key.id != "scalar":
            raise UsageError(
                f"{where}: a list or a mapping is no name of a flag; write `name: value`"
            )
        name = str(key.value).strip().replace("-", "_").removeprefix("__")
        if node.id == "mapping":
            if within or name != GROUP:
                raise UsageError(
                    f"{where}: {name!r} has names below it; only `{GROUP}:` may have some, "
                    "the flags that choose sessions"
                )
            yield from _entries(node, path, name)
        else:
            yield Entry(name=name, value=_value(node, name, where), where=where, within=within)


def _value(node: Any, name: str, where: str) -> str | tuple[str, ...] | None:  # noqa: ANN401
    if node.id == "scalar":
        return None if node.tag == NULL else str(node.value)
    if any(item.id != "scalar" or item.tag == NULL for item in node.value):
        raise UsageError(f"{where}: {name!r} is a list of more than plain values; write [a, b]")
    return tuple(str(item.value) for item in node.value)


def _line(node: Any) -> int:  # noqa: ANN401
    return int(node.start_mark.line) + 1


def holds_password(value: str) -> bool:
    """Whether a text carries a password or a token: before a host, or as a parameter."""
    return bool(_PARAMETER.search(value) or _LOGIN.search(value))


def masked(name: str, value: str) -> str:
    """A value that may be shown: `***` for a secret, and for the login in an address."""
    if name not in SECRETS and not holds_password(value):
        return value
    address = re.fullmatch(
        r"(\w[\w+.-]*://)[^/?#\s]*@([^/?#@\s]*(?:/[^?#@\s]*)?)(?:[?#]\S*)?", value
    )
    if name in SECRETS or address is None:
        return "***"
    return f"{address[1]}***@{address[2]}"
