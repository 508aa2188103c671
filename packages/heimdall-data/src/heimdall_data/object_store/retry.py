"""Retries of requests to an object store that went away, and how long they go on.

A store that never answered gets a few attempts within two seconds: most likely its address is
wrong or it does not run. If it has answered before, in this process or its parent, requests are
retried for `patience_s`, because servers restart. Pauses double from 0.1 s to 5 s, each varied at
random by half, so that many workers do not come back at the same moment.

Models are fetched and stored by heimdall-export, with rules of its own.

Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog (2015).
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from heimdall_data.object_store.errors import FAULTS, Fault, classify

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWERED: set[str] = set()
"""Endpoints of stores that have answered this process, or the one that made it."""

_FIRST_CONTACT_S = 2.0
# For one object that does not come while the store answers: long enough for a store that starts
# and does not know yet where its objects are, and short beside an outage.
_OBJECT_S = 15.0
_DAMAGED_ATTEMPTS = 4
"""At an object that arrives with other bytes each time."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


class Retry:
    """Retries requests whose faults may heal. Threads may share one; they wait together."""

    def __init__(
        self, endpoint_url: str, patience_s: float, interrupted: threading.Event | None = None
    ) -> None:
        """Wait for the store at `endpoint_url` at most `patience_s` seconds at a time.

        Once `interrupted` is set, nothing is retried.
        """
        self.endpoint_url = endpoint_url
        self.patience_s = patience_s
        self._interrupted = interrupted or threading.Event()
        self._away_since_s: float | None = None
        self._lock = threading.Lock()

    def call(self, request: Callable[[], _Answer]) -> _Answer:
        """Return the answer to a request, or raise its last error if waiting did not help."""
        failing_since_s = object_failing_since_s = math.inf
        pause_s = _FIRST_PAUSE_S
        n_damaged = 0
        while True:
            try:
                answer = request()
            except FAULTS as error:
                fault = classify(error)
                n_damaged += fault is Fault.DAMAGED
                if fault is Fault.PERMANENT or n_damaged == _DAMAGED_ATTEMPTS:
                    raise
                now_s = time.monotonic()
                first = failing_since_s == math.inf
                failing_since_s = min(failing_since_s, now_s)
                if fault in (Fault.OBJECT, Fault.DAMAGED):
                    object_failing_since_s = min(object_failing_since_s, now_s)
                    until_s = object_failing_since_s + min(_OBJECT_S, self.patience_s)
                else:
                    object_failing_since_s = math.inf
                    until_s = self._until_s(fault, failing_since_s, first=first)
                varied_s = pause_s * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                # The last attempt is at the end of the patience, and not a whole pause before.
                left_s = until_s - now_s
                if left_s <= 0 or self._interrupted.wait(min(varied_s, left_s)):
                    self._away_since_s = None  # the next call that fails waits as long again
                    raise
            else:
                ANSWERED.add(self.endpoint_url)
                self._end_outage()
                return answer
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _until_s(self, fault: Fault, failing_since_s: float, *, first: bool) -> float:
        """Time at which to give up on a store that is away."""
        if self.endpoint_url not in ANSWERED:
            silent = fault is Fault.SILENCE
            return failing_since_s + (0.0 if silent else min(_FIRST_CONTACT_S, self.patience_s))
        # One failure is no outage: many servers close a connection that idled.
        if first:
            return failing_since_s + self.patience_s
        with self._lock:
            if self._away_since_s is None:
                self._away_since_s = failing_since_s
                if self.patience_s > 0:
                    _log.warning(
                        "the object store %s does not answer; waiting at most %g s",
                        self.endpoint_url,
                        self.patience_s,
                    )
            return min(self._away_since_s, failing_since_s) + self.patience_s

    def _end_outage(self) -> None:
        with self._lock:
            since_s, self._away_since_s = self._away_since_s, None
        if since_s is not None:
            away_s = time.monotonic() - since_s
            _log.warning("%s answers again after %.1f s; going on", self.endpoint_url, away_s)
