"""`heimdall cache`: computed features, ahead of training."""

from __future__ import annotations

import sys
from dataclasses import asdict
from json import dumps
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from heimdall_trainer.config import OF_DATA, TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import TrainerError, UsageError, one_line
from heimdall_trainer.flags import ConfigFile, Json, acting, command_group

if TYPE_CHECKING:
    from heimdall_data.cache.disk import FeatureCache
    from heimdall_data.cache.entry import CacheStatus

app = command_group("cache")
NOWHERE = Connections()
DEFAULTS = TrainingConfig()
MAX_PRINTED = 20
"""Unusable sessions that are listed, at most."""


@app.command
def build(
    *,
    config: Annotated[TrainingConfig, acting(*OF_DATA, "features", "n_receivers")] = DEFAULTS,
    workers: Annotated[int | None, Parameter(validator=Number(gte=1, lte=10_000))] = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: Annotated[str | None, Parameter(env_var="RAY_ADDRESS")] = None,
    connections: Connections = NOWHERE,
    config_file: ConfigFile = None,
) -> None:
    """Compute the features of all sessions, as `heimdall train` with the same flags needs them.

    Features that are in the cache are kept, so an interrupted build goes on where it was.

    Parameters
    ----------
    workers
        Cores that compute; all when unset.
    engine
        What computes: this machine, or a Ray cluster, which fills --cache_s3 and no disk.
    ray_address
        Ray cluster as host:6379, or auto for the one on this machine; one starts when unset.
    config_file
        YAML file of flags, such as that of the training.
    """
    del config_file  # read before the other flags had their values
    from heimdall_data import ObjectStore
    from heimdall_data.prepare import Engine, Threads

    from heimdall_trainer.data import choose_sessions

    database_url, s3 = connections.need_database(), connections.need_s3()
    place = connections.cache_s3
    computing: Engine = Threads(workers)
    if engine == "ray":
        from heimdall_data.ray_engine import RayEngine, refuse_secrets_in_command

        if not place:
            raise UsageError(
                "--engine ray computes into a bucket that all trainers read: give --cache_s3 "
                "s3://bucket/prefix, or set HEIMDALL_CACHE_S3"
            )
        refuse_secrets_in_command(database_url)
        computing = RayEngine(address=ray_address, workers=workers)
    ObjectStore(s3, s3.raw_iq_bucket).require_bucket()
    if (shared := connections.shared_cache(writes=True)) is not None:
        shared.require()
    dataset = choose_sessions(config, connections, shares=True).dataset
    usable, exclusions = dataset.prepare(progress=sys.stderr.isatty(), engine=computing)
    # The bucket's entries are not counted, which takes minutes if it is full.
    cache = _cache(connections)
    where = [_amount(cache.status(), cache.directory)] if engine == "local" else []
    where += [f"in {place}"] if place else []
    print(
        f"{len(dataset)} sessions: {usable.n_computed} computed, "
        f"{len(dataset) - usable.n_computed} in the cache before, "
        f"{len(exclusions)} unusable; {', and '.join(where)}"
    )
    for exclusion in exclusions[:MAX_PRINTED]:
        print(
            f"unusable: session {exclusion.session_id}: {one_line(exclusion.reason)}",
            file=sys.stderr,
        )
    if len(exclusions) > MAX_PRINTED:
        print(f"... and {len(exclusions) - MAX_PRINTED} more unusable", file=sys.stderr)
    if exclusions and not len(usable):
        raise TrainerError(
            f"none of the {len(exclusions)} sessions can be used, the first because: "
            f"{exclusions[0].reason}; correct that, and build again"
        )


@app.command
def status(*, json: Json = False, connections: Connections = NOWHERE) -> None:
    """Say how much is in the cache, on disk and in the bucket."""
    cache = _cache(connections)
    amounts = {str(cache.directory): cache.status()}
    if (shared := connections.shared_cache(writes=True)) is not None:
        amounts[shared.address] = shared.status()
    if json:
        print(dumps([{"place": at, **asdict(each)} for at, each in amounts.items()], indent=2))
        return
    for place, amount in amounts.items():
        print(_amount(amount, place))


@app.command
def clear(*, connections: Connections = NOWHERE) -> None:
    """Delete all computed features on disk, and none in the bucket, which others read."""
    removed = _cache(connections).clear()
    print(f"{removed.n_entries} entries deleted, {removed.n_bytes / 1e6:.1f} MB")


def _cache(connections: Connections) -> FeatureCache:
    from heimdall_data.cache.disk import FeatureCache

    from heimdall_trainer.data import cache_directory

    return FeatureCache(cache_directory(connections))


def _amount(status: CacheStatus, place: object) -> str:
    return f"{status.n_entries} entries of {status.n_bytes / 1e6:.1f} MB in {place}"
