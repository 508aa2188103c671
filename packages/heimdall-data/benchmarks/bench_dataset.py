"""From simulated sessions to samples: the first pass, the second, and an epoch.

Run with `python packages/heimdall-data/benchmarks/bench_dataset.py [sessions]`.
"""

import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from heimdall_data import Catalogue, HeimdallDataset, ObjectStore, choose_receivers, split_sessions
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.ingest.ingest import ingest
from heimdall_features import FeatureConfig
from heimdall_simulation import simulate_sessions


@contextmanager
def timed(what, per=None):
    """Print how long the block took, in all or for each of `per` samples."""
    begin = time.perf_counter()
    yield
    took_s = time.perf_counter() - begin
    print(
        f"| {what} | {took_s:.2f} s |"
        if per is None
        else f"| {what} | {took_s / per * 1e6:.0f} us |"
    )


def main(n_sessions, place):
    with EmbeddedStack(place / "stack") as stack, Catalogue(stack.database_url) as catalogue:
        store = ObjectStore(stack.s3, stack.s3.raw_iq_bucket)
        simulated = (made.new_session for made in simulate_sessions(n_sessions, 42, workers=2))
        ingest(catalogue, store, simulated)
        sessions = catalogue.sessions()
        config = FeatureConfig(
            receivers=tuple(station.name for station in choose_receivers(sessions, 3)),
            sample_rate_hz=48_000,
        )
        dataset = HeimdallDataset(sessions, config, stack.s3, cache_dir=place / "features")
        with timed(f"prepare {len(sessions)} sessions of 3 receivers, 96 kB each, first time"):
            usable, exclusions = dataset.prepare()
        with timed("prepare them again"):
            dataset.prepare(progress=False)
    varied = usable.subset(usable.sessions, augment=True)
    with timed("a cached sample", len(usable)):
        for _ in usable:
            pass
    with timed("a cached sample, augmented", len(usable)):
        for _ in varied:
            pass
    with timed("split them by source"):
        split = split_sessions(usable.sessions)
    print(split.report)
    print(f"{len(exclusions)} excluded, {len(usable.unusable_recordings)} recordings left out")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 850, Path(folder))
