"""Entries of a feature cache by key, whether they are files of their own or in packs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_data.cache.pack import Pack, PackIndex

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heimdall_data.object_store.store import ObjectStore


def entries_on_disk(directory: Path) -> dict[str, bytes]:
    """Return the entries of a cache folder."""
    paths = [path for path in directory.glob("*/*") if path.parent.name != "partial"]
    return entries_of({path.name: path.read_bytes() for path in paths})


def entries_in_bucket(store: ObjectStore, prefix: str) -> dict[str, bytes]:
    """Return the entries of the shared cache below `prefix`, which ends with a slash."""
    listed = [each.key for each in store.list(prefix)]
    return entries_of({key.rpartition("/")[2]: store.get(key) for key in listed})


def entries_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the entries in files by name."""
    index = PackIndex()
    packs = [Pack(name, len(files[name])) for name in sorted(files) if name.endswith(".pack")]
    index.add([(pack, pack.records(files[pack.name][: pack.records_bytes])) for pack in packs])
    packed = {
        stored.key: files[stored.pack.name][stored.offset : stored.offset + stored.n_bytes]
        for stored in index.starting([""])
    }
    single = {name.removesuffix(".features"): data for name, data in files.items()}
    return packed | {key: data for key, data in single.items() if len(key) == 64}
