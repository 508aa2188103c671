"""Recordings on disk as a session to ingest.

KiwiSDR WAVs, NumPy files and SigMF recordings (an archive, or a data file with its metadata
beside it). Each is decoded first, so that nothing unusable is ingested, and then stored as it
is, byte by byte. Positions of stations are not in the files and come from the caller.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heimdall_data.decode import decode
from heimdall_data.errors import IngestError
from heimdall_data.kiwi_wav import kiwi_name
from heimdall_data.new_session import NewRecording, NewSession
from heimdall_data.sessions import Station

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from heimdall_data.new_session import NewSource
    from heimdall_data.recording import Recording

__all__ = ["new_session_from_files", "stations_from_csv"]

FORMATS = {
    ".npy": "npy",
    ".wav": "kiwi_wav",
    ".sigmf": "sigmf",
    ".sigmf-data": "sigmf",
    ".sigmf-meta": "sigmf",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One file as read, before anything is known of the session."""

    station: Station
    payload: bytes
    format: str
    metadata: bytes | None
    recording: Recording
    start: datetime | None

    @property
    def level_db(self) -> float | None:
        """Mean power relative to full scale; None for silence, which has no level in dB."""
        power = float(np.mean(np.abs(self.recording.iq) ** 2, dtype=np.float64))
        return 10 * float(np.log10(power)) if power > 0 else None


def new_session_from_files(
    paths: Mapping[str, Path] | Iterable[Path],
    source: NewSource,
    stations: Iterable[Station],
    *,
    name: str | None = None,
    start: datetime | None = None,
    sample_rate_hz: float | None = None,
) -> NewSession:
    """A session of one transmission of a source, as these files hold it.

    Args:
        paths: A file for each station's name; or files whose own names tell the station:
            `{utc}_{Hz}_{station}_iq.wav` as KiwiSDR's recorder writes it,
            `websdr_{station}.npy`, or `{station}.npy`.
        source: What transmitted, and where.
        stations: All stations that may occur, with their positions.
        name: The session's name; None makes one of the source and the start.
        start: When it began, aware; None takes the earliest time the files tell.
        sample_rate_hz: Of NumPy files, which do not hold it.

    Raises:
        IngestError: A file cannot be read, its station is not known, or the session has no
            start or frequency.
        RecordingError: A file cannot be decoded.
    """
    known = {station.name: station for station in stations}
    pairs = paths.items() if isinstance(paths, Mapping) else ((_station_in(p), p) for p in paths)
    files = [
        _read(Path(path), _known(station, known, Path(path)), sample_rate_hz, start)
        for station, path in pairs
    ]
    if not files:
        raise IngestError(f"no file for the session of {source.name!r}; give at least one")
    began = start or min((f.start for f in files if f.start is not None), default=None)
    if began is None:
        raise IngestError(
            f"none of the {len(files)} files of {source.name!r} tells when it was recorded; "
            f"give the session's start"
        )
    return NewSession(
        source=source,
        measurements=tuple(_new_recording(file, source) for file in files),
        name=name or f"{source.name} {began:%Y-%m-%d %H:%M:%S}",
        start=began,
        duration_s=max(file.recording.duration_s for file in files),
    )


def stations_from_csv(path: Path) -> tuple[Station, ...]:
    """Stations of a CSV file with the columns name, latitude, longitude, and maybe altitude_m.

    Raises:
        IngestError: The file cannot be read, lacks a column, or holds what is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise IngestError(f"cannot read the stations in {path}: {error}") from error
    return tuple(_station(row, f"{path}, line {line}") for line, row in enumerate(rows, 2))


def _station(row: Mapping[str, str | None], where: str) -> Station:
    if missing := [column for column in ("name", "latitude", "longitude") if not row.get(column)]:
        raise IngestError(f"{where} has no {' and no '.join(missing)}; found {dict(row)}")
    altitude = row.get("altitude_m")
    try:
        return Station(
            str(row["name"]).strip(),
            float(str(row["latitude"])),
            float(str(row["longitude"])),
            float(altitude) if altitude else None,
        )
    except ValueError as error:
        raise IngestError(f"{where}: {error}; give degrees and metres as numbers") from error


def _station_in(path: Path) -> str:
    """The station that a file's own name tells."""
    named = kiwi_name(Path(path).name)
    return named.station if named else Path(path).stem.removeprefix("websdr_")


def _known(name: str, stations: Mapping[str, Station], path: Path) -> Station:
    if name in stations:
        return stations[name]
    near = difflib.get_close_matches(name, stations, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(stations) or 'none'}"
    raise IngestError(f"{path}: the position of station {name!r} is not given; {hint}")


def _read(
    path: Path, station: Station, sample_rate_hz: float | None, start: datetime | None
) -> _File:
    """Read and decode a file."""
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise IngestError(f"{path}: {path.suffix!r} is none of {', '.join(FORMATS)}; convert it")
    if form == "npy" and sample_rate_hz is None:
        raise IngestError(f"{path}: a NumPy file does not hold its sample rate; give it")
    beside = path.suffix.lower() in (".sigmf-data", ".sigmf-meta")
    try:
        payload = (path.with_suffix(".sigmf-data") if beside else path).read_bytes()
        metadata = path.with_suffix(".sigmf-meta").read_bytes() if beside else None
    except OSError as error:
        raise IngestError(f"cannot read the recording: {error}") from error
    recording = decode(
        payload,
        form,
        name=path.name,
        sample_rate_hz=sample_rate_hz,
        start=start,
        metadata=metadata,
    )
    named = kiwi_name(path.name)
    return _File(
        station=station,
        payload=payload,
        format=form,
        metadata=metadata,
        recording=recording,
        # Without a lock the recorder's own clock is what there is.
        start=recording.start_utc or (named.start if named else None),
    )


def _new_recording(file: _File, source: NewSource) -> NewRecording:
    frequency_hz = file.recording.center_frequency_hz or source.frequency_hz
    if frequency_hz is None:
        raise IngestError(
            f"neither the recording of {file.station.name!r} nor the source {source.name!r} "
            f"tells the frequency; give the source's"
        )
    return NewRecording(
        station=file.station,
        payload=file.payload,
        format=file.format,
        metadata=file.metadata,
        sample_rate_hz=file.recording.sample_rate_hz,
        n_samples=len(file.recording.iq),
        frequency_hz=frequency_hz,
        signal_strength_db=file.level_db,
        start=file.start,
    )
