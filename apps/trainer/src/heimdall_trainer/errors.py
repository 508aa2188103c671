"""Errors of the trainer, and the errors that a user may see as one line."""

from __future__ import annotations

import re


class TrainerError(ValueError):
    """A setting, an address or a file that the trainer cannot work with."""


class UsageError(TrainerError):
    """A value that the command line or a configuration must not have; exit status 2."""


def is_expected(error: BaseException) -> bool:
    """Return True for an error raised for the user, by us or by the operating system."""
    return type(error).__module__.startswith("heimdall_") or isinstance(error, OSError)


def one_line(error: BaseException | str) -> str:
    """The message of an error on one line, with control characters escaped."""
    from heimdall_features.names import shown  # loads NumPy, needless for --help

    return shown(re.sub(r"[ \t\n]+", " ", str(error)).strip())


def describe(error: BaseException) -> str:
    """The message on one line, with the type of an error that is not expected."""
    line = one_line(error)
    return line if is_expected(error) else f"unexpected {type(error).__name__}: {line}"
