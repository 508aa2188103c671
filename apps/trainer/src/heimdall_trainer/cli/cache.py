"""`heimdall cache`: computed features, ahead of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import cyclopts
from cyclopts import Parameter
from heimdall_data.catalogue.session import SessionFilter

from heimdall_trainer.config import FILTER, TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heimdall_data import Exclusion
    from heimdall_data.cache.disk import FeatureCache
    from heimdall_data.cache.entry import CacheStatus
    from heimdall_data.prepare import Engine

__all__ = ["app"]

app = cyclopts.App(
    name="cache", help="Computed features: build, status, clear.", help_formatter="plain"
)
NOWHERE = Connections()
TRAINING = TrainingConfig()
MOST_TOLD = 20


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CacheChoice:
    """Whose features to compute: the flags of `heimdall train` that decide it."""

    features: Literal["mel", "mel+timing"] = TRAINING.features
    """What the model sees: levels alone, or also when each receiver heard the transmission."""
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
    engine: Literal["local", "ray"] = "local"
    """What computes: this machine, or a Ray cluster, which fills --cache_s3 and no disk."""
    ray_address: Annotated[str | None, Parameter(env_var="RAY_ADDRESS")] = None
    """Ray cluster as host:6379, or auto for the one on this machine; one starts when unset."""
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

    from heimdall_trainer.data import choose_sessions

    connections.need_database()
    s3 = connections.need_s3()
    engine = _engine(choice, connections)
    ObjectStore(s3, s3.raw_iq_bucket).require_bucket()
    if (shared := connections.shared_cache(writes=True)) is not None:
        shared.require()
    dataset = choose_sessions(choice, connections, shares=True).dataset
    usable, exclusions = dataset.prepare(progress=sys.stderr.isatty(), engine=engine)
    n_computed = usable.n_computed
    print(
        f"{len(dataset)} sessions: {n_computed} computed, {len(dataset) - n_computed} in the cache "
        f"before, {len(exclusions)} unusable; {_place(choice, connections)}"
    )
    _say_excluded(exclusions)


def _say_excluded(exclusions: Sequence[Exclusion]) -> None:
    import sys

    for exclusion in exclusions[:MOST_TOLD]:
        print(f"unusable: session {exclusion.session_id}: {exclusion.reason}", file=sys.stderr)
    if len(exclusions) > MOST_TOLD:
        print(f"... and {len(exclusions) - MOST_TOLD} more unusable", file=sys.stderr)


def _engine(choice: CacheChoice, connections: Connections) -> Engine:
    from heimdall_data.prepare import Threads

    if choice.engine == "local":
        return Threads(choice.workers)
    from heimdall_data.ray_engine import RayEngine, refuse_secrets_in_command

    if not connections.cache_s3:
        raise UsageError(
            "--engine ray computes into a bucket that all trainers read: give --cache_s3 "
            "s3://bucket/prefix, or set HEIMDALL_CACHE_S3"
        )
    refuse_secrets_in_command(connections.need_database())
    return RayEngine(address=choice.ray_address, workers=choice.workers)


def _place(choice: CacheChoice, connections: Connections) -> str:
    """Where the features are now; the bucket is not counted, which takes minutes if it is full."""
    if choice.engine == "ray":
        return f"in {connections.cache_s3}"
    shared = f", and in {connections.cache_s3}" if connections.cache_s3 else ""
    return _on_disk(connections) + shared


@app.command
def status(*, connections: Connections = NOWHERE) -> None:
    """Say how much is in the cache, on disk and in the bucket."""
    print(_on_disk(connections))
    if (shared := connections.shared_cache(writes=True)) is not None:
        print(f"{_amount(shared.status())} in {shared.address}")


@app.command
def clear(*, connections: Connections = NOWHERE) -> None:
    """Delete all computed features on disk; the bucket, which others read, is left alone."""
    removed = _cache(connections).clear()
    print(f"{removed.n_entries} entries deleted, {removed.n_bytes / 1e6:.1f} MB")


def _cache(connections: Connections) -> FeatureCache:
    from heimdall_data.cache.disk import FeatureCache

    from heimdall_trainer.data import cache_directory

    return FeatureCache(cache_directory(connections))


def _on_disk(connections: Connections) -> str:
    cache = _cache(connections)
    return f"{_amount(cache.status())} in {cache.directory}"


def _amount(status: CacheStatus) -> str:
    return f"{status.n_entries} entries of {status.n_bytes / 1e6:.1f} MB"
