"""What a task asks for: flags of `heimdall train` as JSON, checked by the command's own code."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import cyclopts
from cyclopts.config import Dict
from heimdall_data.catalogue.session import FilterError

from heimdall_trainer.cli.flags import holds_password, masked, whole_numbers_only
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["training_config"]

MOST_CHARACTERS = 100_000
"""Of all names and values of a task together; no list of flags is longer."""
ENVIRONMENT_ONLY = frozenset(
    ("broker_url", "result_backend", *(field.name for field in fields(Connections)))
)
DEFAULTS = TrainingConfig()


def training_config(settings: Mapping[str, object], *, export: bool = False) -> TrainingConfig:
    """The configuration that a task's mapping stands for; a null leaves a value at its default.

    Args:
        settings: Names of flags, with hyphens or underscores, and their values.
        export: Whether the task is to export a checkpoint.

    Raises:
        UsageError: No such flag, a value that it cannot have, an address or a secret.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    for name, value in given.items():
        _refuse_environment(name, value)
        _refuse_shape(name, value)
    if sum(len(text) for each in given.items() for text in _texts(each)) > MOST_CHARACTERS:
        raise UsageError(f"the task is longer than {MOST_CHARACTERS:,} letters; shorten its lists")
    if export:
        given["export_only"] = True
    try:
        config = _converted(given)
    except (cyclopts.CycloptsError, FilterError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    if config.resume_training and not config.checkpoint:
        raise UsageError(
            "resume_training needs checkpoint: a task that runs again finds its own by itself"
        )
    return config


def _refuse_environment(name: str, value: object) -> None:
    plain = name.lstrip("-").replace("-", "_")
    if plain in ENVIRONMENT_ONLY:
        raise UsageError(
            f"{plain!r} cannot be in a task: addresses and secrets come from the worker's "
            "environment"
        )
    if any(holds_password(text) for text in (name, *_texts(value))):
        told = masked("", plain)
        raise UsageError(f"{told!r} holds a password or a token; leave it out of the task")


def _refuse_shape(name: str, value: object) -> None:
    """A value is one or a list of some; and `no_x` is left to flags: of a task it would mean x."""
    if isinstance(value, dict) or any(isinstance(item, dict | list) for item in _items(value)):
        raise UsageError(f"{name!r} holds more than a value or a list of plain values")
    plain = name.replace("-", "_").removeprefix("no_")
    if plain != name.replace("-", "_") and hasattr(DEFAULTS, plain):
        raise UsageError(f"{name!r} cannot be in a task; write {plain!r}: false")


def _items(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _texts(value: object) -> Iterator[str]:
    """Values at any depth, however deep they lie."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            waiting.extend(inner)
            waiting.extend(inner.values())
        elif isinstance(inner, list | tuple):
            waiting.extend(inner)
        else:
            yield str(inner)


def _converted(given: dict[str, Any]) -> TrainingConfig:
    source = Dict(given, use_commands_as_keys=False, source="the task")
    app = cyclopts.App(
        config=(source, whole_numbers_only), help_flags=(), version_flags=(), name="task"
    )

    @app.default
    def convert(*, config: TrainingConfig = DEFAULTS) -> TrainingConfig:
        return config

    command, bound, _ = app.parse_args([], exit_on_error=False, print_error=False)
    config: TrainingConfig = command(*bound.args, **bound.kwargs)
    return config
