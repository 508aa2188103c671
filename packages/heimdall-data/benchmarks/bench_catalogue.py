"""A catalogue of one million sessions: opened, filtered and split, and the first batch.

    python benchmarks/bench_catalogue.py [folder [sessions]]

Fills an embedded Postgres first (some two minutes and 3 GB a million), in `folder` or a temporary
one; in a folder that is filled already it measures at once. The figures are of a process of its
own, so that its memory is what a run takes.
"""

import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psycopg
from heimdall_data import Catalogue, HeimdallDataset, ObjectStore, SessionFilter, choose_receivers
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.split import split_sessions
from heimdall_features import FeatureConfig
from torch.utils.data import DataLoader


def fill(stack: EmbeddedStack, n_sessions: int) -> None:
    with Catalogue(stack.database_url) as catalogue:
        catalogue.create_schema()
    script = Path(__file__).with_name("million.sql").read_text()
    script = script.replace("n_sessions", str(n_sessions))
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        for statement in filter(str.strip, script.split(";\n")):
            connection.execute(statement)


def store_recordings(stack: EmbeddedStack) -> None:
    rng = np.random.default_rng(0)
    iq = rng.normal(size=(2, 24_000)).astype(np.float32)
    with io.BytesIO() as file:
        np.save(file, iq)
        payload = file.getvalue()
    store = ObjectStore(stack.s3, stack.s3.raw_iq_bucket)
    store.ensure_bucket()
    for number in range(1, 13):
        store.put(f"sessions/same/station {number}.npy", payload)


def row(what: str, start_s: float) -> None:
    most_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"| {what} | {time.perf_counter() - start_s:.1f} | {most_mb:.0f} |", flush=True)


def measure(folder: str) -> None:
    print("| | seconds so far | most memory, MB |\n|---|---|---|")
    with EmbeddedStack(folder) as stack, Catalogue(stack.database_url) as catalogue:
        start_s = time.perf_counter()
        sessions = catalogue.sessions()
        row(f"open: {len(sessions):,} usable sessions", start_s)
        chosen = catalogue.sessions(SessionFilter(min_snr_db=10, source_types=("repeater",)))
        row(f"filter by SNR and kind of source: {len(chosen):,}", start_s)
        receivers = choose_receivers(chosen, 3)
        split = split_sessions(chosen)
        row(f"choose receivers, split: {len(split.train):,} to train", start_s)
        config = FeatureConfig(receivers=tuple(r.name for r in receivers), sample_rate_hz=48_000)
        dataset = HeimdallDataset(split.train, config, stack.s3)
        first_s = time.perf_counter()
        batches = DataLoader(dataset, batch_size=32, shuffle=True, num_workers=2)
        batch = next(iter(batches))
        row(f"first batch, {tuple(batch['features'].shape)}", first_s)


def main(folder: str, n_sessions: int = 1_000_000) -> None:
    with EmbeddedStack(folder) as stack:
        with Catalogue(stack.database_url) as catalogue:
            catalogue.create_schema()
            filled = bool(catalogue.stations())
        if not filled:
            fill(stack, n_sessions)
        store_recordings(stack)
        subprocess.run([sys.executable, __file__, "--measure", folder], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    elif sys.argv[1:]:
        main(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(temporary)
