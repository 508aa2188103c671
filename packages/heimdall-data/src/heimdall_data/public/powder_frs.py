"""POWDER FRS: levels of hand-held transmitters at the receivers of a campus.

A folder with `receivers.csv` (`name`, `latitude`, `longitude`) and `sessions.csv` (`timestamp`,
`latitude`, `longitude`, `part`, and a column of each receiver: power in dB, empty where nothing was
heard). Receivers are not calibrated: each has an offset of its own.

Source: repository mhrafi66/wireless_localization_frs_uofu (MIT).
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from heimdall_data.ingest.new_session import NewRecording, NewSession, NewSource
from heimdall_data.ingest.session_files import stations_from_csv
from heimdall_data.public.columns import PublicDataError, number, place_deg, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from heimdall_data.catalogue.session import Station

FREQUENCY_HZ = 462.7e6
SAMPLE_RATE_HZ = 12_500.0
"""One channel of the service."""
N_SAMPLES = 2048 + 31
"""Fewest samples that give 32 different frames of the default features."""
NOISE_DB = -20.0
"""Noise of the made recordings, over the faintest reading."""
_DEVIATION_HZ = 1_000.0
_LIMIT_DB = 1_000.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PowderFrs:
    """Levels of `n` transmissions, in the order of the file."""

    receivers: tuple[Station, ...]
    """In the order of the columns of `level_db`."""
    start: tuple[datetime, ...]
    """`(n,)`; times without a zone are taken as UTC."""
    position_deg: NDArray[np.float64]
    """`(n, 2)`: latitude and longitude of the transmitter."""
    part: NDArray[np.str_]
    """`(n,)`: `train`, or the name of a part to test with."""
    level_db: NDArray[np.float64]
    """`(n, receivers)`: received power; NaN where nothing was heard."""
    full_scale_db: float
    """Greatest reading of the file, which is full scale in made recordings."""
    noise_db: float
    """Noise of made recordings, in their whole band: `NOISE_DB` over the faintest reading."""

    def only(self, part: str) -> PowderFrs:
        """Return the transmissions of a part."""
        rows = self.part == part
        return replace(
            self,
            start=tuple(itertools.compress(self.start, rows)),
            position_deg=self.position_deg[rows],
            part=self.part[rows],
            level_db=self.level_db[rows],
        )

    def recordings(self, row: int) -> dict[str, NDArray[np.complex64]]:
        """Make IQ of a transmission: a signal of constant envelope in noise.

        Its power at each receiver is the reading; no other property of the signal is known.

        Returns:
            By receiver that heard it, `(N_SAMPLES,)` at `SAMPLE_RATE_HZ`.
        """
        rng = np.random.default_rng(row)
        heard = np.flatnonzero(np.isfinite(self.level_db[row]))
        time_s = np.arange(N_SAMPLES) / SAMPLE_RATE_HZ
        tone_hz, phase = rng.uniform((300.0, 0.0), (600.0, 2 * np.pi))
        swing = _DEVIATION_HZ / tone_hz
        signal = np.exp(1j * (swing * np.sin(2 * np.pi * tone_hz * time_s) + phase))
        noise = rng.normal(scale=np.sqrt(0.5), size=(len(heard), N_SAMPLES, 2)) @ [1, 1j]
        reading_db = self.level_db[row, heard, None]
        made = 10 ** (reading_db / 20) * signal + 10 ** (self.noise_db / 20) * noise
        made *= 10 ** (-self.full_scale_db / 20)
        names = [self.receivers[channel].name for channel in heard]
        return dict(zip(names, made.astype(np.complex64), strict=True))

    def sessions(self) -> Iterator[NewSession]:
        """Yield the transmissions as approved sessions, with made recordings (`recordings`).

        Each is of a source of its own. A receiver that heard nothing has no measurement, and a
        transmission that nobody heard is left out.
        """
        for row, (start, (latitude_deg, longitude_deg)) in enumerate(
            zip(self.start, self.position_deg.tolist(), strict=True)
        ):
            made, name = self.recordings(row), f"FRS {self.part[row]} {row}"
            measurements = tuple(
                NewRecording(
                    station=station,
                    payload=_npy(made[station.name]),
                    format="npy",
                    sample_rate_hz=SAMPLE_RATE_HZ,
                    n_samples=N_SAMPLES,
                    frequency_hz=FREQUENCY_HZ,
                    signal_strength_db=float(level_db),
                )
                for station, level_db in zip(self.receivers, self.level_db[row], strict=True)
                if station.name in made
            )
            if measurements:
                yield NewSession(
                    source=NewSource(
                        name=name, latitude_deg=latitude_deg, longitude_deg=longitude_deg
                    ),
                    measurements=measurements,
                    name=name,
                    start=start,
                    duration_s=N_SAMPLES / SAMPLE_RATE_HZ,
                )


def read_powder_frs(folder: Path) -> PowderFrs:
    """Read a folder in the format of POWDER FRS.

    Raises:
        DataError: A file is missing or not in the format; the message names file, line and column.
    """
    receivers = stations_from_csv(folder / "receivers.csv")
    # Columns are found in any case of letters.
    columns = {station.name.lower(): station.name for station in receivers}
    if len(columns) < len(receivers):
        raise PublicDataError(
            f"{folder / 'receivers.csv'}: two receivers differ only in the case of their letters; "
            "rename one"
        )
    table = read_rows(
        folder / "sessions.csv", ["timestamp", "latitude", "longitude", "part", *columns]
    )
    if unknown := table.columns.keys() - {*columns, "timestamp", "latitude", "longitude", "part"}:
        name = min(unknown)
        raise PublicDataError(
            f"{table.columns[name]}, column {name!r}: not a receiver of receivers.csv; add its "
            "position there, or remove the column"
        )
    start, part = [], []
    for row in table.rows:
        try:
            moment = datetime.fromisoformat(row.cells.get("timestamp", ""))
        except ValueError as error:
            raise PublicDataError(
                f"{row.where}, column 'timestamp': {error}; write 2022-07-05 14:12:32"
            ) from error
        start.append(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        if "part" not in row.cells:
            raise PublicDataError(f"{row.where}, column 'part': it is empty; write train or test")
        part.append(row.cells["part"])
    level_db = np.array(
        [
            [number(row, name, -_LIMIT_DB, _LIMIT_DB, blank=np.nan) for name in columns]
            for row in table.rows
        ]
    )
    if np.isnan(level_db).all():
        raise PublicDataError(f"{folder / 'sessions.csv'}: no receiver heard anything; add levels")
    return PowderFrs(
        receivers=receivers,
        start=tuple(start),
        position_deg=np.array([place_deg(row) for row in table.rows]),
        part=np.array(part),
        level_db=level_db,
        full_scale_db=float(np.nanmax(level_db)),
        noise_db=float(np.nanmin(level_db)) + NOISE_DB,
    )


def _npy(iq: NDArray[np.complex64]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, iq, allow_pickle=False)
    return buffer.getvalue()
