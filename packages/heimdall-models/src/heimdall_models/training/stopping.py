"""Signals that end a training in good order, from people, service managers and schedulers.

SIGHUP comes from a closed terminal, SIGUSR1 and SIGUSR2 from Slurm (`--signal`) and Grid Engine
(`-notify`) before they kill, SIGXCPU from a limit on processor time. SIGPIPE and SIGXFSZ are not
among them: Python makes them errors of whoever writes.
"""

from __future__ import annotations

import signal

URGENT = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""A second one of these means that somebody does not want to wait."""
REPEATED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""These come more than once unasked: SIGHUP from the kernel and the shell, SIGXCPU each second."""


def heeded() -> tuple[signal.Signals, ...]:
    """Signals that stop: of the repeated ones, not what was ignored before, as by `nohup`."""
    ignored = signal.SIG_IGN
    return (*URGENT, *(number for number in REPEATED if signal.getsignal(number) is not ignored))


def is_impatient(received: list[int]) -> bool:
    """True if the signals so far ask to stop at once, without anything being kept."""
    return sum(number in URGENT for number in received) > 1
