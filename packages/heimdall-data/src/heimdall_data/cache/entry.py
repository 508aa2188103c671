"""One entry of the feature cache as bytes: a checksum, then a safetensors file.

Layout: `HFC1`, the CRC-32C of all that follows (4 bytes, little-endian), and the file, whose
header is padded with spaces, as the format allows, so that the data begins at byte 512. Tensors
can thus be read straight to their destination, and any flipped bit is noticed, in the header too.

The header is parsed here because the safetensors library copies: 11 microseconds for 49 KB, as
long as reading the file. Processors compute CRC-32C (RFC 3720, appendix B.4) themselves: 2
microseconds, where zlib's CRC-32 takes 9.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from crc32c import crc32c
from safetensors.numpy import save

from heimdall_data.errors import DataError, reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    Array = npt.NDArray[np.generic]

MAGIC = b"HFC1"
CHECKED_FROM = 8
HEADER_FROM = 16
DATA_FROM = 512
LARGEST_TAIL = 65_536
DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}


class DamagedEntry(DataError):
    """An entry does not hold what was written."""


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """Number and total size of a cache's entries."""

    n_entries: int
    n_bytes: int
    """As the disk counts them."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Type, shape and position of a tensor in the data of an entry."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    begin: int
    end: int


def encode(tensors: Mapping[str, Array]) -> bytes:
    """Return the entry that holds `tensors`, of the types bool, uint8, float32 and float64.

    Raises:
        DataError: A tensor has another type, or there are too many for the header.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise DataError(f"the cache stores no {tensor.dtype} tensor ({name}); convert it")
    plain = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    length = int.from_bytes(plain[:8], "little")
    room = DATA_FROM - HEADER_FROM
    if length > room:
        raise DataError(f"the names and shapes of {len(tensors)} tensors exceed {room} bytes")
    file = room.to_bytes(8, "little") + plain[8 : 8 + length].ljust(room) + plain[8 + length :]
    return MAGIC + crc32c(file).to_bytes(4, "little") + file


def verify(*parts: bytes | bytearray | memoryview) -> None:
    """Raise `DamagedEntry` if an entry is cut or changed; the first part ends after its header."""
    first = memoryview(parts[0])
    if len(first) < DATA_FROM or first[:4] != MAGIC:
        raise DamagedEntry("its beginning is not that of an entry")
    total = crc32c(first[CHECKED_FROM:])
    for part in parts[1:]:
        total = crc32c(part, total)
    if total != int.from_bytes(first[4:CHECKED_FROM], "little"):
        raise DamagedEntry("its checksum is wrong")


def read_into(descriptor: int, name: str, out: Array, offset: int, size: int) -> dict[str, Array]:
    """Do as `take_into` with the entry of `size` bytes at `offset` of an open file.

    This saves a copy if `name` is stored first, as the tensor of the widest type is.
    """
    body = out.reshape(-1).view(np.uint8).data
    n_tail = size - DATA_FROM - body.nbytes
    preface, tail = bytearray(DATA_FROM), bytearray(min(max(n_tail, 0), LARGEST_TAIL))
    os.preadv(descriptor, [preface, body, tail], offset)
    if len(tail) == n_tail:
        verify(preface, body, tail)
        places = dict(_places(bytes(preface[HEADER_FROM:])))
        if places.pop(name, None) == _Place(out.dtype, out.shape, 0, body.nbytes):
            return _views(tail, places, -body.nbytes)
    return take_into(os.pread(descriptor, size, offset), name, out)


def take_into(data: bytes, name: str, out: Array) -> dict[str, Array]:
    """Copy the tensor `name` of an entry to `out`, and return the others.

    Args:
        data: The entry.
        name: A tensor of the type and shape of `out`.
        out: C-contiguous and writable; undefined after an error.

    Raises:
        DamagedEntry: The entry is cut or changed, or has no such tensor.
    """
    verify(data)
    tensors = _views(bytearray(data), _places(data[HEADER_FROM:DATA_FROM]), DATA_FROM)
    wanted = tensors.pop(name, None)
    if wanted is None or (wanted.dtype, wanted.shape) != (out.dtype, out.shape):
        found = None if wanted is None else f"{wanted.dtype} {wanted.shape}"
        raise DamagedEntry(f"its {name} is {found}, not {out.dtype} {out.shape}")
    out[...] = wanted
    return tensors


def _views(data: bytearray, places: Mapping[str, _Place], offset: int) -> dict[str, Array]:
    """Tensors at `places`, if the data of the entry begins at `offset` of `data`."""
    try:
        return {
            name: np.ndarray(place.shape, place.dtype, data, offset + place.begin)
            for name, place in places.items()
        }
    except (OverflowError, TypeError, ValueError) as error:
        raise DamagedEntry(f"a tensor is not in it ({reason_of(error)})") from error


@lru_cache(maxsize=256)
def _places(header: bytes) -> Mapping[str, _Place]:
    try:
        return {
            name: _Place(DTYPES[value["dtype"]], tuple(value["shape"]), *value["data_offsets"])
            for name, value in json.loads(header).items()
        }
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise DamagedEntry(f"its header has {reason_of(error)}") from error
