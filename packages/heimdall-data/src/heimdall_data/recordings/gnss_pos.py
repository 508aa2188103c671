"""Positions of KiwiSDR receivers, as their recorder writes them for Octave.

With a folder `gnss_pos`, `kiwirecorder.py` writes a file `{station}.txt` for each receiver that
has a GNSS position: `d.DF0KL = struct('coord', [53.665337,7.282766], 'host', 'x', 'port', 8073);`.

Source: github.com/jks-prv/kiwiclient, `kiwirecorder.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from heimdall_features.names import composed

from heimdall_data.errors import RecordingError
from heimdall_data.recordings.recording import ReceiverPosition, require_on_globe

if TYPE_CHECKING:
    from pathlib import Path

_NUMBER = r"\s*([+-]?\d+(?:\.\d*)?)\s*"
_LINE = re.compile(rf"d\.\S+\s*=\s*struct\('coord',\s*\[{_NUMBER},{_NUMBER}\]", re.ASCII)
_LONGEST_BYTES = 4096


def positions_from_gnss_pos(
    folder: Path, station: str | None = None
) -> dict[str, ReceiverPosition]:
    """Return the position of each station that has a file in the folder.

    The file's name is the station's, because Octave's names have no hyphens. Text files that do
    not begin with `d.` are left out. With `station`, only the files of that name, in capital
    letters or not, are read.

    Raises:
        RecordingError: The folder or a file cannot be read, or has no position on the globe.
    """
    found = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() != ".txt" or not path.is_file():
                continue
            if (
                station is not None
                and composed(path.stem).casefold() != composed(station).casefold()
            ):
                continue
            with path.open("rb") as file:
                text = file.read(_LONGEST_BYTES).decode(errors="replace").lstrip()
            if text.startswith("d."):
                found[composed(path.stem)] = _position(text, path)
    except OSError as error:
        raise RecordingError(f"cannot read the receivers' positions: {error}") from error
    return found


def _position(text: str, path: Path) -> ReceiverPosition:
    match = _LINE.match(text)
    if match is None:
        raise RecordingError(
            f"{path}: {text[:80]!r} is not `d.NAME = struct('coord', [latitude,longitude], ...`; "
            f"record the position again"
        )
    latitude_deg, longitude_deg = float(match[1]), float(match[2])
    try:
        require_on_globe(latitude_deg, longitude_deg)
    except ValueError as error:
        raise RecordingError(f"{path}: {error}") from None
    return ReceiverPosition(latitude_deg, longitude_deg)
