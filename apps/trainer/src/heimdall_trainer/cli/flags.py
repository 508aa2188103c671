"""Where the values of flags come from: the command line, the environment, `.env`, a file.

cyclopts asks these after the command line and the environment variables that a flag names, in
order; each fills what is not set yet. So a flag comes before the environment, the environment
before `.env` (which it is filled from), and a configuration file last.

A YAML file of flags: the names that it sets, and the line that each stands on.

Values stay the text that was typed, so that they mean what they mean behind a flag: `NO` is a
station and no boolean, `1e-3` a number. Only null, `~` and nothing at all are no value.

What a command was told in the end, as YAML that can be given back with `--config`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import CoercionError, Parameter, Token

from heimdall_trainer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cyclopts import App, Argument, ArgumentCollection

__all__ = [
    "SECRETS",
    "ConfigFile",
    "Entry",
    "Origins",
    "Setting",
    "config_yaml",
    "flags_from_file",
    "holds_password",
    "masked",
    "read_entries",
    "whole_numbers_only",
]


GROUP = "only"
"""Under this name the flags that choose sessions may stand together."""
NULL = "tag:yaml.org,2002:null"
SECRETS = frozenset(("s3_access_key", "s3_secret_key"))
MOST_CHARACTERS = 1_000_000
"""No file of flags is longer; a device that never ends is."""
_PARAMETER = re.compile(
    r"(password|passwd|pwd|secret|token|key|signature|credential)\s*=", re.IGNORECASE
)
_LOGIN = re.compile(
    r"\w:(?!\d+/)[^@\s/][^@\s]*@|:/+[^@\s/]*:(?!\d+/)[^@\s]*@|https?:/+[^/@\s]+@", re.IGNORECASE
)
"""`user:password@`, or a token in its place; also where a path has made one slash of `://`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name of the file and what it is set to."""

    name: str
    """As typed, but with underscores."""
    value: str | tuple[str, ...] | None
    where: str
    """File and line, as `run.yaml:3`."""
    within: str = ""
    """The name it stands below, if any."""

    def error(self, message: str) -> UsageError:
        """An error that says where."""
        return UsageError(f"{self.where}: {message}")


def read_entries(path: Path) -> tuple[Entry, ...]:
    """Everything that a file sets, in order; a name may come twice.

    Raises:
        UsageError: It cannot be read, is no YAML, empty, or not names with values; the message
            has the file and, where there is one, the line.
    """
    root = _root(path)
    if root is None:
        raise UsageError(f"{path} is empty; write flags there, such as `epochs: 40`, or drop it")
    if root.id != "mapping":
        raise UsageError(
            f"{path}:{_line(root)}: not names with values; write flags as `epochs: 40`"
        )
    return tuple(_entries(root, path))


def _root(path: Path) -> Any:  # noqa: ANN401 - the library's nodes have no types
    import yaml

    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise UsageError(f"--config {path} cannot be read: {reason}") from error
    if len(text) > MOST_CHARACTERS:
        raise UsageError(
            f"--config {path} is no file of flags: it has over {MOST_CHARACTERS:,} letters"
        )
    try:
        # Composed and not constructed: text with lines, and no object is ever made of it.
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: not YAML ({error.problem}); correct it") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML ({error}); correct it") from error


def _entries(mapping: Any, path: Path, within: str = "") -> Iterator[Entry]:  # noqa: ANN401
    for key, node in mapping.value:
        where = f"{path}:{_line(key)}"
        if key.id != "scalar":
            raise UsageError(
                f"{where}: a list or a mapping is no name of a flag; write `name: value`"
            )
        name = str(key.value).strip().replace("-", "_").removeprefix("__")
        if node.id == "mapping":
            if within or name != GROUP:
                raise UsageError(
                    f"{where}: {name!r} has names below it; only `{GROUP}:` may have some, "
                    "the flags that choose sessions"
                )
            yield from _entries(node, path, name)
        else:
            yield Entry(name=name, value=_value(node, name, where), where=where, within=within)


def _value(node: Any, name: str, where: str) -> str | tuple[str, ...] | None:  # noqa: ANN401
    if node.id == "scalar":
        return None if node.tag == NULL else str(node.value)
    if any(item.id != "scalar" or item.tag == NULL for item in node.value):
        raise UsageError(f"{where}: {name!r} is a list of more than plain values; write [a, b]")
    return tuple(str(item.value) for item in node.value)


def _line(node: Any) -> int:  # noqa: ANN401
    return int(node.start_mark.line) + 1


def holds_password(value: str) -> bool:
    """Whether a text carries a password or a token: before a host, or as a parameter."""
    return bool(_PARAMETER.search(value) or _LOGIN.search(value))


def masked(name: str, value: str) -> str:
    """A value that may be shown: `***` for a secret, and for the login in an address."""
    if name not in SECRETS and not holds_password(value):
        return value
    address = re.fullmatch(
        r"(\w[\w+.-]*://)[^/?#\s]*@([^/?#@\s]*(?:/[^?#@\s]*)?)(?:[?#]\S*)?", value
    )
    if name in SECRETS or address is None:
        return "***"
    return f"{address[1]}***@{address[2]}"


ConfigFile = Annotated[Path | None, Parameter(name="--config")]
"""Type of the parameter by which a command takes a configuration file."""
MODES = frozenset(("config", "print_config", "dry_run"))
"""What a command is to do, not how: these are flags alone."""
DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One flag of a command, and where its value comes from."""

    name: str
    """Of the flag, with underscores."""
    path: tuple[str, ...]
    """From the command's parameter to the value, attribute by attribute."""
    origin: str


def flags_from_file(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Set what `--config FILE` sets and neither the command line nor the environment.

    Raises:
        UsageError: The file cannot be used; see `read_entries`. Or a name in it is no flag, is
            set twice, or is a secret.
    """
    given = arguments.get("--config", None)
    if given is None or not given.tokens:
        return
    set_before = {id(argument) for argument in arguments if argument.tokens}
    seen: dict[int, Entry] = {}
    for entry in read_entries(Path(given.tokens[-1].value).expanduser()):
        argument = _argument(entry, arguments)
        _refuse_secret(entry, argument)
        if (first := seen.setdefault(id(argument), entry)) is not entry:
            raise entry.error(f"{entry.name!r} is set already at {first.where}; remove one")
        if id(argument) not in set_before:
            _set(argument, entry)


def _argument(entry: Entry, arguments: ArgumentCollection) -> Argument:
    flag = "--" + entry.name.replace("_", "-")
    if entry.name in MODES:
        raise entry.error(f"{entry.name!r} can be given on the command line only")
    known = {name: each for each in arguments if each.parse for name in _own_names(each)}
    if entry.within:
        known = {name: each for name, each in known.items() if entry.within in each.keys}
    if flag in known:
        return known[flag]
    near = difflib.get_close_matches(flag, known, 1)
    hint = f"did you mean {_plain(near[0])!r}?" if near else "the command's --help has all names"
    where = f" below `{entry.within}:`" if entry.within else ""
    called = masked("", entry.name)
    raise entry.error(f"no flag is called {called!r}{where}; {hint}")


def _own_names(argument: Argument) -> tuple[str, ...]:
    """Flags that set a value; `--no-x` is no name of a file, which has `x: false`."""
    own = (name for name in argument.names if name not in argument.negatives)
    return tuple(name for name in own if name.startswith("--") and _plain(name) not in MODES)


def _refuse_secret(entry: Entry, argument: Argument) -> None:
    secret = entry.name in SECRETS or holds_password(str(entry.value))
    if secret and entry.value is not None:
        variable = next(iter(argument.parameter.env_var or ()), None)
        instead = f"set {variable} in the environment or in .env" if variable else "remove it"
        raise entry.error(
            f"{entry.name!r} holds a secret, and such files are shared and kept; {instead}"
        )


def _set(argument: Argument, entry: Entry) -> None:
    name, where = entry.name, entry.where
    _, takes_many = argument.token_count()
    if isinstance(entry.value, tuple) and not takes_many:
        raise entry.error(f"{name!r} is a list; it takes one value")
    if entry.value is None or entry.value == ():
        argument.append(Token(keyword=name, implicit_value=entry.value, source=where))
        return
    values = entry.value if isinstance(entry.value, tuple) else (entry.value,)
    for index, value in enumerate(values):
        argument.append(Token(keyword=name, value=value, source=where, index=index))


def whole_numbers_only(
    _app: App, _commands: tuple[str, ...], arguments: ArgumentCollection
) -> None:
    """Refuse a fraction where a whole number is meant, which cyclopts would round.

    Raises:
        CoercionError: One was given.
    """
    for argument in arguments:
        for token in argument.tokens if argument.hint is int else ():
            if re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*", token.value):
                raise CoercionError(token=token, argument=argument, target_type=int)


@dataclass
class Origins:
    """Keeps where each value came from; cyclopts asks it last, when all are there."""

    dotenv: frozenset[str] = frozenset()
    """Variables that the environment has from `.env`."""
    settings: tuple[Setting, ...] = field(default=(), init=False)

    def __call__(
        self, _app: App, _commands: tuple[str, ...], arguments: ArgumentCollection
    ) -> None:
        """Look at what is set by whom."""
        self.settings = tuple(
            self._setting(root, leaf)
            for root in arguments
            if root.parse and not root.keys
            for leaf in (root, *root.children_recursive)
            if not leaf.children and _plain(leaf.name) not in MODES
        )

    def _setting(self, root: Argument, leaf: Argument) -> Setting:
        name, path = _plain(leaf.name), (root.field_info.name, *leaf.keys)
        return Setting(name=name, path=path, origin=self._origin(leaf.tokens))

    def _origin(self, tokens: Sequence[Token]) -> str:
        if not tokens:
            return DEFAULT
        token = tokens[0]
        if token.source == "cli":
            return f"flag {token.keyword}" if token.keyword else "command line"
        if token.source != "env":
            return token.source
        where = ".env" if token.keyword in self.dotenv else "environment"
        return f"{where} {token.keyword}"

    def explained(self, message: str) -> str:
        """A message about a flag's value, with where the value came from unless that is a flag."""
        found = re.search(r"--([a-z0-9_-]+)", message)
        name = found[1].replace("-", "_") if found else ""
        origin = next((each.origin for each in self.settings if each.name == name), DEFAULT)
        told = origin == DEFAULT or origin.startswith("flag")
        return message if told else f"{message} (it comes from {origin})"


def _plain(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


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
    return HEAD + "".join(f"{_line_print_config(setting, values)}\n" for setting in settings)


def _line_print_config(setting: Setting, values: Mapping[str, object]) -> str:
    value: Any = reduce(getattr, setting.path[1:], values[setting.path[0]])
    plain = _plain_print_config(value)
    texts = [str(item) for item in (value if isinstance(value, tuple) else (value,))]
    named = value is not None and setting.name in SECRETS
    secret = named or any(holds_password(text) for text in texts)
    if secret:
        plain = ", ".join(masked(setting.name, text) for text in texts)
    line = f"{'# ' if secret else ''}{setting.name}: {_scalar(plain)}"
    return f"{line:{N_COLUMNS}s} # {setting.origin}"


def _plain_print_config(value: object) -> object:
    """A value as YAML has it, and as a flag would be given it."""
    if isinstance(value, tuple):
        return [_plain_print_config(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, PurePath) else value


def _scalar(value: object) -> str:
    import yaml

    text: str = yaml.safe_dump(
        value, default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("...\n").strip()
