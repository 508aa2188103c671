"""Environment variables for a while: for libraries that take their settings from nowhere else."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["lent"]


@contextlib.contextmanager
def lent(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables, None takes one away; afterwards each is as it was."""
    before = {name: os.environ.get(name) for name in variables}
    try:
        _set(variables)
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
