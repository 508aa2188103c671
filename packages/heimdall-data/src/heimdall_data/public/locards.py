"""LocaRDS: times at which ground stations received the messages of aircraft at 1090 MHz.

A folder with `sensors.csv` (`serial`, `latitude`, `longitude`, `height` in m, `type`) and files
`set_*.csv` (`latitude`, `longitude`, `geoAltitude`, `measurements`: a list of `[serial, time of
arrival in ns, level]`; `aircraft` if known). The clocks are those of the receivers' GPS.

Source: M. Schaefer, M. Strohmeier, M. Leonardi and V. Lenders, "LocaRDS: A Localization Reference
Data Set", Sensors 21 (2021), doi 10.3390/s21165516 (CC BY-SA 4.0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_features.outside_json import parsed_json

from heimdall_data.public.columns import PublicDataError, number, place_deg, read_rows

if TYPE_CHECKING:
    from pathlib import Path

    from heimdall_data.ingest.table import Row

FREQUENCY_HZ = 1090e6
_ALTITUDE_M = (-1_000.0, 100_000.0)


@dataclass(frozen=True, slots=True)
class Sensor:
    """A receiver at a known place."""

    serial: str
    latitude_deg: float
    longitude_deg: float
    height_m: float
    """Above the ellipsoid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One transmission of an aircraft; its position is its own report of it."""

    where: str
    """File and line."""
    aircraft: str
    """Empty if the file does not tell."""
    latitude_deg: float
    """NaN if the aircraft did not report it, as the two below."""
    longitude_deg: float
    altitude_m: float
    """Above the ellipsoid."""
    sensors: tuple[Sensor, ...]
    """Those of known place that received it."""
    arrivals_s: tuple[float, ...]
    """When each received it, after the first of them."""


def read_locards(folder: Path) -> tuple[Message, ...]:
    """Read all `set_*.csv` of a folder in the format of LocaRDS, in the order of their names.

    Raises:
        DataError: A file is missing or not in the format; the message names file, line and column.
    """
    sensors = _read_sensors(folder / "sensors.csv")
    paths = sorted(folder.glob("set_*.csv"))
    if not paths:
        raise PublicDataError(f"{folder}: no file set_*.csv; give the folder of the data set")
    columns = ("latitude", "longitude", "geoaltitude", "measurements")
    return tuple(_message(row, sensors) for path in paths for row in read_rows(path, columns).rows)


def _read_sensors(path: Path) -> dict[str, Sensor | None]:
    """Sensors by serial; None for one whose place is not known, which is written as 0, 0."""
    sensors: dict[str, Sensor | None] = {}
    for row in read_rows(path, ("serial", "latitude", "longitude", "height")).rows:
        serial = row.cells.get("serial", "")
        if not serial or serial in sensors:
            raise PublicDataError(
                f"{row.where}, column 'serial': {serial!r} is empty or there twice; correct it"
            )
        place = place_deg(row, blank=0.0)
        height_m = number(row, "height", *_ALTITUDE_M, blank=0.0)
        sensors[serial] = Sensor(serial, *place, height_m) if any(place) else None
    return sensors


def _message(row: Row, sensors: dict[str, Sensor | None]) -> Message:
    latitude_deg, longitude_deg = place_deg(row, blank=math.nan)
    if math.isnan(latitude_deg) != math.isnan(longitude_deg):
        raise PublicDataError(
            f"{row.where}: a latitude without a longitude, or the other way round; give both"
        )
    times_ns: dict[Sensor, int] = {}
    for serial, time_ns in _measurements(row):
        if serial not in sensors:
            raise PublicDataError(
                f"{row.where}, column 'measurements': sensor {serial} is not in sensors.csv; add it"
            )
        sensor = sensors[serial]
        if sensor in times_ns:
            raise PublicDataError(
                f"{row.where}, column 'measurements': sensor {serial} is there twice; keep one"
            )
        if sensor is not None:
            times_ns[sensor] = time_ns
    first_ns = min(times_ns.values(), default=0)
    return Message(
        where=row.where,
        aircraft=row.cells.get("aircraft", ""),
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        altitude_m=number(row, "geoaltitude", *_ALTITUDE_M, blank=math.nan),
        sensors=tuple(times_ns),
        arrivals_s=tuple((time_ns - first_ns) * 1e-9 for time_ns in times_ns.values()),
    )


def _measurements(row: Row) -> list[tuple[str, int]]:
    """Serial and time of arrival in ns of each measurement."""
    text = row.cells.get("measurements", "")
    try:
        found = parsed_json(text)
        # 64 bits, which the difference of any two in seconds fits.
        measured = [(str(serial), int(np.int64(int(time_ns)))) for serial, time_ns, *_ in found]
    except (TypeError, ValueError, OverflowError) as error:
        raise PublicDataError(
            f"{row.where}, column 'measurements': {text[:80]!r} is not a list of [serial, time in "
            f"ns, level] ({error}); correct it"
        ) from error
    return measured
