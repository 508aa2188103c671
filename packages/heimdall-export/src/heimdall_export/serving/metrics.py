"""What the service counts, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

if TYPE_CHECKING:
    from heimdall_locate import Position

    from heimdall_export.serving.predictor import Inputs, Predictor

# They are a second series for each counter, which nobody reads.
disable_created_metrics()  # type: ignore[no-untyped-call]
CHAMPION, CHALLENGER = "champion", "challenger"


class Metrics:
    """Counters of one service; `registry` is what a scrape reads."""

    def __init__(self, largest_batch: int) -> None:
        """Make them; the sizes of batches are counted up to the largest."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "heimdall_requests", "Requests for a position", ["status"], registry=registry
        )
        self.inside = Gauge(
            "heimdall_requests_inside", "Requests for a position, being answered", registry=registry
        )
        self.seconds = Histogram(
            "heimdall_request_seconds", "From a request's head to its answer", registry=registry
        )
        sizes = [1 << n for n in range(largest_batch.bit_length())]
        self.batch = Histogram(
            "heimdall_batch_size",
            "Requests in one call of the network",
            buckets=sizes,
            registry=registry,
        )
        self.model = Gauge(
            "heimdall_model_info",
            "1 for the model in use",
            ["role", "version", "run_id"],
            registry=registry,
        )
        self.not_loaded = Counter(
            "heimdall_model_load_failures",
            "Attempts to look up or load a model that failed",
            ["role"],
            registry=registry,
        )
        self.answers = Counter(
            "heimdall_answers", "Positions found", ["role", "version"], registry=registry
        )
        self.unexplained = Counter(
            "heimdall_unexplained_answers",
            "Positions from arrival times unlike those of training",
            ["role", "version"],
            registry=registry,
        )
        self.ellipse = Histogram(
            "heimdall_ellipse_95_m",
            "Semi-major axis of the 95 % ellipse",
            ["role", "version"],
            buckets=[10.0**n for n in (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5)],
            registry=registry,
        )
        self.heard = Counter(
            "heimdall_receiver_heard",
            "Recordings that are not silent",
            ["receiver"],
            registry=registry,
        )
        self.level = Gauge(
            "heimdall_receiver_level_db",
            "Mean level of the last such recording's spectrogram",
            ["receiver"],
            registry=registry,
        )
        self.apart = Histogram(
            "heimdall_challenger_apart_m",
            "Distance from the champion's position",
            buckets=[10.0**n for n in (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5)],
            registry=registry,
        )
        self.challenged = Counter(
            "heimdall_challenger_requests",
            "Requests by what the challenger did: answered, "
            "refused, failed, or skipped because it was busy",
            ["outcome"],
            registry=registry,
        )

    def count(self, role: str, model: Predictor, position: Position) -> None:
        """An answer of the champion or of the challenger."""
        self.answers.labels(role, model.version).inc()
        self.ellipse.labels(role, model.version).observe(position.ellipse_95.semi_major_m)
        if (position.unexplained or 0.0) > 1:
            self.unexplained.labels(role, model.version).inc()

    def count_receivers(self, position: Position, inputs: Inputs) -> None:
        """The receivers that were heard in a request, and how loud."""
        levels_db = inputs.features.mean(axis=(1, 2)).tolist()
        for receiver, level_db in zip(position.receivers, levels_db, strict=True):
            if receiver.used:
                self.heard.labels(receiver.name).inc()
                self.level.labels(receiver.name).set(level_db)
