"""Position of a transmitter from recordings of one transmission by receivers with clocks.

One configuration serves any recordings: their lowest sample rate, which all of them support, and
lags as long as the distances between their sites allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from heimdall_features import ArrivalConfig, ArrivalExtractor
from heimdall_features.names import composed

from heimdall_locate.errors import LocateError
from heimdall_locate.locate import locate
from heimdall_locate.position import Position, ReceiverResult
from heimdall_locate.sites import Float64, Site, geodesic_m

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from heimdall_features import ClockedRecording

    from heimdall_locate.calibration import Calibration

Value = TypeVar("Value")

FEWEST_CLOCKS: Final = 3
"""A position in the plane needs two time differences."""
BASELINE_MARGIN: Final = 1.05
"""Lags may exceed the largest distance by this factor: errors of clocks and of positions, and paths
that are longer than the geodesic or slower than light."""
SHORTEST_BASELINE_M: Final = 10_000.0
"""Receivers in one town have lags of a few samples, which detours and clocks exceed."""
MOST_SAMPLES: Final = 2**22
"""Most samples that are compared, 22 s at 192 kHz and 6 min at 12 kHz: some 250 bytes each."""
LONGEST_BASELINE_M: Final = 20_100_000.0
"""Half the Earth's circumference, the most that `ArrivalConfig` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Arrival times of one transmission; arrays have one value a site."""

    sites: tuple[Site, ...]
    """Antennas of the receivers."""
    arrivals_s: Float64
    """After an unknown zero common to all; NaN where there is none."""
    sigma_s: Float64
    """Standard deviation from noise; NaN where there is no arrival."""
    coherent_s: Float64
    """Standard deviation from what does not average out; NaN where there is no arrival."""
    snr_db: Float64
    """Signal to noise in the compared band; NaN where there is no arrival."""
    reasons: Mapping[str, str]
    """Reason by site why it has no arrival; empty where it has one."""

    @property
    def heard(self) -> tuple[str, ...]:
        """Names of the sites with an arrival."""
        return tuple(name for name, why in self.reasons.items() if not why)


def arrival_config(sites: Sequence[Site], sample_rate_hz: float) -> ArrivalConfig:
    """Configuration of the arrival times at these sites.

    Its baseline is a whole number of kilometres, so that it stays the same when a site's position
    is corrected by a metre.

    Raises:
        FeatureError: There are fewer than two sites, or two have one name.
    """
    latitude, longitude = np.array([(s.latitude_deg, s.longitude_deg) for s in sites]).T
    farthest_m = geodesic_m(latitude[:, None], longitude[:, None], latitude, longitude).max()
    baseline_m = math.ceil(BASELINE_MARGIN * farthest_m / 1000) * 1000.0
    return ArrivalConfig(
        receivers=tuple(site.name for site in sites),
        baseline_m=min(max(baseline_m, SHORTEST_BASELINE_M), LONGEST_BASELINE_M),
        sample_rate_hz=sample_rate_hz,
    )


def measure_arrivals(
    recordings: Mapping[str, ClockedRecording],
    sites: Sequence[Site],
    unusable: Mapping[str, str] = MappingProxyType({}),
) -> Arrivals:
    """Arrival times of the transmission that the recordings have in common.

    Recordings that share too little time with the others are left out, so that one that was made
    at another time does not spoil the rest; so are those whose time contradicts the others'.

    Args:
        recordings: By the name of the site; those with a clock that are not unusable are used.
        sites: Every receiver, in the order of the result. One without a recording has no arrival.
        unusable: By name, the reason why a receiver has no usable recording.

    Raises:
        LocateError: Fewer than three recordings have a clock or share the time that lags over
            these distances need.
        FeatureError: A recording has no site, or samples that are not finite or not scaled to 1.
    """
    recordings, unusable = _by_site(recordings), _by_site(unusable)
    reasons = {site.name: "no recording" for site in sites} | unusable
    clocked = {n: r for n, r in recordings.items() if r.clock_locked and n not in unusable}
    for name in recordings.keys() - unusable.keys():
        reasons[name] = "" if name in clocked else "no clock"
    _require_three(clocked, reasons, "recorded at the same time with a clock")
    # A fraction of a hertz makes no difference to the band, and whole rates resample faster.
    rate_hz = float(math.floor(min(r.sample_rate_hz for r in clocked.values())))
    config = arrival_config([s for s in sites if s.name in clocked], rate_hz)
    together = _together(clocked, config.least_samples / rate_hz, MOST_SAMPLES / rate_hz)
    for name in clocked.keys() - together.keys():
        reasons[name] = "recorded at another time than the others, or too short"
    _require_three(together, reasons, "recorded at the same time with a clock")
    config = arrival_config([s for s in sites if s.name in together], rate_hz)
    measured = ArrivalExtractor(config).measure(together)
    columns = np.column_stack([measured.rows, measured.noise_s, measured.coherent_s])
    found = dict(zip(config.receivers, columns, strict=True))
    nowhere = np.array([0.0, *[np.nan] * (columns.shape[1] - 1)])
    table = np.array([found.get(site.name, nowhere) for site in sites])
    heard = table[:, 0] > 0
    table[~heard] = np.nan
    for name, row in found.items():
        if not row[0]:
            unheard = "hears nothing that the others hear"
            reasons[name] = measured.impossible.get(name, unheard)
    return Arrivals(
        sites=tuple(sites),
        arrivals_s=table[:, 1] * 1e-6,
        sigma_s=table[:, -2],
        coherent_s=table[:, -1],
        snr_db=table[:, 3],
        reasons={site.name: reasons[site.name] for site in sites},
    )


def locate_recordings(
    recordings: Mapping[str, ClockedRecording],
    sites: Sequence[Site],
    *,
    unusable: Mapping[str, str] = MappingProxyType({}),
    calibration: Calibration | None = None,
    frequency_hz: float | None = None,
    altitude_m: float | None = None,
    propagation: str | None = None,
    prior: Position | None = None,
) -> Position:
    """Position of the transmitter that the recordings have in common.

    Args:
        recordings: As for `measure_arrivals`.
        sites: As for `measure_arrivals`.
        unusable: By name, the reason why a receiver has no usable recording; one without a site
            may be among them.
        calibration: Constant delays of receivers, by name.
        frequency_hz: As for `locate`.
        altitude_m: As for `locate`.
        propagation: As for `locate`.
        prior: As for `locate`. With fewer than three arrivals it is the answer.

    Returns:
        The position, with a result for each site and for each unusable receiver.

    Raises:
        LocateError: Fewer than three receivers can be used and there is no prior, or an argument
            of `locate` is invalid.
        FeatureError: A recording has no site, or samples that are not finite or not scaled to 1.
    """
    recordings, unusable = _by_site(recordings), _by_site(unusable)
    try:
        found = measure_arrivals(recordings, sites, unusable)
        reasons = {**unusable, **found.reasons}
        _require_three(found.heard, reasons, "hear one transmission")
    except LocateError as error:
        if prior is None:
            raise
        alone = f"{prior.termination}; without arrival times: {error}"
        return replace(prior, frequency_hz=frequency_hz, termination=alone)
    delays_s, spreads_s = calibration.delays_at(sites) if calibration else (0.0, 0.0)
    position = locate(
        found.arrivals_s,
        sites,
        found.sigma_s,
        altitude_m,
        frequency_hz,
        coherent_s=np.nan_to_num(found.coherent_s),
        clock_sigma_s=[
            recordings[s.name].clock_sigma_s if s.name in recordings else math.inf for s in sites
        ],
        delays_s=delays_s,
        delay_spreads_s=spreads_s,
        snr_db=found.snr_db,
        propagation=propagation,
        prior=prior,
    )
    results = [
        replace(one, reason=reasons[one.name]) if reasons[one.name] else one
        for one in position.receivers
    ]
    placed = {site.name for site in sites}
    results += [
        ReceiverResult(name, used=False, reason=why)
        for name, why in unusable.items()
        if name not in placed
    ]
    return replace(position, receivers=tuple(results))


def _by_site(given: Mapping[str, Value]) -> dict[str, Value]:
    """The same values, by names in the spelling of sites."""
    return {composed(name): value for name, value in given.items()}


def _require_three(usable: Collection[str], reasons: Mapping[str, str], do: str) -> None:
    if len(usable) < FEWEST_CLOCKS:
        others = "; ".join(f"{name}: {why}" for name, why in reasons.items() if why)
        missing = FEWEST_CLOCKS - len(usable)
        others = others or f"add {missing} receiver{'s' * (missing > 1)}"
        raise LocateError(
            f"{len(usable)} of {len(reasons)} receivers {do}, and a position takes "
            f"{FEWEST_CLOCKS}: {others}"
        )


def _together(
    recordings: Mapping[str, ClockedRecording], least_s: float, most_s: float
) -> dict[str, ClockedRecording]:
    """The most recordings that share a stretch of time, and of these the longest, cut to it."""
    spans = {
        name: (one.start_s, one.start_s + one.iq.shape[0] / one.sample_rate_hz)
        for name, one in recordings.items()
    }
    best: tuple[int, float, float, list[str]] = (0, 0.0, 0.0, [])
    for begin_s, _ in spans.values():
        inside = sorted(
            ((end, name) for name, (start, end) in spans.items() if start <= begin_s < end),
            reverse=True,
        )
        # The n recordings that end last share the time until the first of them ends.
        for n, (end_s, _) in enumerate(inside, 1):
            if end_s - begin_s >= least_s and (n, end_s - begin_s) > best[:2]:
                best = (n, end_s - begin_s, begin_s, [name for _, name in inside[:n]])
    _, shared_s, begin_s, names = best
    return {name: _cut(recordings[name], begin_s, min(shared_s, most_s)) for name in names}


def _cut(recording: ClockedRecording, begin_s: float, duration_s: float) -> ClockedRecording:
    """The samples in a stretch of time, and at most one more at each end."""
    rate_hz = recording.sample_rate_hz
    first = max(math.floor((begin_s - recording.start_s) * rate_hz), 0)
    last = math.ceil((begin_s - recording.start_s + duration_s) * rate_hz)
    start_s = recording.start_s + first / rate_hz
    return replace(recording, iq=recording.iq[first:last], start_s=start_s)
