"""Positions of the stations of recordings on disk, from all the places that may have them.

In this order: a list that somebody wrote, the recording itself (SigMF's `core:geolocation`), the
file that kiwirecorder writes for each receiver, and the catalogue.

Source: github.com/jks-prv/kiwiclient, `kiwirecorder.py`, version 1.11: with `-d FOLDER` it writes
`FOLDER/NAME.txt`, and without it `gnss_pos/NAME.txt` if there is such a folder.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from heimdall_data.catalogue.session import Station
from heimdall_data.distance import great_circle_m
from heimdall_data.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FARTHEST_M = 5_000
"""A receiver's own position may be that of its town hall; beyond this, one of the two is wrong."""
_COORDINATES = re.compile(r"'coord'\s*,\s*\[\s*([-+.\deE]+)\s*,\s*([-+.\deE]+)\s*\]")
_MOST_BYTES = 10_000


def find_station(name: str, stations: Iterable[Station]) -> Station | None:
    """Return the station of this name, or else the only one that differs from it by case alone."""
    stations = tuple(stations)
    exact = [station for station in stations if station.name == name]
    near = [station for station in stations if station.name.casefold() == name.casefold()]
    found = exact or (near if len(near) == 1 else [])
    return found[0] if found else None


def kiwirecorder_station(recording: Path, name: str) -> Station | None:
    """Return the station at the position that kiwirecorder stored beside its recording.

    None: there is no such file, or the receiver's owner has not set its position, which is then
    0, 0.

    Raises:
        IngestError: There is one, and no position can be read from it.
    """
    folder = recording.parent
    files = [
        file
        for file in (*folder.glob("gnss_pos/*.txt"), *folder.glob("*.txt"))
        if file.stem.casefold() == name.casefold()
    ]
    for file in sorted(files, key=lambda file: (file.stem != name, file.parent == folder)):
        try:
            with file.open(encoding="utf-8", errors="replace") as stream:
                text = stream.read(_MOST_BYTES)
        except OSError as error:
            raise IngestError(f"cannot read {file}: {error.strerror}; correct the path") from error
        match = _COORDINATES.search(text)
        if match is None and file.parent == folder:
            continue  # any text may lie beside a recording
        try:
            latitude_deg, longitude_deg = map(float, match.groups() if match else ())
        except ValueError as error:
            raise IngestError(
                f"{file}: no position as kiwirecorder writes it, 'coord', [latitude, longitude]; "
                "record again, or give --stations"
            ) from error
        if (latitude_deg, longitude_deg) != (0.0, 0.0):
            return Station(name, latitude_deg, longitude_deg)
    return None


def agreed_station(listed: Station, own: Station, where: str) -> str:
    """Return a warning if a station's own position is another than the listed one, or else "".

    Raises:
        IngestError: The listed latitude and longitude are swapped.
    """
    apart_m = great_circle_m(listed.position_deg, own.position_deg)
    if apart_m <= FARTHEST_M:
        return ""
    here, there = (f"{s.latitude_deg:.4f}, {s.longitude_deg:.4f}" for s in (listed, own))
    swapped = listed.position_deg[::-1]
    if abs(swapped[0]) <= 90 and great_circle_m(swapped, own.position_deg) <= FARTHEST_M:
        raise IngestError(
            f"{where}: station {listed.name!r} is listed at {here} and says that it is at {there}; "
            "latitude and longitude are swapped"
        )
    return (
        f"{where}: station {listed.name!r} is listed at {here} and says that it is at {there}, "
        f"{apart_m / 1000:.0f} km away; the list is used"
    )
