"""Formats of recordings: their names in the store, the suffixes of files, and what a file is.

A file is recognised by its first bytes, so that an error names what it is, and not the first check
of another format that it fails.

Sources: IBM and Microsoft, "Multimedia Programming Interface and Data Specifications 1.0" (1991);
EBU Tech 3306 and ITU-R BS.2088 (RF64, BW64); Sonic Foundry, "Sony Wave64"; and the magic numbers of
the file command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

STORED_SUFFIXES: Final = {"npy": ".npy", "sigmf": ".sigmf", "kiwi_wav": ".wav"}
"""Suffix of an object by its `iq_data_format`; None in the catalogue means `npy`."""
FORMATS: Final = tuple(STORED_SUFFIXES)
PAIR: Final = (".sigmf-data", ".sigmf-meta")
RAW: Final = {".cu8": "u1", ".cs8": "i1", ".cs16": "<i2", ".cf32": "<f4"}
"""Type of I and of Q in files of samples alone, by their suffix."""
SUFFIXES: Final = {
    ".npy": "npy",
    **dict.fromkeys(RAW, "sigmf"),
    **dict.fromkeys((".wav", ".rf64", ".w64"), "kiwi_wav"),
    **dict.fromkeys((".sigmf", ".sigmf.gz", ".sigmf.xz", ".sigmf.zip", *PAIR), "sigmf"),
}
"""Format of a local file by the end of its name, in small letters; raw ones are stored as SigMF."""
W64_RIFF: Final = bytes.fromhex("726966662e91cf11a5d628db04c10000")
KIWI_STAMP: Final = b"kiwi\x0a\0\0\0"
_HEAD_BYTES = 2**16
_WAV_HEADER_BYTES = 44
"""Up to the first samples; in fewer, a recording that was cut off does not show its stamps."""


class Kind(NamedTuple):
    """What a file is."""

    name: str
    remedy: str = ""
    format: str | None = None
    """The store's format that reads it; None if none does."""


TAR: Final = Kind("a tar archive", format="sigmf")
JSON: Final = Kind("JSON, as SigMF's metadata are", "give the samples, with these beside them")
_WEB_PAGE = Kind("a web page", "download the recording itself")
_UNPACK = "unpack it"
_CONVERT = "convert it to WAV, SigMF or NumPy"
_KINDS = (
    (0, b"\x93NUMPY", Kind("a NumPy file", format="npy")),
    (257, b"ustar", TAR),
    (0, b"\x1f\x8b\x08", Kind("a file compressed by gzip", _UNPACK, "sigmf")),
    (0, b"\xfd7zXZ\0", Kind("a file compressed by xz", _UNPACK, "sigmf")),
    (0, b"PK\3\4", Kind("a zip archive, as numpy.savez writes too", _UNPACK, "sigmf")),
    (0, b"PK\5\6", Kind("an empty zip archive", "write it again", "sigmf")),
    (0, b"BZh", Kind("a file compressed by bzip2", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Kind("a file compressed by Zstandard", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7-Zip archive", _UNPACK)),
    (0, b"Rar!", Kind("a RAR archive", _UNPACK)),
    (0, b"RIFX", Kind("a WAV file with big-endian numbers", _CONVERT)),
    (8, b"AVI ", Kind("a video", "give a recording of I and Q")),
    (0, b"FORM", Kind("an AIFF file", _CONVERT)),
    (0, b"caff", Kind("a file of Apple's Core Audio", _CONVERT)),
    (0, b"fLaC", Kind("a FLAC file", _CONVERT)),
    (0, b"OggS", Kind("an Ogg file, whose compression changes phases", "record I and Q as WAV")),
    (0, b"ID3", Kind("an MP3 file, whose compression changes phases", "record I and Q as WAV")),
    (0, b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file", _CONVERT)),
    (0, b"MATLAB 5.0", Kind("a MATLAB file", _CONVERT)),
    (0, b"BLUE", Kind("an X-Midas BLUE file", "convert it with sigmf_convert")),
    (0, b"\0\5\x16\7", Kind("macOS's notes on a file", "give the file without `._` in its name")),
    (0, b"version https://git-lfs", Kind("a pointer of Git LFS", "fetch it with git lfs pull")),
    (0, b"<!DOCTYPE", _WEB_PAGE),
    (0, b"<!doctype", _WEB_PAGE),
    (0, b"<html", _WEB_PAGE),
    (0, b"<?xml", Kind("XML, as a store's error is", "download the recording itself")),
    (0, b"{", JSON),
)
WAV: Final = Kind(
    "an ordinary WAV without `kiwi` stamps",
    "record with --kiwi-wav if it is of a KiwiSDR; else ingest the file, which stores it as SigMF",
)
_KIWI = Kind("a KiwiSDR recording", format="kiwi_wav")


def kind_of(data: bytes) -> Kind | None:
    """Return what a file is, by its first 64 KiB, or None if that is not known."""
    if is_wav(data) and len(data) >= _WAV_HEADER_BYTES:
        return _KIWI if is_kiwi_wav(data) else WAV
    for place, magic, kind in _KINDS:
        if data.startswith(magic, place):
            return kind
    return None


def is_wav(data: bytes) -> bool:
    """Return True for a WAV of any program: RIFF, or RF64, BW64 and Wave64 for large files."""
    return data.startswith(W64_RIFF) or (
        data[:4] in {b"RIFF", b"RF64", b"BW64"} and data[8:12] == b"WAVE"
    )


def is_kiwi_wav(data: bytes) -> bool:
    """Return True for a WAV with a GNSS stamp of a KiwiSDR near its start."""
    return is_wav(data) and data.find(KIWI_STAMP, 0, _HEAD_BYTES) >= 0


def suffix_of(path: Path) -> str:
    """Return the end of a name that tells the format, as it is written, or else the suffix."""
    found = max((s for s in SUFFIXES if path.name.lower().endswith(s)), key=len, default="")
    return path.name[len(path.name) - len(found) :] if found else path.suffix
