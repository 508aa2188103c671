"""What is wrong with a manifest, collected so that it is corrected once and not twenty times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from heimdall_data.errors import IngestError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ManifestError", "Problems"]

MAX_TOLD = 20


class ManifestError(IngestError):
    """A manifest with mistakes: as many as are worth reading at once."""

    def __init__(self, path: Path, problems: list[str], n_more: int) -> None:
        self.problems = tuple(problems)
        """Each with its line."""
        self.n_more = n_more
        more = f"\n... and {n_more} more" if n_more else ""
        super().__init__("\n".join(problems) + more)
        self.summary = (
            f"{path}: {len(problems) + n_more} mistakes, nothing was written; correct them"
        )


@dataclass(slots=True)
class Problems:
    """Mistakes so far."""

    path: Path
    told: list[str] = field(default_factory=list)
    n_more: int = 0

    @property
    def full(self) -> bool:
        """Whether more would not be told."""
        return len(self.told) >= MAX_TOLD

    def add(self, problem: str) -> None:
        """Take note of a mistake."""
        if self.full:
            self.n_more += 1
        else:
            self.told.append(problem)

    def raise_any(self) -> None:
        """End here if there was a mistake.

        Raises:
            ManifestError: With all that were told.
        """
        if self.told:
            raise ManifestError(self.path, self.told, self.n_more)
