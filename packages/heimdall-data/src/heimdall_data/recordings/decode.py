"""Decoding of an object's bytes, by the catalogue's `iq_data_format`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from heimdall_features import FeatureError
from heimdall_features.signal import require_full_scale

from heimdall_data.errors import RecordingError
from heimdall_data.recordings.formats import FORMATS, kind_of
from heimdall_data.recordings.kiwi_wav import recording_from_kiwi_wav
from heimdall_data.recordings.npy import recording_from_npy
from heimdall_data.recordings.sigmf_recording import recording_from_sigmf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from heimdall_data.recordings.recording import Recording


def decode(
    data: bytes,
    format: str | None,  # noqa: A002 - the catalogue's word
    *,
    name: str,
    sample_rate_hz: float | None = None,
    start: datetime | None = None,
    metadata: bytes | None = None,
    full_scale: float = 1.0,
) -> Recording:
    """Decode one recording.

    Args:
        data: The object's bytes.
        format: `npy`, `sigmf` or `kiwi_wav`; None means `npy`, as in the catalogue.
        name: The object's key or the file's name, for messages and for the date in it.
        sample_rate_hz: The catalogue's; needed for `npy`, which does not contain it.
        start: Approximate time of recording, for the GPS week of a KiwiSDR recording.
        metadata: The `.sigmf-meta` beside SigMF samples; None: `data` is a SigMF archive.
        full_scale: Largest value of samples that are floats; integers have that of their type.

    Raises:
        RecordingError: The bytes are not a usable recording of that format.
    """
    if not data:
        raise RecordingError(f"{name}: empty, 0 bytes; store the recording again")
    with decoding(name):
        if metadata is None:
            _require_kind(data, format or "npy", name)
        match format or "npy":
            case "npy":
                recording = recording_from_npy(data, name, sample_rate_hz, full_scale)
            case "sigmf":
                recording = recording_from_sigmf(data, metadata, name, full_scale)
            case "kiwi_wav":
                recording = recording_from_kiwi_wav(data, name, start)
            case _:
                raise RecordingError(
                    f"{name}: unknown iq_data_format {format!r}; known are {', '.join(FORMATS)}"
                )
        require_sound(recording, name)
    return recording


def _require_kind(data: bytes, format: str, name: str) -> None:  # noqa: A002 - as above
    """Refuse what is evidently of another format, and say what it is."""
    kind = kind_of(data)
    if kind is not None and kind.format != format and format in FORMATS:
        remedy = kind.remedy or f"set iq_data_format to {kind.format!r}"
        raise RecordingError(f"{name}: {kind.name}, not {format!r}; {remedy}")


NO_MEMORY = "this machine lacks the memory to decode it; use a larger one, or cut it into several"


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Context in which any exception is a `RecordingError` about the recording of this name.

    `MemoryError` stays as it is: another machine may decode the same recording.
    """
    try:
        yield
    except MemoryError:
        raise
    except RecordingError as error:
        if name in str(error):
            raise
        raise RecordingError(f"{name}: {error}") from error
    # The bytes are anybody's, and go through parsers of NumPy, tar and JSON: whatever one of them
    # raises, the other recordings must be read.
    except Exception as error:
        raise RecordingError(
            f"{name}: cannot be decoded ({type(error).__name__}: {error}); store it again, or "
            f"leave it out"
        ) from error


def require_sound(recording: Recording, name: str) -> None:
    """Refuse samples that are NaN, infinite or beyond full scale, by a `RecordingError`."""
    for stretch in (recording, *recording.others):
        finite = np.isfinite(stretch.iq.view(np.float32))
        if not finite.all():
            n_bad = finite.size - int(np.count_nonzero(finite))
            raise RecordingError(
                f"{name}: {n_bad} of {finite.size} values are NaN or infinite; record again"
            )
        try:
            require_full_scale(stretch.iq)
        except FeatureError as error:
            raise RecordingError(
                f"{name}: {error}, or give that value: --full_scale, or full_scale in a manifest"
            ) from error
