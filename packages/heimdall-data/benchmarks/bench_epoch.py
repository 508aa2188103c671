"""Epochs through a DataLoader of 2 workers: warm, cold, and what others need for the same.

Run with `python packages/heimdall-data/benchmarks/bench_epoch.py [sessions] [rounds]`.
Warm: features that are in the cache, against the same tensors in memory, litdata and
mosaicml-streaming. Cold: an empty cache, so that recordings are fetched, decoded, and their
features computed and stored, against the bare MinIO client that fetches the same objects in as
many processes and drops them.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from epoch_rates import BATCH_SIZE, N_WORKERS, InMemory, epoch_s, loader, rates, table
from heimdall_data import Catalogue, HeimdallDataset, ObjectStore, choose_receivers
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.ingest import ingest
from heimdall_data.session_reader import chosen_measurements
from heimdall_data.simulate import simulate_sessions
from heimdall_features import FeatureConfig
from minio.error import S3Error
from torch.utils.data import DataLoader


class Fetched:
    """What the bare client reads of each session; nothing is decoded."""

    def __init__(self, dataset, s3):
        self.s3 = s3
        self.places = [
            [(m.bucket, m.key) for m in chosen_measurements(s, dataset.config.receivers).values()]
            for s in dataset.sessions
        ]
        self.client = None

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        self.client = self.client or self.s3.client()
        n_bytes = 0
        for bucket, key in self.places[index]:
            try:
                response = self.client.get_object(bucket, key)
            except S3Error:  # some recordings are missing, as the simulation wants it
                continue
            n_bytes += len(response.read())
            response.release_conn()
        return {"features": torch.tensor(n_bytes)}


def cold_loader(dataset):
    """Workers start anew, and have read nothing."""
    return DataLoader(dataset, batch_size=BATCH_SIZE, num_workers=N_WORKERS)


def cold(sessions, config, s3, place, n_rounds):
    took_s = {"the bare MinIO client": [], "HeimdallDataset, cold": [], "without any cache": []}
    for number in range(n_rounds):
        into = place / f"cold-{number}"
        dataset = HeimdallDataset(sessions, config, s3, cache_dir=into)
        uncached = HeimdallDataset(sessions, config, s3)
        rivals = (Fetched(dataset, s3), dataset, uncached)
        for values, rival in zip(took_s.values(), rivals, strict=True):
            values.append(epoch_s(cold_loader(rival), len(sessions)))
    found = {name: [len(sessions) / s for s in values] for name, values in took_s.items()}
    print(table(found, "the bare MinIO client").replace("the same in memory", "the bare client"))


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


def mosaicml(place, n_rounds):
    """In an environment of its own; says so where that cannot be made."""
    here = Path(__file__).parent
    of_ours = f"torch=={version('torch').partition('+')[0]}"
    needs = ("--with", "mosaicml-streaming==0.13.*", "--with", of_ours)
    command = ("uv", "run", "--no-project", "--quiet", f"--python={sys.executable}", *needs)
    script = ("python", str(here / "epoch_mosaicml.py"), str(place), str(n_rounds))
    subprocess.run([*command, *script], check=True, cwd=here)


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
        cold(usable.sessions, config, stack.s3, place, min(n_rounds, 3))
    print()
    warm(usable, place, n_rounds)
    print(flush=True)
    mosaicml(place, n_rounds)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        main(*(given + [800, 15][len(given) :]), Path(folder))
