"""Processes that promote, roll back and delete at once, and are killed or stopped on the way.

    python contender.py ADDRESS MODEL

Each line of standard input is a JSON list, with a process for each of its entries: `steps`, pairs
of an act and a version, and perhaps `at`, the number of the write to MLflow at which the process is
sent the signal `signal`. A number in place of the list is a stopped process to go on. What the
processes did are lines of JSON; `null` follows when all have ended or stopped.
"""

import importlib
import itertools
import json
import os
import signal
import sys
import time

from heimdall_export import ExportError, delete_version, promote, rollback
from mlflow import MlflowClient

for kind in ("model_registry", "tracking"):  # Loaded once, and not by every process.
    for place in ("rest", "sqlalchemy"):
        importlib.import_module(f"mlflow.store.{kind}.{place}_store")

WRITES = (
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
    "set_model_version_tag",
    "set_registered_model_tag",
    "delete_registered_model_alias",
    "delete_model_version",
)


def tell(**what):
    """Print a line, whole among those of the other processes."""
    os.write(1, (json.dumps(what) + "\n").encode())


def interrupt(at, number):
    """Send this process a signal before one of its writes."""
    written = itertools.count(1)

    def counted(write):
        def wrapped(self, *args, **kwargs):
            if next(written) == at:
                os.kill(os.getpid(), number)
            return write(self, *args, **kwargs)

        return wrapped

    for name in WRITES:
        setattr(MlflowClient, name, counted(getattr(MlflowClient, name)))


def act(address, model, index, steps):
    """Take the steps, and tell how each ended."""
    for step, (what, version) in enumerate(steps):
        reason = f"{os.getpid()}.{step}"
        began = time.monotonic()
        error = None
        try:
            if what == "promote":
                promote(address, model, version, reason=reason, force=True)
            elif what == "rollback":
                version = rollback(address, model, reason=reason)
            else:
                delete_version(address, model, version, objects=None)
        except ExportError as refused:
            error = str(refused)
        tell(
            process=index,
            act=what,
            version=version,
            reason=reason,
            error=error,
            began=began,
            ended=time.monotonic(),
        )


def start(address, model, index, order):
    """Fork a process for an order; its pid."""
    if pid := os.fork():
        return pid
    try:
        if "at" in order:
            interrupt(order["at"], signal.Signals[order["signal"]])
        act(address, model, index, order["steps"])
    finally:
        os._exit(0)


def wait(pid):
    """Wait until a process ends or stops."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        tell(stopped=pid)
    elif os.WIFSIGNALED(status):
        tell(killed=pid)


if __name__ == "__main__":
    for line in sys.stdin:
        orders = json.loads(line)
        if isinstance(orders, int):
            os.kill(orders, signal.SIGCONT)
            pids = [orders]
        else:
            pids = [start(*sys.argv[1:], *each) for each in enumerate(orders)]
        for pid in pids:
            wait(pid)
        os.write(1, b"null\n")
