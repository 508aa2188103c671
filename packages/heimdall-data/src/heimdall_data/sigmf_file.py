"""SigMF recordings: a data file with its metadata beside it, or both in one archive.

Integers are scaled to full scale as the format's own library does: two's complement by the
power of two, unsigned after taking away half of the range. Of several captures the longest
is read. The time is what the recorder's computer said, which is no GNSS stamp.

Source: The Signal Metadata Format Specification, v1.2, sigmf.org.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from heimdall_data.errors import RecordingError
from heimdall_data.gps_time import gps_ns_from_utc
from heimdall_data.recording import MAX_SAMPLES, ComplexSamples, Recording

__all__ = ["recording_from_sigmf"]

DATATYPE = re.compile(r"(?P<kind>[cr])(?P<type>[fiu])(?P<bits>8|16|32|64)(?P<order>_le|_be)?")
READABLE = {"f": (32, 64), "i": (8, 16, 32), "u": (8, 16, 32)}


def recording_from_sigmf(data: bytes, metadata: bytes | None, name: str) -> Recording:
    """Decode a SigMF recording.

    Args:
        data: The samples, or the whole archive.
        metadata: The `.sigmf-meta` beside the samples; None: `data` is an archive.
        name: The key or file name, for messages.

    Raises:
        RecordingError: For metadata that are none, samples that are not complex or not of one
            channel, or a checksum that does not hold.
    """
    if metadata is None:
        data, metadata = _from_archive(data, name)
    meta = _parsed(metadata, name)
    about = meta["global"]
    expected = about.get("core:sha512")
    if expected is not None and hashlib.sha512(data).hexdigest() != str(expected).lower():
        raise RecordingError(
            f"{name}: the samples' SHA-512 is not the {str(expected)[:16]}... of core:sha512; "
            f"the data are damaged or truncated, store the recording again"
        )
    iq = _samples(data, about, name)
    try:
        return _longest_capture(iq, float(about["core:sample_rate"]), meta["captures"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RecordingError(
            f"{name}: the SigMF metadata lack a usable core:sample_rate or capture "
            f"({type(error).__name__}: {error}); correct the .sigmf-meta"
        ) from error


def _from_archive(data: bytes, name: str) -> tuple[bytes, bytes]:
    """Samples and metadata of the one recording in an archive, an uncompressed tar."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            # A sparse member would promise more than the archive holds.
            files = [m for m in archive.getmembers() if m.isreg() and not m.issparse()]
            found = {
                end: [m for m in files if m.name.endswith(f".sigmf-{end}")]
                for end in ("data", "meta")
            }
            if any(len(members) != 1 for members in found.values()):
                raise RecordingError(
                    f"{name}: the archive holds {len(found['data'])} data and "
                    f"{len(found['meta'])} metadata files; store each recording by itself"
                )
            samples, meta = (archive.extractfile(found[end][0]) for end in ("data", "meta"))
            return (samples.read() if samples else b""), (meta.read() if meta else b"")
    except (tarfile.TarError, OSError) as error:
        raise RecordingError(
            f"{name}: not a SigMF archive ({error}); a data file needs its .sigmf-meta beside it"
        ) from error


def _parsed(metadata: bytes, name: str) -> dict[str, Any]:
    try:
        meta = json.loads(metadata)
        if isinstance(meta["global"], dict) and isinstance(meta["captures"], list):
            return dict(meta)
        why = "global is no object or captures is no list"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
    raise RecordingError(f"{name}: the SigMF metadata cannot be read ({why}); write them anew")


def _samples(data: bytes, about: dict[str, Any], name: str) -> ComplexSamples:
    """All samples, complex64 relative to full scale."""
    said = about.get("core:datatype")
    match = DATATYPE.fullmatch(str(said))
    if match is None or int(match["bits"]) not in READABLE[match["type"]]:
        raise RecordingError(f"{name}: core:datatype is {said!r}; use one such as 'ci16_le'")
    if match["kind"] != "c":
        raise RecordingError(f"{name}: core:datatype {said!r} is real; record complex I and Q")
    if (channels := about.get("core:num_channels", 1)) != 1:
        raise RecordingError(f"{name}: {channels} channels; store each receiver by itself")
    bits = int(match["bits"])
    dtype = np.dtype(f"{'>' if match['order'] == '_be' else '<'}{match['type']}{bits // 8}")
    n_samples, rest = divmod(len(data), 2 * dtype.itemsize)
    if rest or not 0 < n_samples <= MAX_SAMPLES:
        raise RecordingError(
            f"{name}: {len(data)} bytes are not 1 to {MAX_SAMPLES} whole samples of {said}; "
            f"truncated? store the recording again"
        )
    values = np.frombuffer(data, dtype)
    if match["type"] == "f":
        # What single precision cannot hold becomes infinite, which `decode` refuses.
        with np.errstate(over="ignore"):
            return values.astype(np.float32).view(np.complex64)
    half_range = 2.0 ** (bits - 1)
    centre = half_range if match["type"] == "u" else 0.0
    return ((values - centre) / half_range).astype(np.float32).view(np.complex64)


def _longest_capture(
    iq: ComplexSamples, sample_rate_hz: float, captures: list[dict[str, Any]]
) -> Recording:
    """The samples of the longest capture, with its frequency and time."""
    captures = captures or [{}]
    if any(capture.get("core:header_bytes") for capture in captures):
        raise ValueError("core:header_bytes among the samples is not supported")
    starts = [int(capture.get("core:sample_start", 0)) for capture in captures]
    lengths = [end - start for start, end in pairwise([*starts, len(iq)])]
    longest = int(np.argmax(lengths))
    whole = Recording(iq=iq, sample_rate_hz=sample_rate_hz)
    part = whole.cut(starts[longest], lengths[longest])
    frequency = captures[longest].get("core:frequency")
    return replace(
        part,
        start_gps_ns=_gps_ns(captures[longest].get("core:datetime")),
        center_frequency_hz=None if frequency is None else float(frequency),
        n_dropped_samples=len(iq) - len(part.iq),
    )


def _gps_ns(said: str | None) -> int | None:
    """GPS nanoseconds of an ISO 8601 time; SigMF's are UTC even where they do not say so."""
    if said is None:
        return None
    instant = datetime.fromisoformat(said)
    return gps_ns_from_utc(instant if instant.tzinfo else instant.replace(tzinfo=UTC))
