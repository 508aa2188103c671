"""Ranges from points of the plane to receivers: straight lines over the curved Earth.

The plane touches the ellipsoid, which falls away under it: 800 m at 100 km. A point of the plane
stands for the point of the ellipsoid under it. Its range to a receiver is the straight line
between the two, including the receiver's height.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from heimdall_models.region import Region

SPEED_IN_AIR_M_S = 299_792_458.0 / 1.0003


@dataclass(frozen=True, slots=True)
class ReceiverSite:
    """Site of a receiver.

    Raises:
        ModelError: If it is not on Earth.
    """

    name: str
    """Name of the receiver."""
    latitude_deg: float
    """Degrees north, WGS84."""
    longitude_deg: float
    """Degrees east, WGS84."""
    altitude_m: float = 0.0
    """Above the WGS84 ellipsoid."""

    def __post_init__(self) -> None:
        place = (self.latitude_deg, self.longitude_deg, self.altitude_m)
        if not (abs(place[0]) <= 90 and abs(place[1]) <= 180 and -500 <= place[2] <= 9_000):
            raise ModelError(
                f"receiver {self.name!r} at {place}: give latitude and longitude in degrees and "
                f"the altitude in metres"
            )


class Station(Protocol):
    """A receiver of a catalogue."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def position_deg(self) -> tuple[float, float]:
        """Latitude and longitude."""

    @property
    def altitude_m(self) -> float | None:
        """Metres above sea level; None where unknown."""


def receiver_sites(stations: Iterable[Station]) -> tuple[ReceiverSite, ...]:
    """Sites of a catalogue's receivers, at sea level where the altitude is unknown."""
    return tuple(
        ReceiverSite(station.name, *station.position_deg, station.altitude_m or 0.0)
        for station in stations
    )


class ReceiverRanges(nn.Module):
    """Ranges from points of a region's plane to receivers in channel order, in plane units.

    Raises:
        ModelError: If a receiver is too far away for the plane.
    """

    receivers: Tensor

    def __init__(self, region: Region, sites: Sequence[ReceiverSite]) -> None:
        super().__init__()
        places = np.array([(site.latitude_deg, site.longitude_deg) for site in sites])
        east_north_m = region.to_plane(places) * region.scale_m
        feet_m = np.column_stack([east_north_m, -region.fall_m(*east_north_m.T)])
        # Unit vectors up at each place, in east, north and up of the region's centre.
        latitude = np.radians(places[:, 0])
        longitude = np.radians(places[:, 1] - region.longitude_deg)
        centre = math.radians(region.latitude_deg)
        across, along = np.cos(latitude) * np.cos(longitude), np.sin(latitude)
        up = np.column_stack(
            [
                np.cos(latitude) * np.sin(longitude),
                along * math.cos(centre) - across * math.sin(centre),
                across * math.cos(centre) + along * math.sin(centre),
            ]
        )
        heights_m = np.array([[site.altitude_m] for site in sites])
        receivers = (feet_m + heights_m * up) / region.scale_m
        self.register_buffer("receivers", torch.from_numpy(receivers).float())
        self.region = region

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Ranges `(..., receivers)`, and their slopes east and north `(..., receivers, 2)`."""
        scale = self.region.scale_m
        east, north = position.unbind(dim=-1)
        down = self.region.fall_m(east * scale, north * scale) / scale
        point = torch.stack([east, north, -down], dim=-1)
        apart = point.unsqueeze(-2) - self.receivers
        # A transmitter at a receiver has a range but no direction.
        distance = apart.square().sum(dim=-1).clamp_min(1e-12).sqrt()
        return distance, apart[..., :2] / distance.unsqueeze(-1)
