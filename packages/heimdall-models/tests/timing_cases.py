"""Seven receivers around a plain, and transmissions whose times of arrival are computed here."""

import numpy as np
import pyproj
import torch
from heimdall_models import Region
from heimdall_models.ellipses import mahalanobis_squared, sigma_and_correlation
from heimdall_models.timing.receivers import ReceiverSite

REGION = Region(44.95, 8.2, 92_000.0)
SITES = tuple(
    ReceiverSite(name, *place)
    for name, place in {
        "Giaveno": (45.02, 7.29, 600.0),
        "Montanaro": (45.234, 7.857, 300.0),
        "Torino": (45.044, 7.672, 250.0),
        "Giovi": (44.561, 8.956, 480.0),
        "Genova": (44.395, 8.956, 100.0),
        "Milano": (45.478, 9.123, 120.0),
        "Cuneo": (44.39, 7.55, 560.0),
    }.items()
)
SPEED_IN_AIR_M_S = 299_792_458.0 / 1.0003
_EARTH_CENTRED = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")


def earth_centred_m(latitude_deg, longitude_deg, altitude_m):
    """By PROJ, which knows nothing of our planes: `(n, 3)`."""
    return np.stack(_EARTH_CENTRED.transform(latitude_deg, longitude_deg, altitude_m), axis=-1)


def ranges_m(position_deg):
    """Straight lines from points of the ellipsoid to the receivers, `(n, receivers)`."""
    position = np.asarray(position_deg)
    sites = np.array([(s.latitude_deg, s.longitude_deg, s.altitude_m) for s in SITES])
    points = earth_centred_m(*position.T, np.zeros(len(position)))
    return np.linalg.norm(points[:, None] - earth_centred_m(*sites.T), axis=-1)


def positions_deg(n, seed=0):
    """Anywhere in the middle of the region, `(n, 2)`."""
    rng = np.random.default_rng(seed)
    return REGION.to_degrees(rng.uniform(-0.8, 0.8, (n, 2)))


def arrivals(position_deg, sigma_us=0.1, late_us=0.0, seed=0):
    """Rows as the arrival extractor gives them, float32 `(n, receivers, 5)`.

    `late_us`, `(n, receivers)`, is what no sigma tells of.
    """
    rng = np.random.default_rng(seed)
    true_us = 1e6 * ranges_m(position_deg) / SPEED_IN_AIR_M_S
    shape = true_us.shape
    found_us = true_us + late_us + sigma_us * rng.standard_normal(shape)
    found_us -= found_us.mean(axis=1, keepdims=True)
    columns = [np.ones(shape), found_us, np.full(shape, sigma_us), np.full(shape, 20.0)]
    return np.stack([*columns, np.zeros(shape)], axis=-1).astype(np.float32)


def units(position_deg):
    """Plane units as a float32 tensor."""
    return torch.from_numpy(REGION.to_plane(position_deg)).float()


def inside(found, truth_deg, level):
    """Share of truths inside the ellipses of a level."""
    sigma, correlation = sigma_and_correlation(found.covariance)
    square = mahalanobis_squared(units(truth_deg) - found.position, sigma, correlation)
    return float((square <= -2 * np.log1p(-level)).float().mean())
