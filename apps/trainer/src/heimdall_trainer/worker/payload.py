"""Arguments of a task: flags of `heimdall train` as JSON, checked by the command's own code."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cyclopts
from heimdall_data.catalogue.session import FilterError
from heimdall_features.names import is_printable
from heimdall_models.config import HUB

from heimdall_trainer.config import TrainingConfig, whole_numbers_only
from heimdall_trainer.connections import Connections, shown_value
from heimdall_trainer.errors import UsageError, one_line
from heimdall_trainer.flags import Entry, plain, set_flags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def in_folder(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """Return the configuration with its relative paths below a task's folder."""
    weights = config.weights
    return replace(
        config,
        checkpoint=tuple(folder / path for path in config.checkpoint),
        checkpoint_dir=config.checkpoint_dir and folder / config.checkpoint_dir,
        summary=config.summary and folder / config.summary,
        weights=weights if weights in (None, HUB) else str(folder / weights),
    )


def refuse_outside(config: TrainingConfig, folder: Path, allowed: Sequence[Path]) -> None:
    """Refuse paths of a task outside the folders that it may use, without looking at them.

    Args:
        config: The task's configuration, by `in_folder`.
        folder: The task's folder. It reads checkpoints of other tasks, in the folder above, too.
        allowed: Further folders that it may read and write.

    Raises:
        UsageError: A path is outside; the message names it.
    """
    weights = () if config.weights in (None, HUB) else (Path(config.weights),)
    written = [path for path in (config.checkpoint_dir, config.summary) if path is not None]
    for paths, roots in (
        ((*config.checkpoint, *weights), (folder.parent, *allowed)),
        (written, (folder, *allowed)),
    ):
        for path in paths:
            if not is_printable(str(path)):
                raise UsageError(f"a task's path is {str(path)!r}; it must be printable text")
            if not any(path.resolve().is_relative_to(root.resolve()) for root in roots):
                raise UsageError(
                    f"a task may not use the path {shown_value('', str(path))!r}; its own folder "
                    f"is {folder}, and `heimdall worker --allow FOLDER` allows another"
                )


def _entry(name: str, value: object) -> Entry:
    if name in ENVIRONMENT_ONLY:
        raise UsageError(
            f"{name!r} cannot be in a task: addresses and secrets come from the worker's "
            "environment"
        )
    items = value if isinstance(value, list | tuple) else (value,)
    if any(item is None or isinstance(item, dict | list | tuple) for item in items):
        raise UsageError(f"{shown_value('', name)!r} must be a value or a list of plain values")
    values = tuple(str(item) for item in items)
    return Entry(where="the task", name=name, values=values, is_list=items is value)


def _convert(*, config: TrainingConfig = DEFAULTS) -> TrainingConfig:
    return config
