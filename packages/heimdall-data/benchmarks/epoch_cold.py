"""Cold epochs: new workers, nothing on local disk, everything in the S3 server.

`bench_epoch.py` runs it. Two comparisons. From the recordings: each session's three objects are
fetched, decoded, computed and stored; the bare MinIO client fetches the same objects in as many
processes and drops them. From features: they were computed before, and each library fetches
them as it stores them, litdata in chunks of 64 MB, we in packs of 8 MB. The time is that of a
training on a new machine: make the dataset, prepare it, which finds the versions of the recordings
and brings all features to disk, and read an epoch. That of the others is to make the dataset and to
read an epoch, for which they fetch their chunks.
"""

import time
from pathlib import Path

import torch
from epoch_rates import BATCH_SIZE, N_WORKERS, epoch_s, table
from heimdall_data import HeimdallDataset
from heimdall_data.cache.bucket import SharedCache
from heimdall_data.session_reader import chosen_measurements
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


def litdata_cold(s3, place):
    """Its dataset in the bucket, as a loader that has nothing on disk yet."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    # As it sets obstore up, that speaks HTTPS only, and our server speaks HTTP.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    options = {
        "endpoint_url": s3.endpoint_url,
        "aws_access_key_id": s3.access_key,
        "aws_secret_access_key": s3.secret_key,
        "region_name": s3.region,
    }
    streaming = StreamingDataset(
        f"s3://{s3.raw_iq_bucket}/litdata", str(place), storage_options=options
    )
    return StreamingDataLoader(streaming, batch_size=BATCH_SIZE, num_workers=N_WORKERS)


def stored_features(usable, s3, store, place):
    """Put the features of all sessions into the bucket, in our format and in litdata's."""
    shared = SharedCache(s3, f"s3://{s3.raw_iq_bucket}/features", writes=True)
    HeimdallDataset(usable.sessions, usable.config, s3, shared_cache=shared).prepare(progress=False)
    for path in (place / "litdata").iterdir():
        store.put(f"litdata/{path.name}", path.read_bytes())
    return SharedCache(s3, shared.address)


def cold(usable, s3, store, place, n_rounds):
    """Print both tables; `place` holds litdata's files."""
    sessions, config = usable.sessions, usable.config
    shared = stored_features(usable, s3, store, place)
    made = {
        "bare MinIO client, reads only": lambda _: Fetched(usable, s3),
        "HeimdallDataset, fills its cache": lambda into: HeimdallDataset(
            sessions, config, s3, cache_dir=into
        ),
        "without any cache": lambda _: HeimdallDataset(sessions, config, s3),
        "HeimdallDataset, features in S3": lambda into: HeimdallDataset(
            sessions, config, s3, cache_dir=into, shared_cache=SharedCache(s3, shared.address)
        ).prepare(progress=False)[0],
    }
    found = {name: [] for name in made} | {"litdata, features in S3": []}
    makes = {name: lambda into, make=make: cold_loader(make(into)) for name, make in made.items()}
    makes["litdata, features in S3"] = lambda into: litdata_cold(s3, into)
    found = {name: [] for name in makes}
    for number in range(n_rounds):
        for name, make in makes.items():
            begin = time.perf_counter()
            epoch_s(make(Path(place) / f"cold-{number}-{name}"), len(sessions))
            found[name].append(len(sessions) / (time.perf_counter() - begin))
    print(table(found, "bare MinIO client, reads only").replace("the same in memory", "the client"))
