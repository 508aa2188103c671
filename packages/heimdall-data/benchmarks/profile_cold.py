"""Where the processor time of a cold session goes: the client's, and the S3 server's.

Run with `python packages/heimdall-data/benchmarks/profile_cold.py [sessions]`. Each step is done
for all sessions, one after the other in this process, three times; the least time counts.
"""

import hashlib
import sys
import tempfile
import time
from pathlib import Path

import psutil
from epoch_cold import Fetched
from heimdall_data import Catalogue, HeimdallDataset, ObjectStore, choose_receivers
from heimdall_data.cache.disk import FeatureCache
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.errors import ObjectMissing, RecordingError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.recordings.decode import decode
from heimdall_data.session_reader import chosen_measurements
from heimdall_features import FeatureConfig, FeatureError, FeatureExtractor
from heimdall_simulation import simulate_sessions


def processor_ms(do, server, n_sessions):
    """Milliseconds of this process and of the server for each session."""
    found = []
    for _ in range(3):
        before, began_s = server.cpu_times(), time.process_time()
        do()
        own_s, after = time.process_time() - began_s, server.cpu_times()
        served_s = after.user + after.system - before.user - before.system
        found.append((1e3 * own_s / n_sessions, 1e3 * served_s / n_sessions))
    return min(found, key=sum)


def steps(sessions, config, s3, place):
    """What is done for all sessions, by name; each step needs those before it."""
    store = ObjectStore(s3, s3.raw_iq_bucket)
    dataset = HeimdallDataset(sessions, config, s3)
    bare = Fetched(dataset, s3)
    chosen = [m for s in sessions for m in chosen_measurements(s, config.receivers).values()]
    objects, recordings, cache = {}, {}, FeatureCache(place / "features")
    extract = FeatureExtractor(config)
    computed = [dataset.source.features(session).to_tensors() for session in sessions]

    def fetch():
        for m in chosen:
            try:
                objects[m.key] = store.get(m.key)
            except ObjectMissing:
                continue

    def decode_all():
        for m in chosen:
            try:
                recordings[m.key] = decode(
                    objects[m.key], m.format, name=m.key, sample_rate_hz=m.sample_rate_hz
                )
            except (KeyError, RecordingError):
                continue

    def features():
        for m in chosen:
            try:
                extract({m.station: (recordings[m.key].iq, m.sample_rate_hz)})
            except (KeyError, FeatureError):
                continue

    return {
        "bare client: fetch": lambda: [bare[n] for n in range(len(bare))],
        "ours: fetch, with its MD5 sum": fetch,
        "of that the MD5 sum": lambda: [hashlib.md5(data).digest() for data in objects.values()],
        "decode": decode_all,
        "features": features,
        "store in the cache": lambda: [
            cache.put(hashlib.sha256(s.id.encode()).hexdigest(), tensors)
            for s, tensors in zip(sessions, computed, strict=True)
        ],
        "ask for versions (where the cache has any)": lambda: [store.stat(m.key) for m in chosen],
    }


def main(n_sessions, place):
    with EmbeddedStack(place / "stack") as stack, Catalogue(stack.database_url) as catalogue:
        store = ObjectStore(stack.s3, stack.s3.raw_iq_bucket)
        simulated = (made.new_session for made in simulate_sessions(n_sessions, 42, workers=2))
        ingest(catalogue, store, simulated, progress=False)
        sessions = list(catalogue.sessions())
        names = tuple(station.name for station in choose_receivers(sessions, 3))
        config = FeatureConfig(receivers=names, sample_rate_hz=48_000)
        server = psutil.Process(stack._seaweed.pid())
        print("| ms a session | client | server |\n|---|---|---|")
        for name, do in steps(sessions, config, stack.s3, place).items():
            own_ms, served_ms = processor_ms(do, server, len(sessions))
            print(f"| {name} | {own_ms:.2f} | {served_ms:.2f} |", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 150, Path(folder))
