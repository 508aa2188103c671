"""`heimdall calibrate`: delays of receivers, from recordings of known transmitters."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from datetime import datetime  # noqa: F401 - for the annotations that the filter inherits
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter
from heimdall_data.catalogue.session import SessionFilter

from heimdall_trainer.config import FILTER
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import TrainerError, UsageError, one_line
from heimdall_trainer.events import LOGGER
from heimdall_trainer.flags import Switch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heimdall_data import Details
    from heimdall_data.transmission import Transmission
    from heimdall_locate import Calibration, Site, Transmitter

    Known = tuple[str, Transmission, Transmitter]
    """Name of a session for messages, its recordings, and the transmitter."""

NOWHERE = Connections()
SUSPECT_SPREAD_S = 100e-6
"""Times 30 km of path from session to session: more than paths and receivers do to ground waves
and lines of sight, and what a transmitter at a wrong place does."""
MAX_PRINTED = 20
"""Sessions without arrival times that are listed, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFilter(SessionFilter):
    """Conditions on the catalogue's sessions; `--stations` is a file here."""

    stations: Annotated[tuple[str, ...] | None, Parameter(parse=False)] = None


EVERY = KnownFilter()


def calibrate(
    *files: Path,
    stations: Path | None = None,
    latitude: float | None = None,
    longitude: float | None = None,
    altitude_m: float = 0.0,
    frequency_hz: float | None = None,
    clock_uncertainty_s: float | None = None,
    sample_rate_hz: float | None = None,
    full_scale: float | None = None,
    only: Annotated[KnownFilter, FILTER] = EVERY,
    output: Path | None = None,
    json: Switch = False,
    connections: Connections = NOWHERE,
) -> None:
    """Learn the constant delays of receivers from recordings of known transmitters.

    `heimdall locate --calibration FILE` subtracts them. Without files, the approved sessions of
    the catalogue are used. With files, all are of one transmitter; those that were recorded at
    the same time are a session.

    Parameters
    ----------
    files
        Recordings with a clock, or folders of them.
    stations
        CSV with the columns name, latitude, longitude and perhaps altitude_m.
    latitude
        Latitude of the transmitter of the files, degrees north (WGS84).
    longitude
        Longitude of the transmitter of the files, degrees east (WGS84).
    altitude_m
        Its height above the WGS84 ellipsoid.
    frequency_hz
        Its carrier, which decides on the propagation; that of the recordings when unset.
    clock_uncertainty_s
        Standard deviation of the start in files that state a start and no uncertainty.
    sample_rate_hz
        Of NumPy files and raw samples, which do not hold it.
    full_scale
        Largest value of the converter, such as 32768, in files with floats that are its counts.
    output
        Write the calibration to this JSON file.
    json
        Print the calibration as JSON instead of a table.
    """
    from heimdall_trainer.calibration import delay_lines
    from heimdall_trainer.config import require_writable

    place = (latitude, longitude)
    if bool(files) != (None not in place):
        raise UsageError(
            "--latitude and --longitude are of the transmitter of FILE...; give files and both, or "
            "none of them for the catalogue's sessions"
        )
    for flag, value in (
        ("clock_uncertainty_s", clock_uncertainty_s),
        ("sample_rate_hz", sample_rate_hz),
        ("full_scale", full_scale),
    ):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{flag} is {value}; give a number above 0")
    require_writable(output, "output")
    from heimdall_locate import Transmitter

    if latitude is not None and longitude is not None:
        if only != EVERY:
            raise UsageError("conditions choose sessions of the catalogue; leave them out")
        transmitter = Transmitter(latitude, longitude, altitude_m, frequency_hz)
        from heimdall_data import Details

        details = Details(
            clock_sigma_s=clock_uncertainty_s, sample_rate_hz=sample_rate_hz, full_scale=full_scale
        )
        known = _of_files(files, stations, transmitter, details)
    else:
        known = _of_catalogue(only, connections)
    found = _learned(known)
    worst = max(found.receivers, key=lambda one: one.spread_s)
    if files and worst.spread_s > SUSPECT_SPREAD_S:
        _warn(
            f"the times of {worst.name!r} spread by {1e6 * worst.spread_s:,.0f} us: the position "
            f"of the transmitter ({latitude}, {longitude}) may be wrong, or its --latitude and "
            f"--longitude swapped"
        )
    if output is not None:
        found.save(output)
    print(found.to_json() if json else "\n".join(delay_lines(found)))
    if output is not None and not json:
        print(f"\n{_sessions(found.n_sessions)}; written to {one_line(str(output))}")


def _sessions(number: int) -> str:
    return f"{number} session{'s' * (number != 1)}"


def _warn(warning: str) -> None:
    LOGGER.warning("%s", warning)


def _of_files(
    files: tuple[Path, ...],
    stations: Path | None,
    transmitter: Transmitter,
    details: Details,
) -> Iterator[Known]:
    from dataclasses import replace

    from heimdall_data.ingest.session_files import stations_from_csv
    from heimdall_data.transmission import read_transmission, recorded_together

    listed = stations_from_csv(stations) if stations else ()
    for group in recorded_together(files, details, warn=_warn):
        transmission = read_transmission(group, listed, details=details, warn=_warn)
        carrier_hz = transmitter.frequency_hz or transmission.frequency_hz
        yield group[0].name, transmission, replace(transmitter, frequency_hz=carrier_hz)


def _of_catalogue(only: SessionFilter, connections: Connections) -> Iterator[Known]:
    from heimdall_data import Catalogue
    from heimdall_data.session_reader import SessionReader
    from heimdall_data.transmission import transmission_of
    from heimdall_locate import Transmitter

    from heimdall_trainer.calibration import carrier_hz

    s3 = connections.need_s3()
    with Catalogue(connections.need_database(), default_bucket=s3.raw_iq_bucket) as catalogue:
        sessions = catalogue.sessions(only)
    reader = SessionReader(s3)
    for session in sessions:
        transmitter = Transmitter(*session.position_deg, frequency_hz=carrier_hz(session))
        yield f"session {session.id}", transmission_of(session, reader), transmitter


def _learned(known: Iterator[Known]) -> Calibration:
    """Calibration of sessions; those without arrival times at three receivers are told and left.

    Raises:
        TrainerError: None is left.
    """
    from heimdall_data.recordings.clocked import clocked
    from heimdall_features import FeatureError
    from heimdall_locate import LocateError, Site
    from heimdall_locate import calibrate as calibration_of
    from heimdall_locate.recordings import measure_arrivals

    sites: dict[str, Site] = {}
    rows, transmitters, left = [], [], []
    for name, transmission, transmitter in known:
        here = [Site(s.name, *s.position_deg, s.altitude_m or 0.0) for s in transmission.stations]
        recordings = clocked(transmission.recordings)
        try:
            arrivals = measure_arrivals(recordings, here, transmission.unusable)
        except (LocateError, FeatureError) as error:
            left.append(f"{name}: {one_line(error)}")
            continue
        row = {}
        deviations_s = np.hypot(arrivals.sigma_s, arrivals.coherent_s)
        for site, arrival_s, sigma_s in zip(
            here, arrivals.arrivals_s.tolist(), deviations_s.tolist(), strict=True
        ):
            sites.setdefault(site.name, site)
            if math.isfinite(arrival_s):
                clock_sigma_s = recordings[site.name].clock_sigma_s
                row[site.name] = (arrival_s, math.hypot(sigma_s, clock_sigma_s))
        rows.append(row)
        transmitters.append(transmitter)
    for why in left[:MAX_PRINTED]:
        print(f"not used: {one_line(why)}", file=sys.stderr)
    if len(left) > MAX_PRINTED:
        print(f"... and {len(left) - MAX_PRINTED} more not used", file=sys.stderr)
    if not rows:
        raise TrainerError(
            f"none of {_sessions(len(left))} has arrival times at three receivers; record known "
            "transmitters with GNSS clocks"
        )
    unknown = (math.nan, math.nan)
    table = np.array([[row.get(name, unknown) for name in sites] for row in rows])
    return calibration_of(table[..., 0], [*sites.values()], transmitters, table[..., 1])
