"""Arguments of a task: flags of `heimdall train` as JSON, checked by the command's own code."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import cyclopts
from cyclopts.config import Dict
from heimdall_data.catalogue.session import FilterError

from heimdall_trainer.config import TrainingConfig, whole_numbers_only
from heimdall_trainer.connections import Connections, holds_password, masked
from heimdall_trainer.errors import UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["training_config"]

MAX_CHARACTERS = 100_000
"""Of all names and values of a task together."""
ENVIRONMENT_ONLY = {"broker_url", "result_backend", *(each.name for each in fields(Connections))}
DEFAULTS = TrainingConfig()


def training_config(settings: Mapping[str, object], *, export: bool = False) -> TrainingConfig:
    """Return the configuration of a task's arguments; a null leaves a value at its default.

    Args:
        settings: Names of flags, with hyphens or underscores, and their values.
        export: Whether the task exports a checkpoint.

    Raises:
        UsageError: There is no such flag, it cannot have the value, or a name or a value is an
            address or a secret.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    n_characters = 0
    for name, value in given.items():
        plain = name.lstrip("-").replace("-", "_")
        shown = repr(masked("", plain))
        if plain in ENVIRONMENT_ONLY:
            raise UsageError(
                f"{shown} cannot be in a task: addresses and secrets come from the worker's "
                "environment"
            )
        items = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(item, dict | list | tuple) for item in items):
            raise UsageError(f"{shown} must be a value or a list of plain values")
        texts = [name, *map(str, items)]
        n_characters += sum(map(len, texts))
        if any(map(holds_password, texts)):
            raise UsageError(f"{shown} holds a password or a token; leave it out of the task")
        # To cyclopts `no_x: true` is `x: true`.
        positive = plain.removeprefix("no_")
        if positive != plain and hasattr(DEFAULTS, positive):
            raise UsageError(f"{shown} cannot be in a task; write {positive!r}: false")
    if n_characters > MAX_CHARACTERS:
        raise UsageError(
            f"the task has {n_characters:,} characters, more than {MAX_CHARACTERS:,}; "
            "shorten its lists"
        )
    if export:
        given["export_only"] = True
    app = cyclopts.App(
        config=(Dict(given, use_commands_as_keys=False, source="the task"), whole_numbers_only),
        help_flags=(),
        version_flags=(),
        name="task",
    )
    app.default(_convert)
    try:
        command, bound, _ = app.parse_args([], exit_on_error=False, print_error=False)
        config: TrainingConfig = command(*bound.args, **bound.kwargs)
    except (cyclopts.CycloptsError, FilterError) as error:
        raise UsageError(one_line(error)) from error
    if config.resume_training and not config.checkpoint:
        raise UsageError(
            "resume_training needs checkpoint: a task that runs again finds its own by itself"
        )
    return config


def _convert(*, config: TrainingConfig = DEFAULTS) -> TrainingConfig:
    return config
