"""Waiting for an object store that went away, and for how long.

A store that never answered gets a few attempts within two seconds: most likely its address is
wrong or it does not run. One that has answered, here or in the process that made this one, is
waited for: servers restart. Pauses grow by two from 0.1 s to 5 s, each varied at random by
half, so that many workers do not come back at the same moment.

Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog (2015).
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from heimdall_data.object_store.errors import FAULTS, Healing, healing_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Waiting", "has_answered", "remember_answer"]

_FIRST_CONTACT_S = 2.0
# One object that does not come while the store answers: long enough for a store that starts
# and does not know yet where its objects are, and short beside an outage.
_OBJECT_S = 15.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
# Of the process, since many short-lived stores and datasets name the same server.
_answered: set[str] = set()


def has_answered(endpoint_url: str) -> bool:
    """Whether the store there has answered this process, or the one that made it."""
    return endpoint_url in _answered


def remember_answer(endpoint_url: str) -> None:
    """The store there has answered: from now on it is waited for."""
    _answered.add(endpoint_url)


@dataclass(slots=True)
class _Failures:
    """Those of one question."""

    number: int = 0
    since_s: float = math.inf
    of_object_since_s: float = math.inf
    """As long as no other fault comes between."""

    def add(self, healing: Healing) -> None:
        now_s = time.monotonic()
        self.number += 1
        self.since_s = min(self.since_s, now_s)
        of_object = healing is Healing.OBJECT
        self.of_object_since_s = min(self.of_object_since_s, now_s) if of_object else math.inf


class Waiting:
    """Asks again what may heal. Safe to use from several threads, which wait together."""

    def __init__(
        self, endpoint_url: str, patience_s: float, interrupted: threading.Event | None = None
    ) -> None:
        """Wait for the store at `endpoint_url` at most `patience_s` seconds at a time.

        Once `interrupted` is set, nothing is waited for.
        """
        self.endpoint_url = endpoint_url
        self._interrupted = interrupted or threading.Event()
        self.patience_s = patience_s
        self._away_since_s: float | None = None
        self._lock = threading.Lock()

    def answer(self, ask: Callable[[], _Answer]) -> _Answer:
        """What `ask` returns in the end; its last error where waiting did not help."""
        failures = _Failures()
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                answer = ask()
            except FAULTS as error:
                healing = healing_of(error)
                if healing is Healing.NEVER:
                    raise
                failures.add(healing)
                varied_s = pause_s * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                too_late = time.monotonic() + varied_s > self._until_s(healing, failures)
                if too_late or self._is_interrupted_within(varied_s):
                    self._give_up()
                    raise
            else:
                self._answered()
                return answer
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _is_interrupted_within(self, seconds: float) -> bool:
        """Pause for so long, unless somebody wants no more answers."""
        return self._interrupted.wait(seconds)

    def _until_s(self, healing: Healing, failures: _Failures) -> float:
        """Until when to ask again."""
        if healing is Healing.OBJECT:
            return failures.of_object_since_s + min(_OBJECT_S, self.patience_s)
        if not has_answered(self.endpoint_url):
            silent = healing is Healing.SILENCE
            return failures.since_s + (0.0 if silent else min(_FIRST_CONTACT_S, self.patience_s))
        # One failure is no outage: a connection that idled is closed by many servers.
        if failures.number == 1:
            return failures.since_s + self.patience_s
        with self._lock:
            if self._away_since_s is None:
                self._away_since_s = failures.since_s
                self._say_waiting()
            return min(self._away_since_s, failures.since_s) + self.patience_s

    def _say_waiting(self) -> None:
        if self.patience_s > 0:
            _log.warning(
                "the object store %s does not answer; it is waited for, at most %g s",
                self.endpoint_url,
                self.patience_s,
            )

    def _answered(self) -> None:
        remember_answer(self.endpoint_url)
        if self._away_since_s is None:
            return
        with self._lock:
            since_s, self._away_since_s = self._away_since_s, None
        if since_s is not None:
            away_s = time.monotonic() - since_s
            _log.warning("%s answers again after %.1f s; going on", self.endpoint_url, away_s)

    def _give_up(self) -> None:
        """The next call that fails is another outage, with patience of its own."""
        with self._lock:
            self._away_since_s = None
