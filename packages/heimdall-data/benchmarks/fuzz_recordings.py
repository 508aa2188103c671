"""Fuzzing of all that decodes recordings, with knowledge of their formats.

Run: `nice python packages/heimdall-data/benchmarks/fuzz_recordings.py --seconds 3600`, or with
`--inputs N`, which makes the same inputs each time. A valid file of each format is made from its
fields; some get hostile values (booleans, huge, negative, NaN, of another type, nested, lengths
that lie), and the bytes are then cut, flipped or repeated. What comes back must be a recording
that the next steps can use, or an error of ours with a short message, in bounded memory.

Prints the inputs, recordings and findings of each format as JSON. The exit status is 1 if anything
was found; the first input of each kind of finding is stored in `--keep`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import hashlib
import io
import json
import logging
import lzma
import math
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from heimdall_data.errors import DataError
from heimdall_data.ingest.manifest import read_manifest
from heimdall_data.ingest.recording_file import (
    Details,
    RecordingFile,
    read_recording,
    recording_paths,
)
from heimdall_data.recordings.decode import decode
from heimdall_data.recordings.gnss_pos import positions_from_gnss_pos
from heimdall_data.recordings.recording import MAX_SAMPLES
from heimdall_data.recordings.sigmf_recording import CLOCK_KEY, sigmf_archive
from heimdall_data.session_features import arrivals_of
from heimdall_data.session_reader import align
from heimdall_features import (
    ArrivalConfig,
    ArrivalExtractor,
    FeatureConfig,
    FeatureError,
    FeatureExtractor,
)

LONGEST_LINE = 1_000
PAIRS = 64
START = datetime(2017, 11, 27, 10, 42, tzinfo=UTC)
KIWI_NAME = "20171127T104156Z_77500_DF0KL_iq.wav"
UBERSDR_NAME = "m9psy_14074000_2026-01-21T15:10:19.937Z.wav"
FEATURES = FeatureExtractor(
    FeatureConfig(receivers=("A",), sample_rate_hz=12_500, n_fft=64, hop_length=32, n_mels=8)
)
ARRIVALS = ArrivalExtractor(
    ArrivalConfig(receivers=("A", "B", "C"), baseline_m=1e6, sample_rate_hz=12_500)
)


class TooSlow(BaseException):
    """An input takes too long."""


def nested(depth, inner="1"):
    """JSON that is as deep as its text is long."""
    return "[" * depth + inner + "]" * depth


class Raw(str):
    """Text that is put into a document as it is."""

    __slots__ = ()


ODD = [
    None, True, False, 0, 1, -1, 2, 255, -(2**31), 2**31 - 1, 2**32 - 1, 2**63, -(2**63), 10**30,
    10**400, 0.5, -0.0, 5e-324, 1e308, math.nan, math.inf, -math.inf, "", "x", "\0", "\ud800",
    "\u202e", "1e999", "nan", "True", "1_0", "٣", "9" * 5000, "x" * 70_000, [], {}, [[]],
    [True], [None], ["a", "b"], [1, 2, 3], [0.0] * 1000, {"": {}}, {"type": "Point"},
    {"type": "Point", "coordinates": [True, False, None]}, {"type": ["Point"], "coordinates": 1},
    {"type": "Point", "coordinates": [0, 0, math.nan]}, "0001-01-01T00:00:00+14:00", "2026-02-30",
    "9999-12-31T23:59:59.999999999Z", "0" * 10, "9" * 10, "2026-01-01T00:00:00.1234567890123Z",
    "2026-01-01T00:00:00." + "0" * 70_000 + "\n", "2026-01-01T" + "00" * 30_000 + ".\n",
    Raw(nested(3_000)), Raw(nested(100_000)), Raw("9" * 5000), Raw("1e99999"), Raw("-"), Raw("{"),
]  # fmt: skip


class Hostile:
    """Random choices of one input."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def value(self, old=None):
        """Another value for a field."""
        if type(old) in (int, float) and abs(old) < 1e20 and self.rng.random() < 0.4:
            near = [old + 1, old - 1, -old, old * 2, old * 1000, old * 1e18, float(old), str(old)]
            return self.rng.choice(
                [*near, [old], {"": old}, bool(old), 1 << self.rng.randrange(70)]
            )
        return copy.deepcopy(self.rng.choice(ODD))

    def sometimes(self, value, chance=0.15):
        """The value, or rarely a hostile one."""
        return self.value(value) if self.rng.random() < chance else value

    def number(self, value, bits, chance=0.1):
        """An unsigned integer of so many bits, now and then another one."""
        if self.rng.random() < chance:
            edge = self.rng.choice([0, 1, value - 1, value + 1, 1 << (bits - 1), (1 << bits) - 1])
            value = self.rng.choice([edge, self.rng.getrandbits(bits)])
        return value % (1 << bits)

    def document(self, root):
        """A document of dictionaries and lists with some parts changed."""
        box = [copy.deepcopy(root)]
        for number in range(self.rng.choice([0, 1, 1, 2, 3, 6])):
            holder, key = box, 0
            while isinstance(holder[key], dict | list) and holder[key] and self.rng.random() < 0.85:
                holder = holder[key]
                keys = list(holder) if isinstance(holder, dict) else range(len(holder))
                key = self.rng.choice(list(keys))
            match self.rng.randrange(8):
                case 0 if isinstance(holder, dict):
                    del holder[key]
                case 1:
                    holder[key] = [holder[key]]
                case 2 if (
                    isinstance(holder, list)
                    and 0 < len(holder) < 9
                    and not number
                    and holder is not box
                ):
                    holder *= self.rng.choice([2, 30, 3_000])
                case 3:
                    holder[key] = {"": holder[key]}
                case _:
                    holder[key] = self.value(holder[key])
        return box[0]

    def json(self, root):
        """A changed document as JSON, which may be cut or of another encoding."""
        text = _dumps(self.document(root))
        encoding = "utf-16" if self.rng.random() < 0.02 else "utf-8"
        return self.bytes(text.encode(encoding, "surrogatepass"), 0.1)

    def bytes(self, data, chance=0.25):
        """Bytes, now and then damaged."""
        while self.rng.random() < chance:
            at = self.rng.randrange(len(data) + 1)
            match self.rng.randrange(6):
                case 0:
                    data = data[:at]
                case 1:
                    data = data[at:]
                case 2:
                    data += data[at : at + 4096]
                case 3 if data:
                    at = min(at, len(data) - 1)
                    data = (
                        data[:at] + bytes([data[at] ^ 1 << self.rng.randrange(8)]) + data[at + 1 :]
                    )
                case 4:
                    data = data[:at] + self.rng.randbytes(4) + data[at + 4 :]
                case 5:
                    data = data[:at] + b"\xff" * 8 + data[at + 8 :]
        return data

    def iq(self, form, n=600):
        """Interleaved samples, rarely with values that are no numbers."""
        noise = np.random.default_rng(self.rng.getrandbits(32)).normal(0, 0.2, 2 * n)
        kind = np.dtype(form)
        if kind.kind == "f":
            values = noise.astype(kind)
            if self.rng.random() < 0.1:
                values[self.rng.randrange(2 * n)] = self.rng.choice([np.nan, np.inf, 1e38])
            return values.tobytes()
        scale = 2.0 ** (8 * kind.itemsize - 1)
        return (
            (np.clip(noise, -0.9, 0.9) * scale + (scale if kind.kind == "u" else 0))
            .astype(kind)
            .tobytes()
        )


def _dumps(value):
    """JSON with raw parts."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{_dumps(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_dumps, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**300:
        return "1" + "0" * 400
    return json.dumps(value)


@dataclass
class Case:
    """Files of one recording; the first is the recording."""

    form: str | None
    """Format for `decode`; None if only files are read."""
    files: dict[str, bytes]
    attributes: dict[str, bytes] = field(default_factory=dict)
    rate_hz: object = 12_500.0


def npy(h: Hostile) -> Case:
    """NumPy: the header is text in Python's notation, with its length before it."""
    descr, shape, kind = h.rng.choice([
        ("<c8", (600,), "<f4"), ("<f4", (2, 600), "<f4"), ("<f4", (600, 2), "<f4"),
        ("<i2", (600, 2), "<i2"), (">i2", (2, 600), ">i2"), (">c8", (600,), ">f4"),
    ])  # fmt: skip
    if h.rng.random() < 0.3:
        odd = [True, False, None, -1, 0, 1, 600.0, 10**30, 2**63, -600, "600", (600,), 1j, ..., b""]
        shape = list(shape)
        for _ in range(h.rng.randrange(1, 4)):
            shape[h.rng.randrange(len(shape))] = h.rng.choice([*odd, 600, 2])
            if h.rng.random() < 0.2:
                shape.append(h.rng.choice([1, True, 0, -1]))
        shape = h.rng.choice([tuple(shape), tuple(shape), shape, set(map(str, shape)), shape[0]])
    odd_types = [
        "|O",
        "c8",
        "<c16",
        "V8",
        "<M8[s]",
        "<U4",
        "f4,f4",
        "(2,)<f4",
        "|b1",
        "i2" * 99,
        "",
    ]
    odd_types += [[("a", "<f4"), ("b", "<f4")], ("<f4", (2,)), [("i", "|O")], {"names": ["a"]}]
    fields = {
        "descr": h.rng.choice(odd_types) if h.rng.random() < 0.15 else h.sometimes(descr),
        "fortran_order": h.sometimes(h.rng.random() < 0.1, 0.05),
        "shape": shape if h.rng.random() < 0.95 else h.value(),
    }
    if h.rng.random() < 0.05:
        fields.pop(h.rng.choice(list(fields)))
    if h.rng.random() < 0.05:
        fields[h.rng.choice(["extra", 1, None, ("shape",)])] = h.value()
    text = repr(fields)
    if h.rng.random() < 0.05:
        odd_text = [
            "(" * 90,
            nested(3000),
            "-" * 3000 + "1",
            "{" * 99,
            "1" * 4000,
            "'\\ud800'",
            "\n ",
        ]
        text = text.replace(repr(fields.get("shape")), h.rng.choice(odd_text))
    version = h.rng.choice([(1, 0), (2, 0), (3, 0)] * 9 + [(0, 0), (2, 9), (255, 255)])
    head = text.encode("utf-8" if version == (3, 0) else "latin-1", "replace") + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<I", h.number(len(head) % 65536, 16))
    data = b"\x93NUMPY" + bytes(version) + size + h.bytes(head, 0.1) + h.iq(kind)
    rate = h.rng.choice([12_500.0] * 20 + [None, 0, -1.0, math.nan, math.inf, 5e-324, 10**18, 1])
    return Case("npy", {"a.npy": h.bytes(data)}, rate_hz=rate)


def sigmf_meta(h: Hostile, data: bytes, datatype: str) -> bytes:
    """SigMF's metadata with every field that is read."""
    about = {
        "core:datatype": datatype, "core:sample_rate": 12_500, "core:version": "1.2.0",
        "core:num_channels": 1, "core:offset": 0, "core:trailing_bytes": 0,
        "core:geolocation": {"type": "Point", "coordinates": [8.0, 45.0, 100.0]}, CLOCK_KEY: 1e-7,
    }  # fmt: skip
    if h.rng.random() < 0.2:
        about["core:sha512"] = hashlib.sha512(data).hexdigest()
    if h.rng.random() < 0.1:
        about["core:dataset"] = h.rng.choice(["a.sigmf-data", "../a", "/etc/passwd", True, "a\0b"])
    captures = [
        {
            "core:sample_start": start, "core:global_index": start, "core:header_bytes": 0,
            "core:frequency": 7e6, "core:datetime": f"2026-03-01T12:00:{second:02d}.5Z",
            "core:geolocation": {"type": "Point", "coordinates": [8.0, 45.0]}, CLOCK_KEY: 1e-7,
        }
        for start, second in ((0, 0), (200, 1), (400, 7))[: h.rng.randrange(4)]
    ]  # fmt: skip
    for each in captures:
        for key in list(each):
            if h.rng.random() < 0.2:
                del each[key]
    return h.json({"global": about, "captures": captures, "annotations": []})


def samples(h: Hostile) -> tuple[bytes, str]:
    """SigMF's samples and their type."""
    kind, form = h.rng.choice([("ci16_le", "<i2"), ("cf32_le", "<f4"), ("cu8", "u1"), ("ci8", "i1"),
                               ("cf64_be", ">f8"), ("cu32_le", "<u4")])  # fmt: skip
    return h.iq(form), kind


def sigmf_pair(h: Hostile) -> Case:
    """SigMF as two files."""
    data, datatype = samples(h)
    meta = sigmf_meta(h, data, datatype)
    return Case("sigmf", {"a.sigmf-data": h.bytes(data), "a.sigmf-meta": meta})


def sigmf_tar(h: Hostile) -> Case:
    """SigMF in an archive, whose members' headers are changed after the checksum or before."""
    data, datatype = samples(h)
    members = [("a/a.sigmf-meta", sigmf_meta(h, data, datatype)), ("a/a.sigmf-data", data)]
    if h.rng.random() < 0.2:
        members += [members[1]] * h.rng.choice([1, 2, 200])
    stream = io.BytesIO()
    form = h.rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in members:
            member = tarfile.TarInfo(
                name if h.rng.random() < 0.9 or form == tarfile.USTAR_FORMAT else "n" * 300 + name
            )
            member.size = len(content)
            if h.rng.random() < 0.1:
                keys = ("size", "mtime", "path", "uid", "hdrcharset", "GNU.sparse.map")
                keys += ("GNU.sparse.size", "GNU.sparse.major", "GNU.sparse.realsize")
                texts = ("-1", "1e999", "nan", "9" * 99, "x", "0,0", "1", "\0", "BINARY")
                member.pax_headers = {h.rng.choice(keys): h.rng.choice(texts)}
            archive.addfile(member, io.BytesIO(content))
    whole = bytearray(stream.getvalue())
    for at in range(0, len(whole) - 511, 512):
        if whole[at + 257 : at + 262] == b"ustar" and h.rng.random() < 0.15:
            first, last = h.rng.choice([(124, 136), (156, 157), (0, 100), (136, 148), (345, 500)])
            numbers = [b"7" * 11, b"\x80" + b"\0" * 10 + b"\1", b"\xff" * 12, b"-1"]
            kinds = [b"S", b"L", b"x", b"g", b"K", b"5", b"1", b"\x80" + b"\xff" * 11]
            text = h.rng.choice(numbers + kinds)
            whole[at + first : at + last] = text.ljust(last - first, b"\0")[: last - first]
            total = sum(whole[at : at + 148]) + sum(whole[at + 156 : at + 512]) + 8 * 32
            whole[at + 148 : at + 156] = b"%06o\0 " % total
    return Case("sigmf", {"a.sigmf": h.bytes(bytes(whole))})


def sigmf_packed(h: Hostile) -> Case:
    """SigMF in a compressed archive, damaged before or after, and far larger than its file."""
    plain = sigmf_tar(h).files["a.sigmf"]
    bomb = bytes(h.rng.choice([0] * 9 + [1 << 20]))
    form = h.rng.choice(["gz", "xz", "zip"])
    if form == "zip":
        stream = io.BytesIO()
        data, datatype = samples(h)
        method = h.rng.choice([zipfile.ZIP_DEFLATED] * 8 + [0, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name, content in (("meta", sigmf_meta(h, data, datatype)), ("data", data + bomb)):
                archive.writestr(f"a/{h.rng.choice(['', '', '', '._'])}a.sigmf-{name}", content)
        content = stream.getvalue()
        for field in (b"PK\1\2", b"PK\3\4", b"PK\5\6"):
            if h.rng.random() < 0.1:
                at = content.rfind(field) + h.rng.randrange(4, 40)
                content = content[:at] + h.rng.choice([b"\xff" * 4, bytes(4)]) + content[at + 4 :]
    else:
        compress = gzip.compress if form == "gz" else lzma.compress
        cut = h.rng.randrange(len(plain) + 1) if h.rng.random() < 0.1 else len(plain)
        content = compress(plain[:cut] + bomb)
        if cut < len(plain):
            content += compress(plain[cut:])
    return Case("sigmf", {f"a.sigmf.{form}": h.bytes(content, 0.15)})


def kiwi(h: Hostile) -> Case:
    """KiwiSDR's WAV: a header, and blocks of a stamp and samples."""
    body = b""
    n_blocks = h.rng.choice([1, 2, 10, 30])
    sizes = h.rng.choice([[PAIRS]] * 9 + [[PAIRS - 5, PAIRS, PAIRS], [PAIRS, PAIRS + 1]])
    for number in range(n_blocks):
        n_pairs = sizes[number % len(sizes)]
        second, ns = divmod(124_934_250_000_000 + number * round(PAIRS / 12_001 * 1e9), 10**9)
        age = h.number(h.rng.choice([1, 1, 1, 252, 255]) if n_blocks == 2 else 1, 8, 0.02)
        body += h.rng.choice([b"kiwi"] * 99 + [b"data"])
        body += struct.pack("<IBBII", h.number(10, 32, 0.01), age, h.number(0, 8), h.number(
            second % 604_800, 32, 0.05), h.number(ns, 32, 0.05))  # fmt: skip
        body += struct.pack("<4sI", b"data", h.number(4 * n_pairs, 32, 0.02)) + h.iq("<i2", n_pairs)
    form = struct.pack(
        "<HHIIHH", h.number(1, 16, 0.03), h.number(2, 16, 0.03), h.number(12_001, 32, 0.1),
        h.number(48_004, 32), h.number(4, 16), h.number(16, 16, 0.03),
    )  # fmt: skip
    head = b"WAVEfmt " + struct.pack("<I", h.number(16, 32, 0.05)) + form
    data = struct.pack("<4sI", b"RIFF", h.number(len(head) + len(body), 32, 0.1)) + head + body
    name = KIWI_NAME if h.rng.random() < 0.7 else h.rng.choice([
        "a.wav", "00000000T000000Z_1_a.wav", "19700101T000000Z_0_x_iq.wav", "websdr_b.wav",
        "21991231T235959Z_" + "9" * 180 + "_x.wav",
    ])  # fmt: skip
    return Case("kiwi_wav", {name: h.bytes(data)})


def iq_wav(h: Hostile) -> Case:
    """An ordinary WAV with JSON beside it and extended attributes."""
    coding, bits, kind = h.rng.choice([
        (1, 8, "u1"), (1, 16, "<i2"), (1, 24, "<i2"), (1, 32, "<i4"), (3, 32, "<f4"),
        (3, 64, "<f8"), (0xFFFE, 32, "<f4"),
    ])  # fmt: skip
    form = struct.pack(
        "<HHIIHHHHI", h.number(coding, 16, 0.03), h.number(2, 16, 0.03), h.number(24_000, 32),
        h.number(192_000, 32), h.number(8, 16), h.number(bits, 16, 0.03), 22, 0, 0,
    )  # fmt: skip
    form += struct.pack("<HH", 3, 0) + bytes(12)
    when = [h.number(each, 16, 0.03) for each in (2026, 3, 0, 1, 12, 0, 0, 250)]
    auxiliary = struct.pack("<16HI", *when, *when, h.number(7_000_000, 32))
    if h.rng.random() < 0.1:
        told = f'RadioCenterFreq="{h.value(7)}" UTCSeconds="{h.value(1_700_000_000)}"'
        auxiliary = f"<a {told}/>".encode("utf-16-le", "surrogatepass")
    chunks = [(b"fmt ", form), (b"auxi", auxiliary), (b"data", h.iq(kind))]
    if h.rng.random() < 0.1:
        chunks = chunks[: h.rng.randrange(3)] + [(h.rng.randbytes(4), b"")] * h.rng.choice([1, 999])
    tag = h.rng.choice([b"RIFF", b"RIFF", b"RF64", b"BW64", b"riff"])
    if tag == b"riff":
        tail = bytes.fromhex("f3acd3118cd100c04f8edb8a")
        content = bytes.fromhex("2e91cf11a5d628db04c10000") + bytes(8) + b"wave" + tail
        for name, chunk in chunks:
            size = struct.pack("<Q", h.number(24 + len(chunk), 64, 0.07))
            content += name + tail + size + chunk + bytes(-len(chunk) % 8)
        data = tag + content
    else:
        if tag != b"RIFF":
            sizes = struct.pack("<QQQI", h.number(99, 64), h.number(len(chunks[-1][1]), 64), 0, 0)
            chunks = [(b"ds64", sizes[: h.rng.choice([28, 28, 8])]), *chunks]
        content = b"WAVE"
        for name, chunk in chunks:
            size = len(chunk) if tag == b"RIFF" or name != b"data" else 2**32 - 1
            content += name + struct.pack("<I", h.number(size, 32, 0.07)) + chunk
        data = struct.pack("<4sI", tag, len(content)) + content
    sidecar = h.json({
        "start_time": "2026-01-21T15:10:19.937123456Z", "start_uncertainty_s": 1e-6,
        "sample_rate_hz": 24_000.1, "frequency_hz": 14_074_000, "station": "m9psy",
        "latitude": 56.0, "longitude": -3.3, "altitude_m": 30,
        "receiver": {"gps": {"lat": 56.0, "lon": -3.3}, "asl": 3},
    })  # fmt: skip
    attributes = {}
    for name, said in (("frequency", "7074000.5"), ("unixstarttime", "1700000000.123456789")):
        text = str(h.sometimes(said, 0.3)).encode(errors="surrogatepass")
        attributes[name] = text[: h.rng.choice([9, 4000])]
    name = UBERSDR_NAME if h.rng.random() < 0.5 else h.rng.choice([
        KIWI_NAME, "a.wav", "x_1_y.wav", "HDSDR_20260301_120000Z_7100kHz_RF.wav",
        "SDRSharp_00000000_999999Z_" + "9" * 200 + "Hz_IQ.wav",
    ])  # fmt: skip
    files = {name: h.bytes(data)}
    if h.rng.random() < 0.7:
        files[name.removesuffix(".wav") + ".json"] = sidecar
    return Case(None, files, attributes)


def raw(h: Hostile) -> Case:
    """Samples alone, with JSON beside them."""
    suffix, kind = h.rng.choice([("cu8", "u1"), ("cs8", "i1"), ("cs16", "<i2"), ("cf32", "<f4")])
    sidecar = h.json({
        "start_time": "2026-01-21T23:59:59.937123456Z", "start_uncertainty_s": 1e-6,
        "sample_rate_hz": 250_000.1, "frequency_hz": 14_074_000, "station": "m9psy",
        "latitude": 56.0, "longitude": -3.3, "altitude_m": 30,
    })  # fmt: skip
    files = {f"a.{suffix}": h.bytes(h.iq(kind))}
    if h.rng.random() < 0.7:
        files["a.json"] = sidecar
    return Case(None, files, rate_hz=h.rng.choice([12_500.0] * 9 + [None, 0, -1.0, math.nan]))


def collection(h: Hostile) -> Case:
    """A SigMF collection and its one recording."""
    case = sigmf_pair(h)
    digest = hashlib.sha512(case.files["a.sigmf-meta"]).hexdigest()
    streams = h.rng.choice([[{"name": "a", "hash": digest}], [["a", digest]]])
    root = {"collection": {"core:version": "1.2.0", "core:streams": streams}}
    return Case(None, {"all.sigmf-collection": h.json(root), **case.files})


def gnss_pos(h: Hostile) -> Case:
    """A receiver's position, as kiwirecorder writes it."""
    numbers = [h.rng.choice(["53.6", "-7", "9" * 400, "nan", "1e9", "1" * 4090, "٣", "91", "+0."])
               for _ in range(2)]  # fmt: skip
    text = f"d.A = struct('coord', [{numbers[0]},{numbers[1]}], 'host', 'x', 'port', 8073);"
    return Case(None, {"A.txt": h.bytes(text.encode())})


def manifest(h: Hostile) -> Case:
    """A list of sessions, as CSV or YAML, with a recording that it names."""
    row = {
        "source": "S", "source_latitude": "45", "source_longitude": "8", "station": "A",
        "station_latitude": "44", "station_longitude": "8", "file": "a.npy",
        "sample_rate_hz": "12500", "session": "s", "start": "2026-01-01T00:00:00Z",
        "frequency_hz": "7e6",
    }  # fmt: skip
    for key in row:
        row[key] = str(h.sometimes(row[key], 0.03))
    if h.rng.random() < 0.5:
        text = ",".join(row) + "\n" + ",".join(row.values()) + "\n"
        name = "m.csv"
    else:
        own = {key: row.pop(key) for key in ("station", "file", "sample_rate_hz")}
        text = _dumps(h.document({"sessions": [{**row, "recordings": [own]}]}))
        if h.rng.random() < 0.3:
            text = text.replace(
                h.rng.choice('{[":,'), h.rng.choice(["&a ", "*a", "!!x ", "- ", "? "]), 1
            )
        name = "m.yaml"
    data = h.bytes(text.encode(errors="surrogatepass"), 0.1)
    stream = io.BytesIO()
    np.save(stream, np.frombuffer(h.iq("<f4"), np.complex64))
    return Case(None, {name: data, "a.npy": stream.getvalue()})


FORMATS = {
    make.__name__: make
    for make in (
        npy,
        sigmf_pair,
        sigmf_tar,
        sigmf_packed,
        kiwi,
        iq_wav,
        raw,
        collection,
        gnss_pos,
        manifest,
    )
}


def checked(recording, n_bytes):
    """Check a recording, and take the steps that follow in preparation, ingestion and location."""
    for one in (recording, *recording.others):
        assert one.iq.dtype == np.complex64
        assert one.iq.ndim == 1
        assert 0 < one.iq.size <= min(MAX_SAMPLES, n_bytes)
        assert np.isfinite(one.iq.view(np.float32)).all()
        assert type(one.sample_rate_hz) is float
        assert 0 < one.sample_rate_hz < math.inf
        assert one.clock_sigma_s >= 0
        assert type(one.n_dropped_samples) is int
        assert one.center_frequency_hz is None or math.isfinite(one.center_frequency_hz)
        assert one.start_gps_ns is None or type(one.start_gps_ns) is int
        assert one.position is None or all(type(at) is float for at in one.position[:2])
        assert one.position is None or abs(one.position.latitude_deg) <= 90
        assert one.duration_s > 0
    together = align({"A": recording, "B": recording, "C": recording})
    arrivals_of(ARRIVALS, together)
    FEATURES.each({"A": (together["A"].iq, together["A"].sample_rate_hz)})
    decode(sigmf_archive(recording, "a"), "sigmf", name="a")


def read(case, folder, said):
    """Every way to read the files of a case; counts the recordings."""
    n_recordings = 0
    name, data = next(iter(case.files.items()))
    size = 64 + sum(map(len, case.files.values())) + (name.endswith((".gz", ".xz", ".zip")) << 20)

    def attempt(act):
        nonlocal n_recordings
        try:
            found = act()
        except (DataError, FeatureError) as error:
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from None
            said["errors"] += 1
            if "cannot be decoded" in str(error) and error.__cause__ is not None:
                said[f"by the last resort: {place(error.__cause__)}"] += 1
            if not 0 < max(map(len, str(error).splitlines()), default=0) <= LONGEST_LINE:
                raise AssertionError("a long message") from error
            return
        if found is not None and hasattr(found, "iq"):
            n_recordings += 1
            checked(found, size)

    if case.form is not None:
        meta = case.files.get("a.sigmf-meta")
        attempt(lambda: decode(data, case.form, name=name, sample_rate_hz=case.rate_hz,
                               start=START, metadata=meta))  # fmt: skip
    for each, content in case.files.items():
        (folder / each).write_bytes(content)
    for attribute, content in case.attributes.items():
        with contextlib.suppress(OSError):  # not every file system has any
            os.setxattr(folder / name, f"user.{attribute}", content)
    if name in ("m.csv", "m.yaml"):
        attempt(lambda: read_manifest(folder / name, progress=False) and None)
    elif name == "A.txt":
        attempt(lambda: positions_from_gnss_pos(folder) and None)
    else:
        details = Details(sample_rate_hz=case.rate_hz, start=START)

        def inspect():
            for path in recording_paths([folder / name]):
                RecordingFile.inspected(path, details).content()

        attempt(inspect)
        if case.files.keys().isdisjoint({"all.sigmf-collection"}):
            attempt(lambda: read_recording(folder / name, details))
    return n_recordings


def place(error):
    """Where an exception came from, in our code and at its end."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "heimdall" in f.filename]
    last = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    return f"{type(error).__name__} at {' < '.join([last, *ours[::-1][:3]])}: {str(error)[:150]}"


def limit_memory(mib):
    """Let this process take so much more memory, or any if None."""
    n_bytes = resource.RLIM_INFINITY
    if mib is not None:
        n_pages = int(Path("/proc/self/statm").read_text().split()[0])
        n_bytes = n_pages * resource.getpagesize() + (mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, resource.RLIM_INFINITY))


def main():
    """Fuzz; return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--inputs", type=int, default=10**12, help="of all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slowest_s", type=float, default=0, help="a slower input is a finding")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS))
    parser.add_argument(
        "--memory_mib",
        type=int,
        default=128,
        help="what an input of at most some MB may take, beside what the process took before",
    )
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    counts = {name: Counter() for name in given.formats}
    findings = {}

    def too_slow(*_):
        raise TooSlow

    signal.signal(signal.SIGALRM, too_slow)
    end_s = time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "x")
        for number in range(given.inputs):
            if time.monotonic() > end_s:
                break
            form = given.formats[number % len(given.formats)]
            case = FORMATS[form](Hostile(random.Random(f"{given.seed} {number}")))
            counts[form]["inputs"] += 1
            folder.mkdir()
            signal.setitimer(signal.ITIMER_REAL, given.slowest_s)
            try:
                if number >= 40 * len(given.formats):  # after all imports
                    limit_memory(given.memory_mib)
                counts[form]["recordings"] += read(case, folder, counts[form])
            except (Exception, TooSlow) as error:  # noqa: BLE001 - any other error is a finding
                signal.setitimer(signal.ITIMER_REAL, 0)
                limit_memory(None)
                counts[form]["findings"] += 1
                what = f"{form}: {place(error)}"
                if what not in findings:
                    print(f"input {number}, {what}", file=sys.stderr, flush=True)
                    if given.keep:
                        shutil.copytree(folder, given.keep / f"{given.seed}-{number}")
                findings[what] = findings.get(what, 0) + 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            limit_memory(None)
            shutil.rmtree(folder)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps({"peak_mib": round(peak_mib), "formats": counts, "findings": findings}, indent=1)
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
