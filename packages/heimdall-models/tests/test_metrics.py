"""Metrics of a position and its ellipse, in metres on the ellipsoid."""

import math

import numpy as np
import pytest
import torch
from heimdall_models import ModelError, Region, error_m, localization_metrics
from heimdall_models.metrics import offset_east_north_m, sigma_saturation
from hypothesis import given, settings
from hypothesis import strategies as st

CONTRACT_NAMES = {
    *("error_m_median", "error_m_mean", "error_m_rmse", "error_m_p68", "error_m_p95"),
    *("accuracy_30m", "coverage_68", "coverage_95", "ece", "nll"),
}


REGION = Region(45.0, 8.2, 1e5)
tilts = st.floats(-0.95, 0.95)


def simulated(n, *, claimed=1.0, tilt=0.0):
    """Positions whose errors are Gaussian with sigmas of 2 and 5 km, times what is claimed."""
    rng = np.random.default_rng(0)
    sigma_m = np.tile([2000.0, 5000.0], (n, 1))
    truth = rng.uniform(-0.8, 0.8, (n, 2))
    normal = rng.normal(size=(n, 2)) @ [[1.0, tilt], [0.0, math.sqrt(1 - tilt**2)]]
    position = truth + normal * sigma_m / REGION.scale_m
    return REGION.to_degrees(position), sigma_m * claimed, REGION.to_degrees(truth)


@settings(max_examples=20)
@given(tilts)
def test_honest_ellipses_cover_what_they_say(tilt):
    """The promise of the whole package; the correlation is part of the claim."""
    given_ = simulated(5000, tilt=tilt)
    metrics, upright = localization_metrics(*given_, tilt), localization_metrics(*given_)
    assert metrics["coverage_68"] == pytest.approx(0.68, abs=0.03)
    assert metrics["coverage_95"] == pytest.approx(0.95, abs=0.015)
    assert metrics["ece"] < 0.02
    assert metrics["nll"] < upright["nll"] + 1e-3 - tilt**2 / 3
    assert metrics["error_m_median"] == upright["error_m_median"]


@settings(max_examples=20)
@given(st.floats(1.3, 10), st.booleans())
def test_a_wrong_sigma_is_found_out(factor, too_sure):
    """Both lies cost: in calibration and in likelihood."""
    claimed = 1 / factor if too_sure else factor
    honest = localization_metrics(*simulated(2000))
    lying = localization_metrics(*simulated(2000, claimed=claimed))
    assert lying["ece"] > honest["ece"]
    assert lying["nll"] > honest["nll"]
    assert (lying["coverage_68"] < honest["coverage_68"]) == too_sure


@settings(max_examples=20)
@given(tilts, st.floats(0.1, 10))
def test_likelihood_is_that_of_torch_s_gaussian(tilt, claimed):
    """Another implementation, fed kilometres, agrees."""
    position, sigma_m, truth = simulated(50, claimed=claimed)
    offset_km = torch.from_numpy(offset_east_north_m(position, truth)) / 1000
    scale = np.diag(sigma_m[0] / 1000)
    covariance = torch.from_numpy(scale @ np.array([[1, tilt], [tilt, 1]]) @ scale)
    gaussian = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance)
    expected = -gaussian.log_prob(offset_km).mean().item()
    assert localization_metrics(position, sigma_m, truth, tilt)["nll"] == pytest.approx(expected)


def test_a_degree_is_as_long_as_the_ellipsoid_says():
    """Closed form along the equator; along the meridian, the value of NIMA TR8350.2's ellipsoid."""
    from_origin = error_m([[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]])
    assert from_origin == pytest.approx([6_378_137 * math.pi / 180, 110_574.389], abs=1e-3)


def test_three_errors_by_hand():
    """Errors of 20, 30 and 1000 m: median, mean and who is accurate need no computer."""
    north_deg = np.array([20.0, 30.0, 1000.0]) / 110_574.389 * 0.999999
    truth = np.stack([north_deg, np.zeros(3)], axis=1)
    metrics = localization_metrics([0.0, 0.0], [1000.0, 1000.0], truth)
    assert set(metrics) == CONTRACT_NAMES
    assert metrics["error_m_median"] == pytest.approx(30, abs=0.01)
    assert metrics["error_m_mean"] == pytest.approx(350, abs=0.1)
    assert metrics["accuracy_30m"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("position", "sigma", "truth", "message"),
    [
        ([[0, 0]], [[1, 0]], [[0, 0]], r"row 0, is \[1.0, 0.0\]"),
        ([[0, 0]], [[1, math.nan]], [[0, 0]], "1 of 1 sigmas .*row 0"),
        ([[0, math.inf]], [[1, 1]], [[0, 0]], "1 of 1 positions .* row 0, is"),
        ([[0, 0]], [[1, 1]], [[math.nan, 0]], "1 of 1 truths .*nan"),
        ([[0, 0]] * 2, [[1, 1]] * 2, [[0, 0]] * 3, r"positions \(2, 2\) do not match 3 truths"),
        ([], [], [], r"truths must be \(n, 2\), n at least 1; got \(0,\)"),
    ],
)
def test_what_cannot_be_measured_is_refused(position, sigma, truth, message):
    """A NaN that slips into a median vanishes; it must not."""
    with pytest.raises(ModelError, match=message):
        localization_metrics(position, sigma, truth)


@given(
    st.lists(st.sampled_from([[1.0, 0.3], [0.2, 0.01005], [0.5, 0.5], [0.0102, 0.98]]), min_size=1)
)
def test_saturation_is_the_share_of_predictions_at_a_bound(sigma):
    """Of the four, one is at the upper bound, one at the lower, one between, one beside a bound."""
    n_at_bound = sum(each in ([1.0, 0.3], [0.2, 0.01005]) for each in sigma)
    assert sigma_saturation(sigma, 0.01, 1.0) == pytest.approx(n_at_bound / len(sigma))


@given(st.floats(1) | st.floats(max_value=-1) | st.just(math.nan))
def test_impossible_correlations_are_refused(tilt):
    """A correlation of one is a line."""
    with pytest.raises(ModelError, match="between -1 and 1"):
        localization_metrics(*simulated(5), tilt)
    with pytest.raises(ModelError, match=r"correlations \(3,\) do not match 5"):
        localization_metrics(*simulated(5), np.zeros(3))


@given(st.floats(90.001, 180), st.sampled_from([-1, 1]), st.integers(0, 4))
def test_a_latitude_beyond_a_pole_has_no_distance(beyond, sign, row):
    """Longitude first is the usual slip; the distance would be NaN, and so would every figure."""
    position, sigma, truth = simulated(5)
    truth[row, 0] = sign * beyond
    with pytest.raises(ModelError, match=f"1 of 5 truths .* row {row}, "):
        localization_metrics(position, sigma, truth)
    with pytest.raises(ModelError, match=f"1 of 5 positions .* row {row}, "):
        error_m(truth, position)
