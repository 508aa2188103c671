"""Position of an unknown transmitter from times of arrival, with its uncertainty."""

from heimdall_locate.calibration import Calibration, ReceiverDelay, calibrate
from heimdall_locate.delays import PositionFault, Transmitter
from heimdall_locate.errors import LocateError
from heimdall_locate.locate import locate
from heimdall_locate.map.page import map_html
from heimdall_locate.output import cot, geojson, kml, sigmf, write_position
from heimdall_locate.position import (
    Candidate,
    Cells,
    Ellipse,
    Position,
    ReceiverResult,
    from_gaussians,
)
from heimdall_locate.recordings import (
    Arrivals,
    arrival_config,
    locate_recordings,
    measure_arrivals,
)
from heimdall_locate.sites import Site

__all__ = [
    "Arrivals",
    "Calibration",
    "Candidate",
    "Cells",
    "Ellipse",
    "LocateError",
    "Position",
    "PositionFault",
    "ReceiverDelay",
    "ReceiverResult",
    "Site",
    "Transmitter",
    "arrival_config",
    "calibrate",
    "cot",
    "from_gaussians",
    "geojson",
    "kml",
    "locate",
    "locate_recordings",
    "map_html",
    "measure_arrivals",
    "sigmf",
    "write_position",
]
