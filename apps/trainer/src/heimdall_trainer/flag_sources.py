"""Where the values of flags come from: the command line, the environment, `.env`, a file.

cyclopts asks these after the command line and the environment variables that a flag names, in
order; each fills what is not set yet. So a flag comes before the environment, the environment
before `.env` (which it is filled from), and a configuration file last.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import CoercionError, Parameter, Token

from heimdall_trainer.config_file import SECRETS, Entry, holds_password, masked, read_entries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import App, Argument, ArgumentCollection

__all__ = ["ConfigFile", "Origins", "Setting", "flags_from_file", "whole_numbers_only"]

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
