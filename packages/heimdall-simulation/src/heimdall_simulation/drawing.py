"""The truth of every session, drawn before any sample is made."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from heimdall_data.errors import SimulationError

from heimdall_simulation.channel import drawn_detour_s, drawn_echoes, drawn_fading
from heimdall_simulation.geometry import east_north_m
from heimdall_simulation.propagation import (
    LOWEST_REFLECTION_M,
    log_distance_loss_db,
    propagation_delay_s,
    sky_path_m,
)
from heimdall_simulation.receiver import thermal_noise_dbm
from heimdall_simulation.scenario import NORTHWEST_ITALY, Mishaps, Scenario
from heimdall_simulation.seeds import Branch, generator
from heimdall_simulation.truth import InterfererTruth, ReceptionTruth, SessionTruth, SourceTruth
from heimdall_simulation.world import StationWorld, world_of


def simulate_truths(
    n_sessions: int, seed: int, scenario: Scenario = NORTHWEST_ITALY
) -> Iterator[SessionTruth]:
    """Return only the truths of the sessions of `simulate_sessions`: fast, without samples."""
    if n_sessions < 0:
        raise SimulationError(f"cannot simulate {n_sessions} sessions; give 0 or more")
    return (session_truth(index, seed, scenario) for index in range(n_sessions))


def session_truth(index: int, seed: int, scenario: Scenario) -> SessionTruth:
    """Return the truth of session `index`, which does not depend on other sessions."""
    rng = generator(Branch.SESSION, seed, index)
    source = source_truth(index // scenario.sessions_per_source, seed, scenario)
    radiated_dbm = source.radiated_dbm + scenario.session_power_sigma_db * rng.standard_normal()
    world = world_of(scenario)
    height_m = _virtual_height_m(generator(Branch.IONOSPHERE, seed, index), scenario)
    direct = [
        _reception(rng, source, radiated_dbm, station, scenario, height_m) for station in world
    ]
    everywhere = [
        _through_channel(
            generator(Branch.CHANNEL, seed, index, there.station.name), there, scenario
        )
        for there in direct
    ]
    status, approval_status = _verdict(rng.random(), scenario.mishaps)
    is_down, which = rng.random() < scenario.mishaps.receiver_down, rng.integers(len(everywhere))
    down = [everywhere[which]] if is_down and len(everywhere) > 1 else []
    receptions = [there for there in everywhere if there not in down]
    missing, truncated = rng.random(2) < (
        scenario.mishaps.object_missing,
        scenario.mishaps.object_truncated,
    )
    first, second = rng.integers(len(receptions), size=2)
    if missing:
        receptions[first] = replace(receptions[first], damage="missing")
    if truncated:
        receptions[second] = replace(receptions[second], damage="truncated")
    return SessionTruth(
        seed=seed,
        index=index,
        source=source,
        radiated_dbm=radiated_dbm,
        receptions=tuple(receptions),
        stations_down=tuple(there.station.name for there in down),
        status=status,
        approval_status=approval_status,
        interferers=tuple(
            _interferer(
                generator(Branch.INTERFERER, seed, index, number),
                number,
                source,
                everywhere,
                scenario,
                height_m,
            )
            for number in range(scenario.interference.n_interferers)
        ),
    )


def source_truth(index: int, seed: int, scenario: Scenario) -> SourceTruth:
    """Return the truth of source `index`."""
    source = _transmitter(generator(Branch.SOURCE, seed, index), index, scenario)
    return _modulating(generator(Branch.MODULATION, seed, index), source, scenario)


def _transmitter(rng: np.random.Generator, index: int, scenario: Scenario) -> SourceTruth:
    # Uniform by area: the sine of the latitude is uniform.
    south, north = np.sin(np.radians(scenario.latitude_deg))
    latitude_deg = float(np.degrees(np.arcsin(rng.uniform(south, north))))
    return SourceTruth(
        index=index,
        position_deg=(latitude_deg, math.remainder(rng.uniform(*scenario.longitude_deg), 360)),
        altitude_m=rng.uniform(*scenario.antenna_height_m),
        frequency_hz=scenario.raster_hz
        * round(rng.uniform(*scenario.frequency_hz) / scenario.raster_hz),
        offset_ppm=scenario.transmitter_offset_ppm * rng.standard_normal(),
        radiated_dbm=rng.uniform(*scenario.radiated_dbm),
        deviation_hz=rng.uniform(*scenario.deviation_hz),
        position_known=bool(rng.random() >= scenario.mishaps.no_position),
    )


def _modulating(rng: np.random.Generator, source: SourceTruth, scenario: Scenario) -> SourceTruth:
    """Draw one of the scenario's modulations for a transmitter."""
    which = int(rng.integers(len(scenario.modulations)))
    return replace(
        source,
        modulation=scenario.modulations[which],
        am_depth=rng.uniform(*scenario.am_depth),
    )


def _interferer(
    rng: np.random.Generator,
    number: int,
    source: SourceTruth,
    everywhere: Sequence[ReceptionTruth],
    scenario: Scenario,
    height_m: float | None,
) -> InterfererTruth:
    """Draw a transmitter near the source's frequency, and its reception at every station."""
    interference = scenario.interference
    spacing_hz = float(rng.choice((-1.0, 1.0))) * interference.offset_hz
    other = replace(
        _modulating(rng, _transmitter(rng, number, scenario), scenario),
        frequency_hz=source.frequency_hz + spacing_hz,
        radiated_dbm=rng.uniform(*interference.radiated_dbm),
        position_known=False,
    )
    apart_hz = spacing_hz + 1e-6 * (
        other.frequency_hz * other.offset_ppm - source.frequency_hz * source.offset_ppm
    )
    receptions = [
        replace(
            _through_channel(
                rng,
                _reception(rng, other, other.radiated_dbm, station, scenario, height_m),
                scenario,
            ),
            # A receiver's clock and mixer are the same for both transmitters.
            clock_error_s=of_source.clock_error_s,
            frequency_offset_hz=of_source.frequency_offset_hz + apart_hz,
        )
        for station, of_source in zip(world_of(scenario), everywhere, strict=True)
    ]
    return InterfererTruth(source=other, receptions=tuple(receptions))


def _through_channel(
    rng: np.random.Generator, reception: ReceptionTruth, scenario: Scenario
) -> ReceptionTruth:
    """Add the effects of the scenario's channel."""
    return replace(
        reception,
        rician=drawn_fading(rng, scenario.channel),
        echoes=drawn_echoes(rng, scenario.channel),
        detour_s=drawn_detour_s(rng, scenario.channel),
    )


def _reception(
    rng: np.random.Generator,
    source: SourceTruth,
    radiated_dbm: float,
    at: StationWorld,
    scenario: Scenario,
    height_m: float | None,
) -> ReceptionTruth:
    """Compute the link budget to one station, and draw the errors of its hardware.

    `height_m` is the session's virtual height of reflection, if the waves are reflected.
    """
    fading, clock, drift = rng.standard_normal(3)
    propagation = scenario.propagation
    distance_m = float(
        propagation.distance_m(
            source.position_deg,
            source.altitude_m,
            at.station.position_deg,
            at.station.altitude_m or 0.0,
        )
    )
    path_m = distance_m
    if height_m is not None:
        height_m += propagation.height_sigma_m * rng.standard_normal()
        height_m = max(height_m, LOWEST_REFLECTION_M)
        path_m = float(sky_path_m(distance_m, height_m))
    path_loss_db = float(
        log_distance_loss_db(
            path_m,
            source.frequency_hz,
            exponent=scenario.path_loss_exponent,
            reference_m=scenario.reference_m,
        )
    )
    # Maps are in metres east and north of the middle of the region.
    middle_deg = (sum(scenario.latitude_deg) / 2, sum(scenario.longitude_deg) / 2)
    shadowing_db = float(at.shadows.loss_db(east_north_m(source.position_deg, middle_deg)))
    fading_db = scenario.fading_sigma_db * fading
    noise_dbm = thermal_noise_dbm(scenario.sample_rate_hz, scenario.noise_figure_db)
    mixer_ppm = at.mixer_ppm + scenario.receiver_drift_ppm * drift
    return ReceptionTruth(
        station=at.station,
        distance_m=distance_m,
        delay_s=(1 + _slowness(source, at, scenario)) * float(propagation_delay_s(path_m)),
        clock_error_s=scenario.clock_error_s * clock,
        path_loss_db=path_loss_db,
        shadowing_db=shadowing_db,
        fading_db=fading_db,
        signal_dbm=radiated_dbm - path_loss_db - shadowing_db - fading_db,
        noise_dbm=noise_dbm,
        gain_db=scenario.noise_floor_dbfs - noise_dbm + at.gain_db,
        frequency_offset_hz=1e-6 * source.frequency_hz * (source.offset_ppm - mixer_ppm),
        phase_rad=rng.uniform(0, 2 * np.pi),
        receiver_delay_s=at.delay_s,
        virtual_height_m=height_m,
    )


def _virtual_height_m(rng: np.random.Generator, scenario: Scenario) -> float | None:
    heights_m = scenario.propagation.virtual_height_m
    return None if heights_m is None else rng.uniform(*heights_m)


def _slowness(source: SourceTruth, at: StationWorld, scenario: Scenario) -> float:
    """Slowness of the path between two places, whose ground never changes."""
    least, largest = scenario.propagation.slowness
    if least == largest:
        return least
    places = (at.station.name, repr(source.position_deg))
    return generator(Branch.GROUND, scenario.world_seed, *places).uniform(least, largest)


def _verdict(draw: float, mishaps: Mishaps) -> tuple[str, str]:
    """Status and approval status, from one uniform draw."""
    if draw < mishaps.failed:
        return "failed", "pending"
    if draw < mishaps.failed + mishaps.rejected:
        return "completed", "rejected"
    if draw < mishaps.failed + mishaps.rejected + mishaps.pending:
        return "completed", "pending"
    return "completed", "approved"
