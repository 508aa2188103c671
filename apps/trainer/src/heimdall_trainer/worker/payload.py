"""Arguments of a task: flags of `heimdall train` as JSON, checked by the command's own code."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import cyclopts
from heimdall_data.catalogue.session import FilterError

from heimdall_trainer.config import TrainingConfig, whole_numbers_only
from heimdall_trainer.connections import Connections, masked
from heimdall_trainer.errors import UsageError, one_line
from heimdall_trainer.flags import Entry, plain, set_flags

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVIRONMENT_ONLY = {"broker_url", "result_backend", *(each.name for each in fields(Connections))}
DEFAULTS = TrainingConfig()
MAX_CHARACTERS = 100_000
"""Limit for the arguments of a task: reading them takes the square of their number."""


def training_config(settings: Mapping[str, object], *, export: bool = False) -> TrainingConfig:
    """Return the configuration of a task's arguments; a null leaves a value at its default.

    Args:
        settings: Names of flags, with hyphens or underscores, and their values.
        export: Whether the task exports a checkpoint.

    Raises:
        UsageError: There is no such flag, it cannot have the value, or a name or a value is an
            address or a secret.
    """
    given = {plain(name): value for name, value in settings.items() if value is not None}
    if len(given) < sum(value is not None for value in settings.values()):
        raise UsageError("a flag is given twice, with hyphens and with underscores; remove one")
    entries = [
        _entry(*each) for each in (given | {"export_only": True} if export else given).items()
    ]
    if sum(1 + len(value) for entry in entries for value in entry.values) > MAX_CHARACTERS:
        raise UsageError(f"the arguments have over {MAX_CHARACTERS:,} characters; shorten them")
    app = cyclopts.App(
        config=(lambda _app, _commands, flags: set_flags(entries, flags), whole_numbers_only),
        help_flags=(),
        version_flags=(),
        name="task",
    )
    app.default(_convert)
    try:
        command, bound, _ = app.parse_args([], exit_on_error=False, print_error=False)
        return command(*bound.args, **bound.kwargs)  # type: ignore[no-any-return]
    except (cyclopts.CycloptsError, FilterError) as error:
        raise UsageError(one_line(error)) from error


def _entry(name: str, value: object) -> Entry:
    if name in ENVIRONMENT_ONLY:
        raise UsageError(
            f"{name!r} cannot be in a task: addresses and secrets come from the worker's "
            "environment"
        )
    items = value if isinstance(value, list | tuple) else (value,)
    if any(item is None or isinstance(item, dict | list | tuple) for item in items):
        raise UsageError(f"{masked('', name)!r} must be a value or a list of plain values")
    values = tuple(str(item) for item in items)
    return Entry(where="the task", name=name, values=values, is_list=items is value)


def _convert(*, config: TrainingConfig = DEFAULTS) -> TrainingConfig:
    return config
