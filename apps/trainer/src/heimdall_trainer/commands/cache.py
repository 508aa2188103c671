"""`heimdall cache`: computed features, ahead of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter
from heimdall_data.session_filter import SessionFilter

from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import UsageError
from heimdall_trainer.training_config import FILTER, TrainingConfig

if TYPE_CHECKING:
    from heimdall_data.feature_cache import FeatureCache

__all__ = ["app"]

app = cyclopts.App(
    name="cache", help="Computed features: build, status, clear.", help_formatter="plain"
)
NOWHERE = Connections()
TRAINING = TrainingConfig()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CacheChoice:
    """Whose features to compute: the flags of `heimdall train` that decide it."""

    n_receivers: int = TRAINING.n_receivers
    """How many receivers the model listens to."""
    receivers: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()
    """Which receivers, in channel order; the most often present when not given."""
    only: Annotated[SessionFilter, FILTER] = SessionFilter()  # noqa: RUF009 - frozen
    sample_rate_hz: float | None = None
    """Rate that every recording is brought to; the most common one when unset."""
    cache_gb: float = TRAINING.cache_gb
    """Most that the cache may take on disk, in GB; what was used longest ago goes."""
    workers: int | None = None
    """Cores that compute; all when unset."""
    seed: Annotated[int, Parameter(parse=False)] = TRAINING.seed

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: A value is out of its range; the message names it.
        """
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers is {self.workers}; it must be at least 1")
        TrainingConfig(  # whose rules are the same
            n_receivers=self.n_receivers,
            receivers=self.receivers,
            sample_rate_hz=self.sample_rate_hz,
            cache_gb=self.cache_gb,
        )


EVERY = CacheChoice()


@app.command
def build(*, choice: CacheChoice = EVERY, connections: Connections = NOWHERE) -> None:
    """Compute the features of all sessions, as `heimdall train` with the same flags needs them.

    What is there already is kept: interrupted, it goes on where it was.
    """
    import sys

    from heimdall_data import ObjectStore

    from heimdall_trainer.session_choice import cache_directory, choose_sessions

    connections.need_database()
    s3 = connections.need_s3()
    ObjectStore(s3, s3.raw_iq_bucket).require_bucket()
    dataset = choose_sessions(choice, connections).dataset
    usable, exclusions = dataset.prepare(choice.workers, progress=sys.stderr.isatty())
    n_computed = usable.n_computed
    print(
        f"{len(dataset)} sessions: {n_computed} computed, {len(dataset) - n_computed} in the cache "
        f"before, {len(exclusions)} unusable; {_described(_cache(connections))} "
        f"in {cache_directory(connections)}"
    )


@app.command
def status(*, connections: Connections = NOWHERE) -> None:
    """Say how much is in the cache."""
    from heimdall_trainer.session_choice import cache_directory

    print(f"{_described(_cache(connections))} in {cache_directory(connections)}")


@app.command
def clear(*, connections: Connections = NOWHERE) -> None:
    """Delete all computed features; training computes them again."""
    removed = _cache(connections).clear()
    print(f"{removed.n_entries} entries deleted, {removed.n_bytes / 1e6:.1f} MB")


def _cache(connections: Connections) -> FeatureCache:
    from heimdall_data.feature_cache import FeatureCache

    from heimdall_trainer.session_choice import cache_directory

    return FeatureCache(cache_directory(connections))


def _described(cache: FeatureCache) -> str:
    found = cache.status()
    return f"{found.n_entries} entries of {found.n_bytes / 1e6:.1f} MB"
