"""When each receiver of a session heard the transmission, by its recordings' own clocks."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from heimdall_features import ARRIVAL_COLUMNS, ArrivalExtractor, ClockedRecording, FeatureError

from heimdall_data.distance import great_circle_m
from heimdall_data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt
    from heimdall_features import ArrivalConfig, FeatureConfig

    from heimdall_data.recording import Recording
    from heimdall_data.sessions import Session

__all__ = ["arrivals_of", "clocked", "extractor_beside", "require_reach"]


def extractor_beside(
    features: FeatureConfig, arrivals: ArrivalConfig | None
) -> ArrivalExtractor | None:
    """What measures arrivals, in rows that are the channels of the features.

    Raises:
        DataError: The two have other receivers, the same in another order, or another rate.
    """
    if arrivals is None:
        return None
    if arrivals.receivers != features.receivers:
        raise DataError(
            f"arrivals are of {arrivals.receivers} and features of {features.receivers}; give "
            "both the same receivers in the same order"
        )
    if arrivals.sample_rate_hz != features.sample_rate_hz:
        raise DataError(
            f"arrivals are measured at {arrivals.sample_rate_hz:g} Hz and features at "
            f"{features.sample_rate_hz:g} Hz; give both the recordings' rate: above it there is "
            "no noise to tell how sure a time is"
        )
    return ArrivalExtractor(arrivals)


def require_reach(arrivals: ArrivalConfig, sessions: Iterable[Session]) -> None:
    """See that no two receivers are further apart than arrivals are looked for.

    Raises:
        DataError: Two are; times of arrival would be wrong, and not missing.
    """
    places = {
        measurement.station: measurement.station_deg
        for session in sessions
        for measurement in session.measurements
        if measurement.station in arrivals.receivers
    }
    for (one, here), (other, there) in itertools.combinations(sorted(places.items()), 2):
        apart_m = great_circle_m(here, there)
        # The Earth is no sphere: distances differ by half a per cent.
        if apart_m > 1.006 * arrivals.baseline_m:
            raise DataError(
                f"baseline_m is {arrivals.baseline_m:g}, and {one} and {other} are "
                f"{apart_m / 1000:.0f} km apart; give the largest distance between two receivers"
            )


def arrivals_of(
    extract: ArrivalExtractor, recordings: Mapping[str, Recording]
) -> tuple[npt.NDArray[np.float32], str]:
    """The arrival times of a session, and why there are none.

    Args:
        extract: What measures them.
        recordings: The usable ones, by receiver.

    Returns:
        `(receivers, 5)` as `ArrivalExtractor` gives them, and an empty string; or all zero
        and the reason. A session without arrival times is still one of levels.
    """
    rows = np.zeros((len(extract.config.receivers), len(ARRIVAL_COLUMNS)), np.float32)
    heard = clocked(recordings)
    if len(heard) < 2:
        return rows, (
            f"{len(heard)} of {len(recordings)} recordings ({', '.join(recordings)}) have a "
            "locked clock; a difference of times takes two"
        )
    try:
        rows = extract(heard)
    except FeatureError as error:
        return rows, str(error)
    return rows, "" if rows.any() else f"no two of {', '.join(heard)} hear one transmission"


def clocked(recordings: Mapping[str, Recording]) -> dict[str, ClockedRecording]:
    """Those whose clock is GNSS's, by receiver, with starts in seconds after the earliest.

    Seconds since 1980 in a float would be rounded to 240 ns: 70 m.
    """
    starts_ns = {
        name: recording.start_gps_ns
        for name, recording in recordings.items()
        if recording.clock_locked and recording.start_gps_ns is not None
    }
    first_ns = min(starts_ns.values(), default=0)
    return {
        name: ClockedRecording(
            recordings[name].iq, recordings[name].sample_rate_hz, (start_ns - first_ns) * 1e-9
        )
        for name, start_ns in starts_ns.items()
    }
