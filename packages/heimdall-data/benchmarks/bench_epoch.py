"""Epochs through a DataLoader of 2 workers: warm, cold, and what others need for the same.

Run with `python packages/heimdall-data/benchmarks/bench_epoch.py [sessions] [rounds]`.
Warm: features that are in the cache, against the same tensors in memory, litdata and
mosaicml-streaming. Cold: see `epoch_cold.py`.
"""

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from epoch_cold import cold
from epoch_rates import BATCH_SIZE, N_WORKERS, InMemory, loader, rates, table
from heimdall_data import Catalogue, HeimdallDataset, ObjectStore, choose_receivers
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.ingest.ingest import ingest
from heimdall_features import FeatureConfig
from heimdall_simulation import simulate_sessions


def litdata_loader(samples, place):
    """Its own format and loader; every sample checked by nothing."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import Cache

    folder = str(place / "litdata")
    writer = Cache(folder, chunk_bytes="64MB")
    for index, sample in enumerate(samples):
        writer[index] = sample
    writer.done()
    writer.merge(1)
    return StreamingDataLoader(
        StreamingDataset(folder, shuffle=True),
        batch_size=BATCH_SIZE,
        num_workers=N_WORKERS,
        persistent_workers=True,
    )


def warm(usable, place, n_rounds):
    samples = list(usable)
    loaders = {
        "in memory": loader(InMemory(samples)),
        "HeimdallDataset": loader(usable),
        f"litdata {version('litdata')}, no checksum": litdata_loader(samples, place),
        "HeimdallDataset, augmented": loader(usable.subset(usable.sessions, augment=True)),
    }
    print(table(rates(loaders, len(samples), n_rounds), "in memory"))
    columns = {name: np.array([sample[name] for sample in samples]) for name in samples[0]}
    np.savez(place / "samples.npz", **columns)


def mosaicml(s3, place, n_rounds):
    """In an environment of its own; says so where that cannot be made."""
    here = Path(__file__).parent
    of_ours = f"torch=={version('torch').partition('+')[0]}"
    needs = ("--with", "mosaicml-streaming==0.13.*", "--with", of_ours)
    command = ("uv", "run", "--no-project", "--quiet", f"--python={sys.executable}", *needs)
    script = ("python", str(here / "epoch_mosaicml.py"), str(place), str(n_rounds))
    environment = {
        **os.environ,
        "S3_ENDPOINT_URL": s3.endpoint_url,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": s3.region,
        "MDS_REMOTE": f"s3://{s3.raw_iq_bucket}/mds",
    }
    subprocess.run([*command, *script], check=True, cwd=here, env=environment)


def main(n_sessions, n_rounds, place):
    with EmbeddedStack(place / "stack") as stack, Catalogue(stack.database_url) as catalogue:
        store = ObjectStore(stack.s3, stack.s3.raw_iq_bucket)
        simulated = (made.new_session for made in simulate_sessions(n_sessions, 42, workers=2))
        ingest(catalogue, store, simulated, progress=False)
        sessions = catalogue.sessions()
        config = FeatureConfig(
            receivers=tuple(station.name for station in choose_receivers(sessions, 3)),
            sample_rate_hz=48_000,
        )
        dataset = HeimdallDataset(sessions, config, stack.s3, cache_dir=place / "features")
        usable, exclusions = dataset.prepare(progress=False)
        print(f"{len(usable)} sessions of 3 receivers, {len(exclusions)} excluded\n")
        warm(usable, place, n_rounds)
        print(flush=True)
        cold(usable, stack.s3, store, place, min(n_rounds, 5))
        print(flush=True)
        mosaicml(stack.s3, place, n_rounds)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        main(*(given + [800, 15][len(given) :]), Path(folder))
