"""A position as lines for a terminal.

Source of the locator: IARU Region 1, "VHF Managers Handbook", on the locator system.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from heimdall_features.names import shown

from heimdall_locate.description import (
    coordinates,
    ellipse_text,
    probability_text,
    receiver_figures,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heimdall_locate.position import Candidate, Position

_LEAST_WIDTH = 8


def summary(position: Position) -> str:
    """Position, ellipses, further candidates, and a line for each receiver."""
    return "\n".join(line.rstrip() for line in _lines(position))


def place_text(candidate: Candidate) -> str:
    """`50.015, 9.011  (50° 0.91' N, 9° 0.67' E, JN49ma)`.

    Decimal degrees, the same in degrees and minutes, and the Maidenhead locator that amateurs
    exchange.
    """
    east_west = minutes_text(candidate.longitude_deg, "EW")
    north_south = minutes_text(candidate.latitude_deg, "NS")
    decimal = ", ".join(coordinates(candidate))
    return f"{decimal}  ({north_south}, {east_west}, {locator(candidate)})"


def minutes_text(degrees: float, sides: str) -> str:
    """Degrees and minutes, as on a chart: `50° 0.91' N`; `sides` are `NS` or `EW`."""
    whole, hundredths = divmod(round(abs(degrees) * 6000), 6000)
    return f"{whole}\N{DEGREE SIGN} {hundredths / 100:.2f}' {sides[degrees < 0]}"


def locator(candidate: Candidate) -> str:
    """Maidenhead locator of six characters: `JN49ma`."""
    # Fields of 20 by 10 degrees, squares of 2 by 1, and subsquares of 5 by 2.5 minutes.
    steps = (candidate.longitude_deg + 180) * 12, (candidate.latitude_deg + 90) * 24
    pairs = [min(int(n), 18 * 240 - 1) for n in steps]
    alphabets = string.ascii_uppercase, string.digits, string.ascii_lowercase
    sizes = (240, 1000), (24, 10), (1, 24)
    return "".join(
        letters[n // size % count]
        for letters, (size, count) in zip(alphabets, sizes, strict=True)
        for n in pairs
    )


def _lines(position: Position) -> Iterator[str]:
    first, *others = position.candidates
    if others:
        yield f"position     {place_text(first)} with {probability_text(first.probability)}"
    else:
        yield f"position     {place_text(first)}"
    of_first = " of it" if others else ""
    yield f"{'68 %' + of_first:11s}  {ellipse_text(position.ellipse_68)}"
    yield f"{'95 %' + of_first:11s}  {ellipse_text(position.ellipse_95)}"
    for one in others:
        yield f"or           {place_text(one)} with {probability_text(one.probability)}"
    yield f"propagation  {shown(position.propagation)}"
    yield f"answer       {shown(position.termination)}"
    yield ""
    width = max([_LEAST_WIDTH, *(len(shown(each.name)) for each in position.receivers)])
    yield f"{'receiver':{width}s}  {'residual':>12s}  {'in sigmas':>9s}  {'SNR':>6s}"
    for result in position.receivers:
        figures = receiver_figures(result)
        numbers = f"{figures['residual']:>12s}  {figures['sigmas']:>9s}  {figures['snr']:>6s}"
        reason = shown(result.reason)
        remark = reason if result.used else f"not used: {reason}"
        yield f"{shown(result.name):{width}s}  {numbers}  {remark}"
