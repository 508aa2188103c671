"""Many entries of the feature cache in one object, a pack, so that few requests read them all.

Layout: a record for each entry, its key (32 bytes) and its size (4 bytes, little-endian), then the
entries in the same order, each as `cache.entry` makes it, with its own checksum. A pack is named
`TIME-DIGEST-N.pack`: when it was made, in nanoseconds since 1970; half the SHA-256 of its records;
the number of its entries; all in hexadecimal. So names sort by age, and a listing tells how long
the records are and how many entries there are.
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from heimdall_data.cache.entry import DamagedEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Records = npt.NDArray[np.void]

NAME = re.compile(r"(?P<time>[0-9a-f]{16})-(?P<digest>[0-9a-f]{32})-(?P<n>[0-9a-f]{1,8})\.pack")
RECORD = np.dtype([("key", "S32"), ("n_bytes", "<u4")])
PLACE = np.dtype([("pack", "<u4"), ("offset", "<u4"), ("n_bytes", "<u4")])
MOST_ENTRIES = 2**18
NO_RECORDS: Records = np.empty(0, RECORD)


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack as a listing shows it."""

    name: str
    size: int
    """Bytes, with the records."""

    @property
    def n_entries(self) -> int:
        """Number of entries; 0 if the name is not that of a pack."""
        found = NAME.fullmatch(self.name)
        return int(found["n"], 16) if found else 0

    @property
    def time_ns(self) -> int:
        """When it was made, in nanoseconds since 1970; 0 if the name is not that of a pack."""
        found = NAME.fullmatch(self.name)
        return int(found["time"], 16) if found else 0

    @property
    def records_bytes(self) -> int:
        """Size of the records, with which the pack begins.

        Raises:
            DamagedEntry: The name or the size is not that of a pack.
        """
        n_bytes = self.n_entries * RECORD.itemsize
        if not 0 < n_bytes <= self.size < 2**32 or self.n_entries > MOST_ENTRIES:
            raise DamagedEntry(f"{self.size} bytes cannot be a pack of that name")
        return n_bytes

    def records(self, data: bytes) -> Records:
        """Return the records that the pack begins with.

        Raises:
            DamagedEntry: They are not those that the pack was made with, or it is cut.
        """
        if len(data) != self.records_bytes or self.name[17:49] != _digest(data):
            raise DamagedEntry("its records are not those of its name")
        records = np.frombuffer(data, RECORD)
        if len(data) + int(records["n_bytes"].sum(dtype=np.uint64)) != self.size:
            raise DamagedEntry(f"its entries are not of {self.size - len(data)} bytes")
        return records


def encode_pack(entries: Mapping[str, bytes], time_ns: int) -> tuple[Pack, bytes]:
    """Return the pack that holds `entries` by key, 64 hexadecimal digits, and its content."""
    sizes = [(bytes.fromhex(key), len(data)) for key, data in entries.items()]
    records = np.array(sizes, RECORD).tobytes()
    data = b"".join([records, *entries.values()])
    return Pack(f"{time_ns:016x}-{_digest(records)}-{len(entries):x}.pack", len(data)), data


def _digest(records: bytes) -> str:
    return hashlib.sha256(records).hexdigest()[:32]


class Stored(NamedTuple):
    """Where an entry is."""

    key: str
    pack: Pack
    offset: int
    n_bytes: int


class PackIndex:
    """Where the entries of packs are, in 44 bytes each: a million must fit in every process."""

    def __init__(self) -> None:
        """Begin without a pack."""
        self.packs: list[Pack] = []
        self._sorted = (np.empty(0, "S32"), np.empty(0, PLACE))
        self._lock = threading.Lock()

    def add(self, packs: Sequence[tuple[Pack, Records]]) -> None:
        """Add packs, the newest last: of entries under one key the newest counts."""
        if not packs:
            return
        with self._lock:
            places = np.empty(sum(len(records) for _, records in packs), PLACE)
            begin = len(places)
            for number, (_, records) in enumerate(packs, len(self.packs)):
                place = places[begin - len(records) : begin]  # the newest first
                begin -= len(records)
                place["pack"], place["n_bytes"] = number, records["n_bytes"]
                ends = records.nbytes + np.cumsum(records["n_bytes"], dtype=np.uint64)
                place["offset"] = ends - records["n_bytes"]
            keys = np.concatenate([records["key"] for _, records in reversed(packs)])
            order = np.argsort(keys, kind="stable")
            keys, places = keys[order], places[order]
            first = np.ones(len(keys), np.bool_)
            first[1:] = keys[1:] != keys[:-1]
            keys, places = keys[first], places[first]

            old_keys, old_places = self._sorted
            rows = old_keys.searchsorted(keys)
            old = rows < len(old_keys)
            old[old] = old_keys[rows[old]] == keys[old]
            old_places = old_places.copy()  # as others read it without the lock
            old_places[rows[old]] = places[old]
            self.packs += [pack for pack, _ in packs]
            self._sorted = (
                np.insert(old_keys, rows[~old], keys[~old]),
                np.insert(old_places, rows[~old], places[~old]),
            )

    def drop(self, pack: Pack) -> None:
        """Forget the entries of a pack."""
        with self._lock:
            keys, places = self._sorted
            numbers = [number for number, each in enumerate(self.packs) if each == pack]
            kept = ~np.isin(places["pack"], numbers)
            self._sorted = keys[kept], places[kept]

    def find(self, key: str) -> Stored | None:
        """Return where the entry under `key` is; None if it is in no pack."""
        keys, places = self._sorted
        wanted = bytes.fromhex(key)
        row = int(keys.searchsorted(wanted))
        # NumPy drops zeros at the end.
        if row == len(keys) or keys[row] != wanted.rstrip(b"\0"):
            return None
        pack, offset, n_bytes = places[row].item()
        return Stored(key, self.packs[pack], offset, n_bytes)

    def starting(self, prefixes: Iterable[str]) -> Iterator[Stored]:
        """Yield the entries whose keys start with any of `prefixes`."""
        keys, places = self._sorted
        prefixes = list(prefixes)
        lowest = [bytes.fromhex(prefix.ljust(64, "0")) for prefix in prefixes]
        highest = [bytes.fromhex(prefix.ljust(64, "f")) for prefix in prefixes]
        begins = keys.searchsorted(np.array(lowest, "S32"))
        ends = keys.searchsorted(np.array(highest, "S32"), "right")
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            for row in range(begin, end):
                pack, offset, n_bytes = places[row].item()
                key = bytes(keys[row]).ljust(32, b"\0").hex()
                yield Stored(key, self.packs[pack], offset, n_bytes)
