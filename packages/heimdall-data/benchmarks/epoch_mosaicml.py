"""Warm and cold epochs of mosaicml-streaming, in an environment of its own: its pins exclude ours.

`bench_epoch.py` runs it. Arguments: a folder with the samples in `samples.npz`, and rounds;
in the environment `MDS_REMOTE`, where in S3 its dataset goes, and boto3's variables.
"""

import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import numpy as np
from epoch_rates import BATCH_SIZE, N_WORKERS, InMemory, epoch_s, loader, rates, table
from streaming import MDSWriter, StreamingDataset
from torch.utils.data import DataLoader

COLUMNS = {
    "features": "ndarray:float32:3,128,32",
    "position_deg": "ndarray:float64:2",
    "present": "ndarray:uint8:3",
    "clock_locked": "ndarray:uint8:3",
    "session_id": "str",
}


def main(place, n_rounds):
    with np.load(place / "samples.npz") as stored:
        columns = {name: stored[name] for name in COLUMNS}
    samples = [
        {name: str(v[i]) if name == "session_id" else v[i].copy() for name, v in columns.items()}
        for i in range(len(columns["features"]))
    ]
    for sample in samples:
        for name in ("present", "clock_locked"):
            sample[name] = sample[name].astype(np.uint8)  # it knows no bool
    with MDSWriter(out=str(place / "mds"), columns=COLUMNS) as writer:
        for sample in samples:
            writer.write(sample)
    streaming = StreamingDataset(local=str(place / "mds"), shuffle=True, batch_size=BATCH_SIZE)
    loaders = {
        "in memory, there": loader(InMemory(samples)),
        "mosaicml-streaming, no checksum": DataLoader(
            streaming, batch_size=BATCH_SIZE, num_workers=N_WORKERS, persistent_workers=True
        ),
    }
    print(table(rates(loaders, len(samples), n_rounds), "in memory, there"))
    cold(place, len(samples), min(n_rounds, 5))


def cold(place, n_samples, n_rounds):
    """Its dataset in the bucket, new workers, and nothing on disk."""
    remote = os.environ["MDS_REMOTE"]
    at = urlsplit(remote)
    client = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"])
    for path in (place / "mds").iterdir():
        client.upload_file(str(path), at.netloc, f"{at.path.strip('/')}/{path.name}")
    found = []
    for number in range(n_rounds):
        begin = time.perf_counter()
        streaming = StreamingDataset(
            remote=remote, local=str(place / f"mds-{number}"), shuffle=True, batch_size=BATCH_SIZE
        )
        batches = DataLoader(streaming, batch_size=BATCH_SIZE, num_workers=N_WORKERS)
        epoch_s(batches, n_samples)
        found.append(n_samples / (time.perf_counter() - begin))
    print()
    print(
        table({"mosaicml-streaming, features in S3": found}, "mosaicml-streaming, features in S3")
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
