"""A version in the registry, as its operators see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DELETING", "RegisteredVersion"]

DELETING = "Deleting"
"""Value of the tag `stage` while a version's files go; afterwards there is no version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """One version in the registry."""

    version: str
    run_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]

    @property
    def is_being_deleted(self) -> bool:
        """Whether it may have lost its files already."""
        return self.tags.get("stage") == DELETING
