"""`heimdall locate`: where an unknown transmitter is, from recordings of it with clocks.

Torch is never imported, and a database or an object store only if a flag asks for one.
"""

from __future__ import annotations

import json as json_format
import math
import sys
import uuid
from dataclasses import dataclass, replace
from datetime import datetime  # noqa: F401 - cyclopts reads the filter's types here
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from heimdall_data.catalogue.session import SessionFilter

from heimdall_trainer.config import FILTER
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import TrainerError, UsageError, is_expected, one_line
from heimdall_trainer.events import LOGGER
from heimdall_trainer.flags import Switch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from heimdall_data import Details, Station
    from heimdall_data.transmission import Transmission
    from heimdall_export import Predictor
    from heimdall_features import ClockedRecording
    from heimdall_locate import Calibration, Position, Site

NOWHERE = Connections()
NOT_HERE = Parameter(parse=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlocatedFilter(SessionFilter):
    """Conditions on the catalogue's sessions; `--stations` is a file here."""

    stations: Annotated[tuple[str, ...] | None, NOT_HERE] = None
    max_error_margin_m: Annotated[float | None, NOT_HERE] = None


ANY = UnlocatedFilter()


def locate(
    *files: Path,
    stations: Path | None = None,
    model: str | None = None,
    calibration: Path | None = None,
    output: Path | None = None,
    session: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    only: Annotated[UnlocatedFilter, FILTER] = ANY,
    frequency_hz: float | None = None,
    altitude_m: float | None = None,
    propagation: Literal["line-of-sight", "ground-wave", "sky-wave"] | None = None,
    clock_uncertainty_s: float | None = None,
    sample_rate_hz: float | None = None,
    full_scale: float | None = None,
    json: Switch = False,
    connections: Connections = NOWHERE,
) -> None:
    """Locate a transmitter from recordings of one transmission at three or more receivers.

    Recordings need a clock, such as KiwiSDR's WAV with GNSS stamps has. Without files, sessions
    of the catalogue are located, whose source has no position.

    Parameters
    ----------
    files
        One recording of each receiver, or a folder of such files.
    stations
        CSV with the columns name, latitude, longitude and perhaps altitude_m.
    model
        Also use levels: a model file, s3://bucket/key, or models:/name@alias.
    calibration
        Delays of the receivers, as `heimdall calibrate` writes them; the model's when unset.
    output
        Folder for position.json, .geojson, .kml, .cot.xml and map.html, and for the metadata of
        SigMF recordings with the position as an annotation.
    session
        Id of a session of the catalogue, whether its source has a position or not.
    frequency_hz
        Carrier, which decides on the propagation; that of the recordings when unset.
    altitude_m
        Height of the transmitter above the WGS84 ellipsoid; on the ground when unset.
    propagation
        Path of the waves; by frequency when unset.
    clock_uncertainty_s
        Standard deviation of the start in files that state a start and no uncertainty.
    sample_rate_hz
        Of NumPy files and raw samples, which do not hold it.
    full_scale
        Largest value of the converter, such as 32768, in files with floats that are its counts.
    json
        Print position.json instead of text; of sessions, a line each.
    """
    from_catalogue = bool(session) or only != ANY
    if bool(files) == from_catalogue:
        raise UsageError("give recordings, or --session or other conditions on the catalogue's")
    for flag, value in (
        ("frequency_hz", frequency_hz),
        ("clock_uncertainty_s", clock_uncertainty_s),
        ("sample_rate_hz", sample_rate_hz),
        ("full_scale", full_scale),
    ):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{flag} is {value}; give a number above 0")
    if output is not None and output.exists() and not output.is_dir():
        raise TrainerError(f"--output {output} is a file; give a folder")
    from heimdall_locate import write_position
    from heimdall_locate.summary import summary

    learned = Learned.read(model, calibration, connections)
    found: Iterator[tuple[str, Callable[[], Transmission]]]
    if files:
        from heimdall_data import Details

        details = Details(
            clock_sigma_s=clock_uncertainty_s, sample_rate_hz=sample_rate_hz, full_scale=full_scale
        )
        found = iter([("", partial(_of_files, files, stations, details, connections))])
    else:
        found = _of_sessions(session, only, connections)
    failed = []
    for identity, read in found:
        try:
            transmission = read()
            sites = _sites(transmission)
            position = learned.locate(
                transmission,
                sites,
                frequency_hz=frequency_hz or transmission.frequency_hz,
                altitude_m=altitude_m,
                propagation=propagation,
            )
            termination = "; ".join((position.termination, *transmission.doubts))
            position = replace(position, termination=termination)
        except ValueError as error:
            if not (identity and is_expected(error)):
                raise
            failed.append(identity)
            print(f"session {identity}: {one_line(error)}", file=sys.stderr)
            continue
        written: tuple[Path, ...] = ()
        if output is not None:
            written = write_position(
                position,
                sites,
                output / identity,
                metadata=_sigmf_metadata(transmission, position),
                warn=partial(LOGGER.warning, "%s"),
            )
        if json:
            about = {"session": identity} if identity else {}
            print(json_format.dumps(about | position.to_dict(), indent=None if identity else 1))
            continue
        if identity:
            print(f"session      {identity}")
        print(summary(position))
        if written:
            print(f"\nfiles        {one_line(', '.join(map(str, written)))}")
    if failed:
        raise TrainerError(f"{len(failed)} sessions could not be located")


def _of_files(
    files: tuple[Path, ...],
    stations: Path | None,
    details: Details,
    connections: Connections,
) -> Transmission:
    from heimdall_data.ingest.session_files import stations_from_csv
    from heimdall_data.transmission import read_transmission

    @cache
    def catalogued() -> tuple[Station, ...]:
        if not connections.database_url:
            return ()
        from heimdall_data import Catalogue
        from heimdall_data.errors import CatalogueError

        try:
            with Catalogue(connections.database_url) as catalogue:
                return tuple(catalogue.stations())
        except CatalogueError as error:
            LOGGER.warning("no positions from the catalogue: %s", one_line(error))
            return ()

    return read_transmission(
        files,
        stations_from_csv(stations) if stations else (),
        catalogued=catalogued,
        details=details,
        warn=partial(LOGGER.warning, "%s"),
    )


def _of_sessions(
    ids: tuple[str, ...], only: SessionFilter, connections: Connections
) -> Iterator[tuple[str, Callable[[], Transmission]]]:
    """The chosen sessions: id, and what reads the recordings.

    Raises:
        UsageError: An id is no UUID.
        TrainerError: There is no such session.
    """
    for identity in ids:
        try:
            uuid.UUID(identity)
        except ValueError:
            raise UsageError(f"--session {identity!r} is no UUID") from None
    from heimdall_data import Catalogue
    from heimdall_data.session_reader import SessionReader
    from heimdall_data.transmission import transmission_of

    s3 = connections.need_s3()
    with Catalogue(connections.need_database(), default_bucket=s3.raw_iq_bucket) as catalogue:
        sessions = catalogue.unlocated_sessions(only, ids or None)
    missing = {str(uuid.UUID(each)) for each in ids} - {each.id for each in sessions}
    if missing or not sessions:
        raise TrainerError(
            f"the catalogue has no session {min(missing)} with recordings"
            if missing
            else "the catalogue has no such session of a source without a position"
        )
    reader = SessionReader(s3)
    for session in sessions:
        yield session.id, partial(transmission_of, session, reader)


def _sigmf_metadata(transmission: Transmission, position: Position) -> dict[str, Mapping[str, Any]]:
    """Metadata of the local SigMF recordings in the answer, by the file's name without its end."""
    from heimdall_data.recordings.formats import suffix_of
    from heimdall_data.recordings.sigmf_recording import sigmf_metadata

    unused = {one.name for one in position.receivers if not one.used}
    return {
        path.name.removesuffix(suffix_of(path)): sigmf_metadata(metadata, path.name)
        for name, path in transmission.files.items()
        if name not in unused and (metadata := transmission.recordings[name].metadata) is not None
    }


def _sites(transmission: Transmission) -> list[Site]:
    from heimdall_locate import Site

    return [
        Site(each.name, *each.position_deg, each.altitude_m or 0.0)
        for each in transmission.stations
    ]


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What earlier sessions told about the receivers."""

    predictor: Predictor | None = None
    calibration: Calibration | None = None

    @classmethod
    def read(cls, model: str | None, calibration: Path | None, connections: Connections) -> Learned:
        """Read a model and a calibration file; without a file, the model's calibration is used.

        Raises:
            ExportError: There is no such model, or it cannot be used.
            LocateError: The calibration cannot be read.
            TrainerError: No object store is configured for the model's address.
        """
        predictor = None
        known = None if calibration is None else _calibration_of(calibration)
        if model is not None:
            from heimdall_data.recordings.recording import MAX_SAMPLES
            from heimdall_export import Predictor
            from heimdall_locate import Calibration

            predictor = Predictor(
                model,
                warm_up=False,
                stores=connections.model_stores(model),
                most_samples=MAX_SAMPLES,
            )
            known = known or Calibration.from_metadata(predictor.metadata)
        return cls(predictor=predictor, calibration=known)

    def locate(
        self,
        transmission: Transmission,
        sites: list[Site],
        *,
        frequency_hz: float | None,
        altitude_m: float | None,
        propagation: str | None,
    ) -> Position:
        """Position of the transmitter of some recordings.

        Raises:
            LocateError: Too few of them can be used.
            TrainerError: The model knows none of their receivers.
        """
        from heimdall_data.recordings.clocked import clocked
        from heimdall_locate import locate_recordings

        recordings = clocked(transmission.recordings)
        return locate_recordings(
            recordings,
            sites,
            unusable=transmission.unusable,
            calibration=self.calibration,
            frequency_hz=frequency_hz,
            altitude_m=altitude_m,
            propagation=propagation,
            prior=self._prior(transmission, recordings),
        )

    def _prior(
        self, transmission: Transmission, recordings: Mapping[str, ClockedRecording]
    ) -> Position | None:
        """The model's answer from levels alone, by the receivers that it knows."""
        if self.predictor is None:
            return None
        names = {each.name.casefold(): each.name for each in self.predictor.receivers}
        heard = {
            names[name.casefold()]: recordings.get(name, (one.iq, one.sample_rate_hz))
            for name, one in transmission.recordings.items()
            if name.casefold() in names
        }
        if not heard:
            raise TrainerError(
                f"the model knows none of {', '.join(transmission.recordings)}: its receivers are "
                f"{', '.join(names.values())}"
            )
        return self.predictor.predict(heard, timing=False)


def _calibration_of(path: Path) -> Calibration:
    """Read a calibration file, and tell of receivers that cannot be where they are said to be."""
    from heimdall_locate import Calibration

    found = Calibration.load(path)
    for one in found.receivers:
        if one.position_fault is not None:
            print(
                f"warning: by the calibration, {one.name!r} is "
                f"{one.position_fault.distance_m / 1000:.1f} km from its stated position",
                file=sys.stderr,
            )
    return found
