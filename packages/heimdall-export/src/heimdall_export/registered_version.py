"""A version in the registry, as its operators see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RegisteredVersion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """One version in the registry."""

    version: str
    run_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
