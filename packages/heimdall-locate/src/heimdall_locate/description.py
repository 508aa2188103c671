"""A position in words and figures, for files, maps and terminals."""

import math
from collections.abc import Sequence
from typing import Final

from heimdall_features.names import shown

from heimdall_locate.position import Candidate, Ellipse, Position, ReceiverResult
from heimdall_locate.sites import Site

PROBABILITIES: Final = (0.68, 0.95)
"""Of the ellipses that are shown."""
LEAST_PROBABILITY: Final = 0.001
"""Candidates with less are not shown, but for the first."""
_SPACE: Final = "\N{NO-BREAK SPACE}"
_DEGREE_M: Final = 111_200.0


def shown_candidates(position: Position) -> tuple[Candidate, ...]:
    """The first candidate, and those that are not negligible."""
    first, *others = position.candidates
    return (first, *(one for one in others if one.probability >= LEAST_PROBABILITY))


def shown_ellipses(position: Position, rank: int) -> tuple[tuple[float, Ellipse], ...]:
    """Probabilities and ellipses of a candidate, counted from 1.

    Those of the first are the position's own, those of others are of a Gaussian.
    """
    if rank == 1:
        return tuple(zip(PROBABILITIES, (position.ellipse_68, position.ellipse_95), strict=True))
    one = position.candidates[rank - 1]
    return tuple((held, one.ellipse(-2 * math.log1p(-held))) for held in PROBABILITIES)


def placed_receivers(
    position: Position, sites: Sequence[Site]
) -> tuple[tuple[Site, ReceiverResult], ...]:
    """Every site with its receiver's part in the answer, by name.

    A position without any `receivers` does not say which were used; all count as used then.
    """
    left = list(position.receivers)
    found = []
    for site in sites:
        result = next((one for one in left if one.name == site.name), None)
        if result is not None:
            left.remove(result)
        found.append((site, result or ReceiverResult(site.name, used=not position.receivers)))
    return tuple(found)


def distance_text(metres: float) -> str:
    """Metres below a kilometre, kilometres above, three significant figures: `8.31 km`."""
    if not math.isfinite(metres):
        return "unknown"
    if abs(metres) < 999.5:
        return f"{metres:.3g}{_SPACE}m"
    digits = max(0, 2 - math.floor(math.log10(abs(metres) / 1000 * 1.0005)))
    return f"{metres / 1000:,.{digits}f}{_SPACE}km"


def ellipse_text(ellipse: Ellipse) -> str:
    """Semi-axes and bearing: `20.1 km by 8.31 km, bearing 35°`."""
    major, minor = distance_text(ellipse.semi_major_m), distance_text(ellipse.semi_minor_m)
    bearing_deg = round(ellipse.bearing_deg) % 180
    return f"{major} by {minor}, bearing {bearing_deg}\N{DEGREE SIGN}"


def coordinates(candidate: Candidate) -> tuple[str, str]:
    """Latitude and longitude in decimal degrees, with the decimals that its uncertainty warrants.

    Rounding moves it by less than a tenth of its smaller standard deviation, or by a decimetre.
    """
    sigma_deg = candidate.ellipse(1.0).semi_minor_m / _DEGREE_M
    decimals = min(max(math.ceil(1 - math.log10(max(sigma_deg, 1e-9))), 2), 6)
    return f"{candidate.latitude_deg:.{decimals}f}", f"{candidate.longitude_deg:.{decimals}f}"


def coordinates_text(candidate: Candidate) -> str:
    """`50.0152° N, 9.0112° E`."""
    latitude, longitude = coordinates(candidate)
    north = "S" if latitude.startswith("-") else "N"
    east = "W" if longitude.startswith("-") else "E"
    degree = f"\N{DEGREE SIGN}{_SPACE}"
    return f"{latitude.lstrip('-')}{degree}{north}, {longitude.lstrip('-')}{degree}{east}"


def probability_text(probability: float) -> str:
    """Per cent with the digits that tell it from 0 and 100: `97 %`, `0.4 %`."""
    percent = 100 * probability
    if percent > 99.95 or 1 <= percent <= 99:
        return f"{percent:.0f}{_SPACE}%"
    return f"{percent:.1f}{_SPACE}%"


def frequency_text(frequency_hz: float) -> str:
    """In kilohertz below 3 MHz, in megahertz above: `77.5 kHz`, `145.5 MHz`."""
    if frequency_hz < 3e6:
        return f"{frequency_hz / 1e3:,.7g}{_SPACE}kHz"
    return f"{frequency_hz / 1e6:,.9g}{_SPACE}MHz"


def title(position: Position) -> str:
    """`Transmitter on 77.5 kHz`."""
    if position.frequency_hz is None:
        return "Transmitter"
    return f"Transmitter on {frequency_text(position.frequency_hz)}"


def receiver_figures(result: ReceiverResult) -> dict[str, str]:
    """Residual, the same in sigmas, and signal-to-noise ratio; empty where unknown."""
    residual_us, sigma_us, snr_db = (
        value if value is not None and math.isfinite(value) else None
        for value in (result.residual_us, result.sigma_us, result.snr_db)
    )
    figures = {"residual": "", "sigmas": "", "snr": ""}
    if residual_us is not None:
        figures["residual"] = f"{residual_us:+.3g}{_SPACE}\N{MICRO SIGN}s"
    if residual_us is not None and sigma_us:
        figures["sigmas"] = f"{residual_us / sigma_us:+.1f}{_SPACE}\N{GREEK SMALL LETTER SIGMA}"
    if snr_db is not None:
        figures["snr"] = f"{snr_db:.0f}{_SPACE}dB"
    return {name: text.replace("-", "\N{MINUS SIGN}") for name, text in figures.items()}


def receiver_text(result: ReceiverResult) -> str:
    """A receiver's part in the answer in a line."""
    figures = receiver_figures(result)
    parts = [
        "used" if result.used else "not used",
        shown(result.reason),
        figures["residual"] and f"residual {figures['residual']}",
        figures["sigmas"],
        figures["snr"] and f"SNR {figures['snr']}",
    ]
    return ", ".join(filter(None, parts))
