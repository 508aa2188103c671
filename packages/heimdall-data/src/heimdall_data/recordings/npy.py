"""NumPy files as recordings: versions 1 to 3, never a pickle.

Three layouts are read: complex64 `(n,)`, and float32 or int16 as I and Q, `(2, n)` or
`(n, 2)`. A `(2, 2)` array could be either and is read as `(2, n)`. Integers are scaled by
1/32768 to full scale, and floats by a full scale that only the caller knows. A file with anything
after the array is refused: NumPy reads the first of several arrays and says nothing.

Source: NumPy Enhancement Proposal 1, "A simple file format for NumPy arrays".
"""

from __future__ import annotations

import io
import math

import numpy as np

from heimdall_data.errors import RecordingError
from heimdall_data.recordings.recording import INT16_FULL_SCALE, MAX_SAMPLES, Recording

_MAX_HEADER_BYTES = 4096
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    # Version 3 differs from 2 only in the encoding of field names, and fields are refused.
    (3, 0): np.lib.format.read_array_header_2_0,
}


def recording_from_npy(
    data: bytes, name: str, sample_rate_hz: float | None, full_scale: float = 1.0
) -> Recording:
    """Decode a NumPy file; the sample rate is the catalogue's, since the file has none.

    Raises:
        RecordingError: The file is not a complete one in one of the three layouts, or the rate
            is missing or impossible.
    """
    if sample_rate_hz is None or not 0 < sample_rate_hz < float("inf"):
        raise RecordingError(
            f"{name}: a NumPy file holds no sample rate and the catalogue says "
            f"{sample_rate_hz!r}; set measurements.iq_sample_rate"
        )
    stream = io.BytesIO(data)
    try:
        read_header = _READERS[np.lib.format.read_magic(stream)]
        shape, fortran_order, dtype = read_header(stream, max_header_size=_MAX_HEADER_BYTES)
    # NumPy evaluates the text, which also raises SyntaxError, TypeError, RecursionError and others.
    except Exception as error:
        reason = str(error).partition("\n")[0][:120]
        raise RecordingError(
            f"{name}: not a NumPy file of version 1 to 3 ({len(data)} bytes: {reason}); "
            f"write it with numpy.save, or in the catalogue correct iq_data_format"
        ) from error
    n_values = _checked_size(shape, dtype, name)
    held = len(data) - stream.tell()
    if held < n_values * dtype.itemsize:
        raise RecordingError(
            f"{name}: truncated: {held} bytes of samples, but the header says {dtype} of shape "
            f"{shape}, {n_values * dtype.itemsize} bytes; store the recording again"
        )
    if extra := held - n_values * dtype.itemsize:
        raise RecordingError(
            f"{name}: {extra} bytes after the array of {dtype} and shape {shape}, such as of a "
            f"second array; store each by itself, or both as one"
        )
    flat = np.frombuffer(data, dtype, n_values, stream.tell())
    values = flat.reshape(shape, order="F" if fortran_order else "C")
    if values.ndim == 1:
        iq = values.astype(np.complex64)
    else:
        i, q = values if values.shape[0] == 2 else values.T
        iq = np.empty(i.shape, np.complex64)
        iq.real, iq.imag = i, q
    floats = iq.view(np.float32)
    floats /= INT16_FULL_SCALE if dtype.kind == "i" else np.float32(full_scale)
    return Recording(iq=iq, sample_rate_hz=float(sample_rate_hz))


def _checked_size(shape: tuple[int, ...], dtype: np.dtype[np.generic], name: str) -> int:
    """The number of values, if type, shape and size are those of a recording."""
    if dtype.hasobject:
        raise RecordingError(f"{name}: holds pickled objects; save a plain complex64 array")
    is_complex = dtype.kind == "c" and dtype.itemsize == 8
    if not is_complex and dtype.newbyteorder("=") not in (np.float32, np.int16):
        raise RecordingError(f"{name}: holds {dtype}; save complex64, float32 or int16")
    if not (len(shape) == 1 if is_complex else len(shape) == 2 and 2 in shape):
        wanted = "(n,)" if is_complex else "(2, n) or (n, 2)"
        raise RecordingError(f"{name}: {dtype} of shape {shape}; a recording is {wanted}")
    if any(type(length) is not int for length in shape):
        raise RecordingError(f"{name}: a shape of {shape}, which are not whole numbers; save again")
    n_values = math.prod(shape)
    n_samples = n_values if is_complex else n_values // 2
    if not 0 < n_samples <= MAX_SAMPLES:
        raise RecordingError(f"{name}: {n_samples} samples; a recording has 1 to {MAX_SAMPLES}")
    return n_values
