"""The command line `heimdall`: its commands, and the exit status of each.

Commands load when they are called, so that `heimdall --help` needs none of the heavy
libraries. cyclopts turns a frozen dataclass and its docstrings into flags and help, suggests
the right spelling, and loads commands lazily.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from importlib.metadata import version
from typing import TYPE_CHECKING, NoReturn

import cyclopts
from heimdall_data.catalogue.session import FilterError
from heimdall_models.errors import OptionError
from heimdall_models.training.stopping import heeded, is_impatient

from heimdall_trainer.config import whole_numbers_only
from heimdall_trainer.errors import (
    ThresholdNotMet,
    UsageError,
    describe,
    is_expected,
    one_line,
    without_passwords,
)
from heimdall_trainer.flags import Origins, flags_from_file, refusal
from heimdall_trainer.streams import error_of, forgive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

DONE, FAILED, WRONG_USAGE, NOT_MET, INTERRUPTED = 0, 1, 2, 3, 130
COMMANDS = {
    "demo:demo": "Run the whole path on simulated recordings.",
    "locate:locate": "Locate an unknown transmitter from recordings.",
    "calibrate:calibrate": "Delays of receivers, from known transmitters.",
    "train:train": "Train, export, register and evaluate a model.",
    "evaluate:evaluate": "Report on a model, on held-out recordings.",
    "compare:compare": "Two models on the same held-out recordings.",
    "ingest:app": "Store recordings and catalogue them.",
    "sessions:app": "Recorded sessions: list, show, approve, reject.",
    "cache:app": "Computed features: build, status, clear.",
    "stack:app": "Embedded Postgres and S3: up, down, status.",
    "models:app": "Registered models: list, show, promote, rollback, delete.",
    "worker:worker": "Train what a job queue asks for, with Celery.",
    "doctor:doctor": "What killed processes left: list it, or mend it.",
}
EXAMPLES = {
    "demo": """
heimdall demo
heimdall demo --sessions 300 --epochs 10
""",
    "locate": """
heimdall locate *_iq.wav --stations stations.csv --output found
heimdall locate recordings --frequency-hz 77500 --json
heimdall locate --since 2026-01-01 --model model.onnx
""",
    "calibrate": """
heimdall calibrate --output delays.json
heimdall calibrate *.wav --stations stations.csv --latitude 50.0152 --longitude 9.0112
""",
    "train": """
heimdall train --backbone convnext_atto --epochs 20
heimdall train --config run.yaml --dry-run
heimdall train --resume-training --checkpoint-dir checkpoints
""",
    "evaluate": """
heimdall evaluate model.onnx --report report.html
heimdall evaluate models:/heimdall-localization-onnx@production --split all
heimdall evaluate best.ckpt --config run.yaml
heimdall evaluate models:/heimdall-localization-onnx@production --since 7d --min-coverage-95 0.9
""",
    "compare": """
heimdall compare new.onnx models:/heimdall-localization-onnx@production
heimdall compare monday.html tuesday.html
""",
    "ingest": """
heimdall ingest *.wav --source DCF77 --latitude 50.0152 --longitude 9.0112
heimdall ingest manifest recordings.csv --stations stations.csv
heimdall ingest simulated --sessions 60
""",
    "sessions": """
heimdall sessions list --approval pending --since 2026-01-01
heimdall sessions show 6f0e5bd2-52fa-4bd6-8c61-2ac6ac80b0e4
heimdall sessions approve 6f0e5bd2-52fa-4bd6-8c61-2ac6ac80b0e4 --reason "clear"
""",
    "cache": """
heimdall cache build --config run.yaml
heimdall cache status
""",
    "stack": """
heimdall stack up
heimdall stack status --json
""",
    "models": """
heimdall models list
heimdall models promote 3 --reason "better at night"
heimdall models benchmark model.onnx --seconds 2
""",
    "worker": """
heimdall worker --broker-url redis://localhost:6379/0
heimdall worker --allow /shared/checkpoints --queue night
""",
    "doctor": """
heimdall doctor
heimdall doctor --fix
""",
}
"""Lines that a command's help ends with."""
EPILOGUE = (
    "Flags take hyphens or underscores. "
    "Any command takes --debug, to see the traceback of an error."
)


app = cyclopts.App(
    name="heimdall",
    help="Where a transmitter is, and how sure we are.",
    help_epilogue=EPILOGUE,
    version=lambda: version("heimdall-trainer"),
    version_flags=("--version", "-V"),
    suppress_keyboard_interrupt=False,
    help_formatter="plain",
    help_format="plaintext",  # Markdown, which the commands' own help has, takes 0.1 s to load.
)
for _place, _help in COMMANDS.items():
    _name, _, _object = _place.partition(":")
    _more = {} if _object == "app" else {"help_format": "markdown", "help_formatter": "default"}
    app.command(f"heimdall_trainer.cli.{_place}", name=_name, help=_help, **_more)
app.register_install_completion_command(help="Completion for the shell in use: bash, zsh or fish.")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its status.

    0 done, 1 failed, 2 wrong usage, 3 a threshold is not met, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    # Nobody else may change what a command writes, even where containers set no umask.
    os.umask(os.umask(0o077) | 0o022)
    forgive()
    words = [word for word in words if word != "--debug"]
    _end_at_signals()
    origins = Origins(_load_dotenv())
    if os.path.expanduser("~") == "~" and (state := os.environ.get("HEIMDALL_STATE_DIR")):  # noqa: PTH111
        os.environ["HOME"] = state  # Otherwise libraries make caches in a folder called `~`.
    app.config = (flags_from_file, whole_numbers_only, origins)
    status, message = DONE, ""
    try:
        _explain(words)
        command, bound, unparsed = app.parse_args(words, exit_on_error=False, print_error=False)
        more = {"origins": origins} if "origins" in unparsed else {}
        command(*bound.args, **bound.kwargs, **more)
    except KeyboardInterrupt:
        status, message = INTERRUPTED, "interrupted"
    except Exception as error:  # noqa: BLE001 - the outermost edge: one line, never a traceback
        if debug:
            from heimdall_features.names import shown_lines

            print(shown_lines(without_passwords(traceback.format_exc())), end="", file=sys.stderr)
        status, message = FAILED, one_line(error)
        if isinstance(error, cyclopts.UnknownOptionError):
            message = refusal(error)
        if len(getattr(error, "problems", ())) > 1:  # Of an ingestion; a line for each.
            print(*map(one_line, str(error).split("\n")), sep="\n", file=sys.stderr)
            message = error.summary  # type: ignore[attr-defined]
        elif isinstance(error, (cyclopts.CycloptsError, UsageError, OptionError, FilterError)):
            place = f"heimdall {words[0]}" if words and words[0] in EXAMPLES else "heimdall"
            status, message = WRONG_USAGE, f"{origins.explain(message)} (see {place} --help)"
        elif isinstance(error, ThresholdNotMet):
            status = NOT_MET
        elif isinstance(error, ModuleNotFoundError) and error.name == "torch":
            message = (
                f"`heimdall {words[0]}` needs PyTorch, which is not installed here: use an "
                "installation with it (README.md, Smaller installations)"
            )
        elif not is_expected(error):
            message = f"{describe(error)} (run again with --debug to see where, and report it)"
    sys.stdout.flush()
    if status == DONE and (unsaid := error_of("stdout")) is not None:
        from heimdall_trainer.events import has_log

        what = f"standard output could not be written whole: {unsaid.strerror}"
        if has_log() or words[:1] == ["worker"]:  # What Celery prints is a log, too.
            print(f"warning: {what}; the work itself is complete", file=sys.stderr)
        elif not isinstance(unsaid, BrokenPipeError):  # Who closes a pipe has read enough.
            status, message = FAILED, what
    if message:
        print(f"heimdall: {one_line(message)}", file=sys.stderr, flush=True)
    sys.exit(status)


def _explain(words: Sequence[str]) -> None:
    """Give the command that is called its whole docstring as help, and its examples."""
    if words and words[0] in EXAMPLES:
        command = app[words[0]]
        examples = EXAMPLES[words[0]].strip().replace("\n", "\n    ")
        command.help_epilogue = f"Examples:\n\n    {examples}\n\n{EPILOGUE}"
        if command.default_command is not None:
            command.help = None


def _end_at_signals() -> None:
    """Unwind the stack at signals: servers stop, runs are ended, temporary files are removed.

    What comes again by itself, such as SIGHUP from the kernel and then the shell, disturbs nothing.
    """
    received: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1 and not is_impatient(received):
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    for number in heeded():
        signal.signal(number, end)


def _load_dotenv() -> frozenset[str]:
    """Set the variables of `.env` that the environment lacks, and return their names."""
    if not os.path.exists(".env"):  # noqa: PTH110 - pathlib costs more than the check
        return frozenset()
    from dotenv import load_dotenv

    before = frozenset(os.environ)
    load_dotenv(".env", override=False)
    return frozenset(os.environ) - before
