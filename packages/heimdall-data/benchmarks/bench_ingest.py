"""How fast sessions are stored, and how much disk they take.

Run: `python packages/heimdall-data/benchmarks/bench_ingest.py [--sessions 900]`. The objects
are random bytes, made before the clock starts; both servers are embedded ones.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from heimdall_data.catalogue.catalogue import Catalogue
from heimdall_data.catalogue.session import Station
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.ingest.ingest import ingest
from heimdall_data.ingest.new_session import NewRecording, NewSession, NewSource
from heimdall_data.object_store.store import ObjectStore

OBJECT_BYTES = 100_000
START = datetime(2026, 1, 1, tzinfo=UTC)
STATIONS = [Station(f"Station {n}", 44.0 + n / 10, 8.0) for n in range(6)]


def generated(n_sessions):
    """Sessions with recordings of random bytes that no two share."""
    noise = np.random.default_rng(0).bytes(OBJECT_BYTES)
    for n in range(n_sessions):
        source = NewSource(name=f"source {n // 3}", latitude_deg=45.0, longitude_deg=8.5)
        recordings = tuple(
            NewRecording(
                station=station,
                payload=f"{n:08d} {station.name}".encode() + noise[20:],
                format="npy",
                sample_rate_hz=12_500.0,
                n_samples=12_500,
                frequency_hz=145e6,
            )
            for station in STATIONS
        )
        yield NewSession(
            source=source,
            measurements=recordings,
            name=f"session {n}",
            start=START + timedelta(minutes=n),
        )


def disk_mb(folder):
    """Megabytes that the files below `folder` take on disk."""
    return sum(path.stat().st_blocks * 512 for path in Path(folder).rglob("*")) / 1e6


def timed(what, act):
    """Print how long `act` took, and return what it gave."""
    begin = time.perf_counter()
    result = act()
    print(f"{what:<28} {time.perf_counter() - begin:7.2f} s")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=900)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = EmbeddedStack(folder)
        timed("start the servers", stack.start)
        try:
            measure(stack, options)
            print(f"{'state directory':<28} {disk_mb(folder):7.0f} MB")
            peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            print(f"{'peak memory of this process':<28} {peak_mb:7.0f} MB")
        finally:
            timed("stop the servers", stack.stop)


def measure(stack, options):
    store = ObjectStore(stack.s3, stack.s3.raw_iq_bucket)
    with Catalogue(stack.database_url) as catalogue:
        for what in ("ingest", "ingest again"):
            sessions = generated(options.sessions)
            report = timed(
                what,
                lambda sessions=sessions: ingest(
                    catalogue, store, sessions, workers=options.workers, progress=False
                ),
            )
            print(f"    {report}")
        found = timed("read the catalogue", catalogue.sessions)
        print(f"    {len(found)} sessions, {sum(len(s.measurements) for s in found)} measurements")


if __name__ == "__main__":
    main()
