"""The catalogue's stations as the places that arrival times are reckoned from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_models.ranges import ReceiverSite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heimdall_data import Station

__all__ = ["receiver_sites"]


def receiver_sites(receivers: Iterable[Station]) -> tuple[ReceiverSite, ...]:
    """Where the receivers stand, at sea level where the catalogue does not say how high.

    Raises:
        ModelError: One stands nowhere on Earth.
    """
    return tuple(
        ReceiverSite(station.name, *station.position_deg, station.altitude_m or 0.0)
        for station in receivers
    )
