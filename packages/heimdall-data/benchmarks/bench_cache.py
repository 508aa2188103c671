"""Libraries that could hold computed features: microseconds to write and to read one entry.

Run with `python packages/heimdall-data/benchmarks/bench_cache.py [entries]`. Each keeps entries
of `(3, 128, 32)` float32 by key. Every entry carries a checksum that is compared when it is
read, CRC-32C computed by the same library, but where the table says otherwise. Writes are one
by one, as features come; those that write many at once are told to at the end.
"""

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import diskcache
import lance
import lmdb
import numpy as np
import pyarrow as pa
import zarr
from crc32c import crc32c
from heimdall_data.cache.disk import FeatureCache
from litdata.streaming import Cache
from safetensors.numpy import load, save
from zarr.codecs import BytesCodec, Crc32cCodec

SHAPE = (3, 128, 32)


def sealed(features):
    data = save({"features": features})
    return crc32c(data).to_bytes(4, "little") + data


def opened(data):
    if crc32c(memoryview(data)[4:]) != int.from_bytes(data[:4], "little"):
        raise SystemExit("a checksum does not hold")
    return load(data[4:])["features"]


def ours(place, _keys, limit=None):
    cache, out = FeatureCache(place, limit), np.empty(SHAPE, np.float32)

    def read(key):
        cache.get_into(key, "features", out)
        return out

    return lambda key, features: cache.put(key, {"features": features}), read, None


def ours_limited(place, keys):
    return ours(place, keys, 10**10)


def safetensors_files(place, _keys):
    return (
        lambda key, features: (place / key).write_bytes(sealed(features)),
        lambda key: opened((place / key).read_bytes()),
        None,
    )


def lmdb_entries(place, _keys):
    base = lmdb.open(str(place), map_size=2**32)

    def write(key, features):
        with base.begin(write=True) as transaction:
            transaction.put(key.encode(), sealed(features))

    def read(key):
        with base.begin() as transaction:
            return opened(transaction.get(key.encode()))

    return write, read, None


def diskcache_entries(place, _keys):
    base = diskcache.Cache(str(place))
    return (
        lambda key, features: base.set(key, sealed(features)),
        lambda key: opened(base.get(key)),
        None,
    )


def zarr_arrays(place, _keys):
    root = zarr.create_group(str(place / "entries"))

    def write(key, features):
        array = root.create_array(
            key,
            shape=SHAPE,
            dtype="f4",
            chunks=SHAPE,
            compressors=[Crc32cCodec()],
            serializer=BytesCodec(),
        )
        array[:] = features

    return write, lambda key: root[key][:], None


def lance_rows(place, keys):
    """One write of all: each write makes a version of the whole table."""
    rows, numbers = [], {key: number for number, key in enumerate(keys)}
    stored = []

    def end():
        table = pa.table({"entry": pa.array(rows, pa.binary())})
        stored.append(lance.write_dataset(table, str(place / "rows")))

    return (
        lambda _key, features: rows.append(sealed(features)),
        lambda key: opened(stored[0].take([numbers[key]])["entry"][0].as_py()),
        end,
    )


def litdata_chunks(place, keys):
    """Its own format, without a checksum; found by number."""
    base = Cache(str(place), chunk_bytes="64MB")
    numbers = {key: number for number, key in enumerate(keys)}
    stored = []

    def end():
        base.done()
        base.merge(1)
        stored.append(Cache(str(place), chunk_bytes="64MB"))

    def write(key, features):
        base[numbers[key]] = {"features": features}

    return write, lambda key: stored[0][numbers[key]]["features"], end


RIVALS = {
    "this": ours,
    "this, with a limit, read to its place": ours_limited,
    "a safetensors file each": safetensors_files,
    "LMDB, a transaction each": lmdb_entries,
    "diskcache": diskcache_entries,
    "zarr, an array each": zarr_arrays,
    "Lance, written at once": lance_rows,
    "litdata, no checksum, written at once": litdata_chunks,
}


def measured(make, place, entries, order):
    """Microseconds to write and to read one."""
    write, read, end = make(place, list(entries))
    begin = time.perf_counter()
    for key, features in entries.items():
        write(key, features)
    if end is not None:
        end()
    written = time.perf_counter()
    for key in order:
        if read(key)[0, 0, 0] != entries[key][0, 0, 0]:
            raise SystemExit("another entry came back")
    ended = time.perf_counter()
    return [(written - begin) / len(entries) * 1e6, (ended - written) / len(entries) * 1e6]


def main(n_entries):
    rng = np.random.default_rng(0)
    entries = {rng.bytes(16).hex(): rng.normal(size=SHAPE).astype("f4") for _ in range(n_entries)}
    order = rng.permutation(list(entries)).tolist()
    print(f"| {n_entries} entries of 49 KB | write, us | read, us |\n|---|---|---|")
    for name, make in RIVALS.items():
        found = []
        for _ in range(3):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                found.append(measured(make, Path(folder), entries, order))
        write_us, read_us = np.median(found, axis=0)
        print(f"| {name} | {write_us:.0f} | {read_us:.0f} |", flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 700)
