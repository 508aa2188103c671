"""Redis holds a delivered task for a while: this worker asks for more while it lives.

Redis knows no consumers. A task that is not acknowledged within the visibility timeout goes to
somebody else, so with a timeout of an hour every night's training would run twice, and with one
of a day a crashed worker's task would wait for a day. Renewed by the living, it can be short.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from celery import bootsteps

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["RenewLease", "redis_options"]

LOG = logging.getLogger(__name__)
RENEWALS = 4
"""In the time of one lease."""


def redis_options(lease_s: float) -> dict[str, Any]:
    """Transport options that give a silent worker's task to another one after the lease."""
    return {
        "visibility_timeout": lease_s,
        "unacked_restore_interval": max(1.0, lease_s / RENEWALS),
        "unacked_restore_throttle": 1,
    }


class RenewLease(bootsteps.StartStopStep):  # type: ignore[misc] # Celery is untyped
    """Renews what is delivered to this worker and not acknowledged yet."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(consumer, **kwargs)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:  # noqa: ANN401
        """Begin to renew, if the broker is Redis."""
        if consumer.connection.transport.driver_type == "redis":
            options = consumer.app.conf.broker_transport_options
            interval_s = options["visibility_timeout"] / RENEWALS
            self._timer = consumer.timer.call_repeatedly(interval_s, _renew, (consumer,))

    def stop(self, consumer: Any) -> None:  # noqa: ANN401
        """Renew nothing more."""
        del consumer
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _renew(consumer: Any) -> None:  # noqa: ANN401
    channel = consumer.task_consumer.channel
    held: Iterable[str] = tuple(channel.qos._delivered)
    if not held:
        return
    try:
        with channel.conn_or_acquire() as client:
            client.zadd(channel.unacked_index_key, dict.fromkeys(held, time.time()), xx=True)
    except consumer.connection_errors as error:
        LOG.warning("the broker cannot be told that a task is still worked on: %s", error)
