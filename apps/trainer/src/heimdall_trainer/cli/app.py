"""The command line `heimdall`: which commands there are, and how each one ends.

Commands load when they are called, so that `heimdall --help` needs none of the heavy
libraries. The library is cyclopts: it turns a frozen dataclass and its docstrings into flags and
help, suggests the right spelling, and loads commands lazily.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

import cyclopts
from heimdall_data.catalogue.session import FilterError
from heimdall_models.errors import OptionError

from heimdall_trainer.cli.flags import Origins, flags_from_file, whole_numbers_only
from heimdall_trainer.errors import UsageError, is_expected

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

__all__ = ["app", "main"]

DONE, FAILED, WRONG_USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def _version() -> str:
    from importlib.metadata import version

    return version("heimdall-trainer")


app = cyclopts.App(
    name="heimdall",
    help="Where a transmitter is, and how sure we are.",
    help_epilogue="Any command takes --debug, to see the traceback of an error.",
    version=_version,
    suppress_keyboard_interrupt=False,
    help_formatter="plain",
)
COMMANDS = "heimdall_trainer.cli.app"
app.command(f"{COMMANDS}.demo:demo", help="Run the whole path on simulated recordings.")
app.command(f"{COMMANDS}.train:train", help="Train, export, register and evaluate a model.")
app.command(f"{COMMANDS}.evaluate:evaluate", help="Report on a model, on held-out recordings.")
app.command(f"{COMMANDS}.compare:compare", help="Two models on the same held-out recordings.")
app.command(f"{COMMANDS}.ingest:app", name="ingest", help="Store recordings and catalogue them.")
app.command(f"{COMMANDS}.cache:app", name="cache", help="Computed features: build, status, clear.")
app.command(
    f"{COMMANDS}.stack:app", name="stack", help="Embedded Postgres and S3: up, down, status."
)
app.command(
    f"{COMMANDS}.models:app",
    name="models",
    help="Registered models: list, show, promote, rollback, delete.",
)
app.command(f"{COMMANDS}.worker:worker", help="Train what a job queue asks for, with Celery.")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    signal.signal(signal.SIGTERM, _terminate)
    origins = Origins(_load_dotenv())
    sys.exit(_run([word for word in given if word != "--debug"], origins, debug=debug))


def _run(given: list[str], origins: Origins, *, debug: bool) -> int:
    app.config = (flags_from_file, whole_numbers_only, origins)
    try:
        _call(given, origins)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except (cyclopts.CycloptsError, UsageError, OptionError, FilterError) as error:
        _trace(debug=debug)
        said = origins.explained(_one_line(error))
        return _say(f"{said} (see heimdall --help)", WRONG_USAGE)
    except Exception as error:  # noqa: BLE001 - the outermost edge: one line, never a traceback
        _trace(debug=debug)
        if is_expected(error):
            return _say(_one_line(error), FAILED)
        said = f"unexpected {type(error).__name__}: {_one_line(error)}"
        return _say(f"{said} (run again with --debug to see where, and report it)", FAILED)
    return DONE


def _call(given: list[str], origins: Origins) -> None:
    """Call the command that is meant; one that asks for the origins of its flags gets them."""
    command, bound, unparsed = app.parse_args(given, exit_on_error=False, print_error=False)
    more = {"origins": origins} if "origins" in unparsed else {}
    command(*bound.args, **bound.kwargs, **more)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _trace(*, debug: bool) -> None:
    if debug:
        traceback.print_exc()


def _say(message: str, status: int) -> int:
    sys.stdout.flush()
    print(f"heimdall: {message}", file=sys.stderr, flush=True)
    return status


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind as Ctrl-C does, so that servers stop and temporary files go."""
    sys.exit(TERMINATED)


def _load_dotenv() -> frozenset[str]:
    """Take from `.env` in the working directory what the environment does not already say.

    Returns:
        The names of the variables that it set.
    """
    if not os.path.exists(".env"):  # noqa: PTH110 - pathlib costs more than the check
        return frozenset()
    from dotenv import load_dotenv

    before = frozenset(os.environ)
    load_dotenv(".env", override=False)
    return frozenset(os.environ) - before
