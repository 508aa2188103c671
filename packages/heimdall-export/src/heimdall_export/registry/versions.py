"""A version of a registered model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heimdall_export.contract import DELETING
from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """One version in the registry."""

    version: str
    """Number of the version."""
    run_id: str
    """MLflow run that made it."""
    aliases: tuple[str, ...]
    """Such as `staging` and `production`."""
    tags: Mapping[str, str]
    """Tags of the version; evaluation figures are among them."""

    @property
    def is_being_deleted(self) -> bool:
        """True if it may have lost its files already."""
        return self.tags.get("stage") == DELETING


def version_in(
    known: Sequence[RegisteredVersion], model_name: str, version: str
) -> RegisteredVersion:
    """The version of this number among those of a model; `ExportError` if there is none."""
    for found in known:
        if found.version == version:
            return found
    numbers = ", ".join(found.version for found in known) or "none"
    raise ExportError(f"{model_name!r} has no version {version!r}; it has {numbers}")


def versions_from_rows(
    runs: Iterable[tuple[int, str | None]],
    tags: Iterable[tuple[int, str, str]],
    aliases: Iterable[tuple[int, str]],
) -> tuple[RegisteredVersion, ...]:
    """The versions, newest first, from rows that each begin with a version's number.

    Args:
        runs: The run of each version.
        tags: Keys and values.
        aliases: Their names.
    """
    tags_of: dict[int, dict[str, str]] = defaultdict(dict)
    for version, key, value in tags:
        tags_of[version][key] = value
    aliases_of: dict[int, list[str]] = defaultdict(list)
    for version, alias in sorted(aliases):
        aliases_of[version].append(alias)
    return tuple(
        RegisteredVersion(
            version=str(version),
            run_id=run_id or "",
            aliases=tuple(aliases_of[version]),
            tags=tags_of[version],
        )
        for version, run_id in sorted(runs, reverse=True)
    )
