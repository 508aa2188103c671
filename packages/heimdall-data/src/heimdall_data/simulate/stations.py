"""The seven receiving stations of north-west Italy.

Positions are degrees on WGS84 and altitudes metres above sea level, as their operators
publish them. The undulation of the geoid (about 50 m here, and nearly the same for all) is
left out: altitudes are taken as heights above the ellipsoid.
"""

from __future__ import annotations

from heimdall_data.sessions import Station

__all__ = ["NORTHWEST_ITALY_STATIONS"]

NORTHWEST_ITALY_STATIONS = (
    Station("Giaveno", 45.02, 7.29, 600.0),
    Station("Montanaro", 45.234, 7.857, 300.0),
    Station("Torino", 45.044, 7.672, 250.0),
    Station("Coazze", 45.03, 7.27, 700.0),
    Station("Passo dei Giovi", 44.561, 8.956, 480.0),
    Station("Genova", 44.395, 8.956, 100.0),
    Station("Milano-Baggio", 45.478, 9.123, 120.0),
)
"""Channel order of the simulation; 7 stations."""
