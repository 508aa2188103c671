"""Sources of the values of flags: the command line, the environment, `.env`, a YAML file.

cyclopts reads the command line and the environment variables that a flag names; then it calls
the functions of this module in order, each of which fills what is not set yet. So a flag comes
before the environment, the environment before `.env` (which fills the environment), and a
configuration file last.

A value in a file is kept as the text that was typed, so that it means the same as behind a flag:
`NO` is a station and not a boolean, `1e-3` a number. Only null, `~` and nothing are no value.
`cyclopts.config.Yaml` would parse them, and gives no line numbers for errors and origins.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial, reduce
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter, Token

from heimdall_trainer.connections import SECRETS, shown_value
from heimdall_trainer.errors import UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cyclopts import Argument, ArgumentCollection, UnknownOptionError

ConfigFile = Annotated[Path | None, Parameter(name="--config")]
"""Type of the parameter by which a command takes a configuration file."""
Switch = Annotated[bool, Parameter(negative="")]
"""A boolean without a `--no-` form."""
Json = Annotated[bool, Parameter(negative="", help="Print JSON.")]
GROUP = "only"
"""Name under which the flags that choose sessions may stand together."""
MODES = frozenset(("config", "print_config", "dry_run"))
"""Flags that cannot be in a file: they say what the command does, not how."""
MAX_CHARACTERS = 1_000_000
"""Limit for the size of a file: a device never ends."""
NULL = "tag:yaml.org,2002:null"
DEFAULT = "default"
HEAD = """\
# Every value, and where it comes from. Give this file back with --config FILE.
# What holds a secret is shown masked and as a comment: it stays in the environment or in .env.
"""


def command_group(name: str) -> App:
    """A command that has commands of its own."""
    return App(name=name, help_formatter="default", help_format="markdown")


def acting(*fields: str) -> Parameter:
    """Make flags of these fields alone of a command's configuration, called `config`.

    The other fields, which do nothing there, may still be in the command's `--config` file: that
    of a training serves for its evaluation.
    """
    return Parameter(name="*", parse=re.compile(rf"^(config|{'|'.join(fields)})$"))


def _is_idle(argument: Argument) -> bool:
    """Return True for a field that `acting` leaves out."""
    return not argument.parse and isinstance(argument.parameter.parse, re.Pattern)


def refusal(error: UnknownOptionError) -> str:
    """The message about a flag that a command does not have."""
    name = error.token.keyword or error.token.value
    if any(
        _is_idle(each) and plain(name) in map(plain, each.names)
        for each in error.argument_collection
    ):
        return f"{name} does nothing here: it is a flag of `heimdall train`; leave it out"
    return one_line(error)


def flags_from_file(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Set what `--config FILE` sets and neither the command line nor the environment does.

    Raises:
        UsageError: The file cannot be read or is not YAML, or see `set_flags`.
    """
    given = arguments.get("--config", None)
    if given is not None and given.tokens:
        entries = _entries(Path(os.path.expanduser(given.tokens[-1].value)))  # noqa: PTH111
        if any(map(_is_idle, arguments)):  # The file may be that of a training.
            entries = (entry for entry in entries if entry.name != "log_format")
        set_flags(entries, arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name in a file or in a task, and its value."""

    where: str
    """Origin of the value, such as `run.yaml:3`."""
    name: str
    """Name of a flag, with underscores."""
    values: tuple[str, ...]
    """Text as typed; empty for null and for an empty list."""
    is_list: bool
    group: str = ""
    """Name that it stands below, if any."""

    def error(self, message: str) -> UsageError:
        """Return an error with the origin."""
        return UsageError(f"{self.where}: {message}")


def set_flags(entries: Iterable[Entry], arguments: ArgumentCollection) -> None:
    """Set the flags of `entries` that are not set yet.

    Raises:
        UsageError: A name is no flag, is set twice, holds a secret, or has a value of the wrong
            shape. The message has the origin.
    """
    from heimdall_features.addresses import may_hold_password  # loads NumPy

    set_before = {id(argument) for argument in arguments if argument.tokens}
    seen: dict[int, str] = {}
    for entry in entries:
        argument = _argument(entry, arguments)
        if entry.values and (entry.name in SECRETS or any(map(may_hold_password, entry.values))):
            variable = next(iter(argument.parameter.env_var or ()), None)
            instead = f"set {variable} in the environment or in .env" if variable else "remove it"
            raise entry.error(f"{entry.name!r} holds a secret, which others could read; {instead}")
        if id(argument) in seen:
            first = seen[id(argument)]
            raise entry.error(f"{entry.name!r} is set already at {first}; remove one")
        seen[id(argument)] = entry.where
        if id(argument) in set_before or _is_idle(argument):
            continue
        if entry.is_list and not argument.token_count()[1]:
            raise entry.error(f"{entry.name!r} is a list; it takes one value")
        token = partial(Token, keyword=entry.name, source=entry.where)
        if not entry.values:
            argument.append(token(implicit_value=() if entry.is_list else None))
        for index, value in enumerate(entry.values):
            argument.append(token(value=value, index=index))


def _entries(path: Path) -> Iterator[Entry]:
    """Everything that a file sets, in order; a name may come twice."""
    import yaml

    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise UsageError(f"--config {path} cannot be read: {reason}") from error
    if len(text) > MAX_CHARACTERS:
        raise UsageError(
            f"--config {path} is not a file of flags: it has over {MAX_CHARACTERS:,} characters"
        )
    try:
        # Composed, not constructed: nodes with lines and text, and no object is made of them.
        root = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UsageError(f"{path}{line}: not YAML ({problem}); correct it") from error
    if root is None:
        raise UsageError(f"{path} is empty; write flags in it, such as `epochs: 40`")
    if root.id != "mapping":
        raise UsageError(
            f"{path}:{root.start_mark.line + 1}: not names with values; write `epochs: 40`"
        )
    yield from _entries_of(root, path, "")


def _entries_of(mapping: Any, path: Path, group: str) -> Iterator[Entry]:  # noqa: ANN401 - untyped
    for key, node in mapping.value:
        where = f"{path}:{key.start_mark.line + 1}"
        if key.id != "scalar":
            raise UsageError(f"{where}: the name of a flag must be text; write `name: value`")
        name = plain(str(key.value).strip())
        if node.id == "mapping":
            if group or name != GROUP:
                raise UsageError(
                    f"{where}: {name!r} has names below it; only `{GROUP}:`, for the flags that "
                    "choose sessions, may have some"
                )
            yield from _entries_of(node, path, name)
            continue
        is_list = node.id == "sequence"
        items = node.value if is_list else [] if node.tag == NULL else [node]
        if any(item.id != "scalar" or item.tag == NULL for item in items):
            raise UsageError(f"{where}: {name!r} must be a list of plain values; write [a, b]")
        values = tuple(str(item.value) for item in items)
        yield Entry(where=where, name=name, values=values, is_list=is_list, group=group)


def _argument(entry: Entry, arguments: ArgumentCollection) -> Argument:
    """The flag that an entry sets; a file has `x: false` instead of `--no-x`."""
    if entry.name in MODES:
        raise entry.error(f"{entry.name!r} can be given on the command line only")
    known = {
        plain(name): each
        for each in arguments
        if (each.parse or _is_idle(each)) and (not entry.group or entry.group in each.keys)
        for name in each.names
        if name.startswith("--") and name not in each.negatives and plain(name) not in MODES
    }
    if entry.name in known:
        return known[entry.name]
    near = difflib.get_close_matches(entry.name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else "see the command's --help for all names"
    where = f" below `{entry.group}:`" if entry.group else ""
    raise entry.error(f"no flag is called {shown_value('', entry.name)!r}{where}; {hint}")


@dataclass
class Origins:
    """Record of the origin of each value; cyclopts calls it after all other sources."""

    dotenv: frozenset[str] = frozenset()
    """Variables that the environment has from `.env`."""
    settings: list[tuple[str, tuple[str, ...], str]] = field(default_factory=list, init=False)
    """Name of each flag, attributes from the command's parameter to its value, and the origin."""

    def __call__(
        self, _app: App, _commands: tuple[str, ...], arguments: ArgumentCollection
    ) -> None:
        """Record all settings."""
        self.settings = [
            (plain(leaf.name), (root.field_info.name, *leaf.keys), self._origin(leaf.tokens))
            for root in arguments
            if root.parse and not root.keys
            for leaf in (root, *root.children_recursive)
            if not leaf.children and plain(leaf.name) not in MODES
        ]

    def _origin(self, tokens: Sequence[Token]) -> str:
        if not tokens:
            return DEFAULT
        token = tokens[0]
        if token.source == "cli":
            return f"flag {token.keyword}" if token.keyword else "command line"
        if token.source != "env":
            return token.source
        return f"{'.env' if token.keyword in self.dotenv else 'environment'} {token.keyword}"

    def explain(self, message: str) -> str:
        """A message about a flag, with the origin of its value unless that is a flag."""
        found = re.search(r"--([a-z0-9_-]+)", message)
        name = plain(found[1]) if found else ""
        origin = next((each for flag, _, each in self.settings if flag == name), DEFAULT)
        if origin == DEFAULT or origin.startswith("flag"):
            return message
        return f"{message} (it comes from {origin})"

    def yaml(self, values: Mapping[str, object]) -> str:
        """A file for `--config`: a line for each flag, with its value and the value's origin.

        Args:
            values: The command's parameters by name.
        """
        import yaml
        from heimdall_features.names import is_printable  # loads NumPy, needless for --help

        lines = [HEAD]
        for name, (parameter, *path), origin in self.settings:
            value: Any = reduce(getattr, path, values[parameter])
            is_list = isinstance(value, tuple)
            items = value if is_list else () if value is None else (value,)
            as_shown = [shown_value(name, str(item)) for item in items]
            hidden = as_shown != [str(item) for item in items]
            typed = [_as_typed(item) for item in items]
            shown: object = typed if is_list else next(iter(typed), None)
            if hidden:
                shown = ", ".join(as_shown)
            # YAML would leave some control characters as they are, such as those of direction.
            plainly = is_printable("".join(map(str, items)))
            text = yaml.safe_dump(
                shown, default_flow_style=True, width=float("inf"), allow_unicode=plainly
            )
            text = text.removesuffix("...\n").strip()
            line = f"{'# ' if hidden else ''}{name}: {text}"
            lines.append(f"{line:44s} # {one_line(origin)}\n")
        return "".join(lines)


def plain(flag: str) -> str:
    """Name of a flag without hyphens at its start, and with underscores for the others."""
    return flag.lstrip("-").replace("-", "_")


def _as_typed(value: object) -> object:
    """A value as YAML has it, and as it is typed behind a flag."""
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, PurePath) else value
