"""What a command was told in the end, as YAML that can be given back with `--config`."""

from __future__ import annotations

from datetime import datetime
from functools import reduce
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from heimdall_trainer.config_file import SECRETS, holds_password, masked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heimdall_trainer.flag_sources import Setting

__all__ = ["config_yaml"]

HEAD = """\
# Every value, and where it comes from. Give this file back with --config FILE.
# What holds a secret is shown masked and as a comment: it stays in the environment or in .env.
"""
N_COLUMNS = 44


def config_yaml(settings: Sequence[Setting], values: Mapping[str, object]) -> str:
    """One line a flag: its name, its resolved value, and where that comes from.

    Args:
        settings: The flags and their origins.
        values: The command's parameters by name, which the settings' paths lead into.
    """
    return HEAD + "".join(f"{_line(setting, values)}\n" for setting in settings)


def _line(setting: Setting, values: Mapping[str, object]) -> str:
    value: Any = reduce(getattr, setting.path[1:], values[setting.path[0]])
    plain = _plain(value)
    texts = [str(item) for item in (value if isinstance(value, tuple) else (value,))]
    named = value is not None and setting.name in SECRETS
    secret = named or any(holds_password(text) for text in texts)
    if secret:
        plain = ", ".join(masked(setting.name, text) for text in texts)
    line = f"{'# ' if secret else ''}{setting.name}: {_scalar(plain)}"
    return f"{line:{N_COLUMNS}s} # {setting.origin}"


def _plain(value: object) -> object:
    """A value as YAML has it, and as a flag would be given it."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, PurePath) else value


def _scalar(value: object) -> str:
    import yaml

    text: str = yaml.safe_dump(
        value, default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("...\n").strip()
