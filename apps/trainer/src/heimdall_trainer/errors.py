"""Errors of the trainer, and the errors that a user may see as one line."""

from __future__ import annotations

import os
import re
import sys

ADDRESSES = ("_URL", "_URI", "_BACKEND", "_PROXY", "_CACHE_S3", "_ARTIFACT_ROOT")
"""Ends of the names of variables that hold addresses."""


class TrainerError(ValueError):
    """A setting, an address or a file that the trainer cannot work with."""


class UsageError(TrainerError):
    """A value that the command line or a configuration must not have; exit status 2."""


class ThresholdNotMet(TrainerError):
    """A model's figures are worse than a threshold allows; exit status 3."""


def is_expected(error: BaseException) -> bool:
    """Return True for an error raised for the user, by us or by the operating system."""
    return type(error).__module__.startswith("heimdall_") or isinstance(error, OSError)


def one_line(error: BaseException | str) -> str:
    """The message of an error on one line, with control characters escaped and no password."""
    from heimdall_features.names import shown  # loads NumPy, needless for --help

    return shown(re.sub(r"[ \t\n]+", " ", without_passwords(str(error))).strip())


def without_passwords(text: str) -> str:
    """A text without the passwords of the command line and the environment.

    Libraries quote what they were given, and cyclopts what it does not understand.
    """
    from heimdall_features.addresses import may_hold_password, redacted

    known = [word.partition("=")[2] if word.startswith("-") else word for word in sys.argv[1:]]
    known += [value for name, value in os.environ.items() if name.upper().endswith(ADDRESSES)]
    return redacted(text, *filter(may_hold_password, known))


def describe(error: BaseException) -> str:
    """The message on one line, with the type of an error that is not expected."""
    line = one_line(error)
    return line if is_expected(error) else f"unexpected {type(error).__name__}: {line}"
