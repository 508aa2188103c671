"""Metrics of a position and its ellipse, in metres on the ellipsoid."""

import math

import numpy as np
import pytest
import torch
from heimdall_models import ModelError, Region, error_m, localization_metrics
from heimdall_models.metrics import (
    WGS84,
    Posteriors,
    mahalanobis_squared,
    offset_east_north_m,
    posterior_scores,
    region_shares,
    served_metrics,
    sigma_factor,
    sigma_saturation,
)
from hypothesis import given, settings
from hypothesis import strategies as st

CONTRACT_NAMES = {
    *("error_m_median", "error_m_mean", "error_m_rmse", "error_m_p68", "error_m_p95"),
    *("accuracy_30m", "coverage_68", "coverage_95", "ece", "nll"),
}
OF_POSTERIORS = {"nll_mixture", "energy_score", "coverage_hdr_68", "coverage_hdr_95"}


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert set(metrics) == CONTRACT_NAMES | OF_POSTERIORS
    assert metrics["error_m_median"] == pytest.approx(30, abs=0.01)
    assert metrics["error_m_mean"] == pytest.approx(350, abs=0.1)
    assert metrics["accuracy_30m"] == pytest.approx(2 / 3)


def test_percentiles_and_rmse_of_a_ladder_by_hand():
    """Errors of 0, 1, ... 100 m: the percentiles are their own numbers."""
    north_deg = np.arange(101) / 110_574.389
    truth = np.stack([north_deg, np.zeros(101)], axis=1)
    metrics = localization_metrics([0.0, 0.0], [50.0, 50.0], truth)
    assert metrics["error_m_p68"] == pytest.approx(68, abs=0.01)
    assert metrics["error_m_p95"] == pytest.approx(95, abs=0.01)
    assert metrics["error_m_rmse"] == pytest.approx(math.sqrt(100 * 201 / 6), abs=0.01)


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


def drawn_posteriors(n, seed=0, n_components=3):
    """Mixtures of a few places, and a truth from each, in degrees; covariances in files' order."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(n_components), n)
    means = rng.uniform(-0.6, 0.6, (n, n_components, 2))
    sigma = rng.uniform(0.01, 0.2, (n, n_components, 2))
    tilt = rng.uniform(-0.9, 0.9, (n, n_components))
    chosen = (weights.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    mean, s, r = (part[np.arange(n), chosen] for part in (means, sigma, tilt))
    east, north = rng.normal(size=(2, n))
    along = np.stack([east, r * east + np.sqrt(1 - r**2) * north], axis=1)
    truth = REGION.to_degrees(mean + s * along)
    both = (tilt * sigma.prod(axis=-1))[..., None]
    covariances = np.concatenate([sigma**2, both], axis=-1) * REGION.scale_m**2
    return Posteriors(weights, REGION.to_degrees(means), covariances), truth


@settings(max_examples=20, deadline=None)
@given(tilts, st.floats(0.3, 3))
def test_one_gaussian_s_scores_are_the_ellipse_s(tilt, claimed):
    """A model without a mixture is compared with one that has it."""
    metrics = localization_metrics(*simulated(500, claimed=claimed), tilt)
    assert metrics["nll_mixture"] == pytest.approx(metrics["nll"])
    for level in (68, 95):
        assert metrics[f"coverage_hdr_{level}"] == pytest.approx(
            metrics[f"coverage_{level}"], abs=0.01
        )


@pytest.mark.slow
def test_honest_mixtures_hold_their_shares():
    """Regions of two parts and more; truths are drawn from the mixtures."""
    posteriors, truth = drawn_posteriors(4000)
    region = posterior_scores(posteriors, truth).smallest_region
    # Uniform: the largest step between both distributions, at the 0.1 % level of Kolmogorov.
    apart = np.abs(np.sort(region) - (np.arange(4000) + 0.5) / 4000).max()
    assert apart < 1.95 / math.sqrt(4000)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 2))
def test_sigmas_that_are_wrong_by_a_factor_get_it_back(wrong):
    """From 1,000 sessions nearly; the prior of 30 holds it back a little."""
    position, sigma, truth = simulated(1000)
    assert sigma_factor([position, wrong * sigma], truth) == pytest.approx(1 / wrong, rel=0.1)
    few = [position[:3], wrong * sigma[:3]]
    assert sigma_factor(few, truth[:3]) == pytest.approx(1, rel=0.1)


def test_shares_in_regions_are_those_of_the_mixture():
    """Not those of its ellipses, which are about a position that may be anywhere."""
    posteriors, truth = drawn_posteriors(2000)
    middle = np.tile([REGION.latitude_deg, REGION.longitude_deg], (2000, 1))
    outputs = [middle, np.full((2000, 2), 1e4), *posteriors]
    assert region_shares(outputs, truth) == pytest.approx([0.68, 0.95], abs=0.03)


def test_the_energy_score_is_that_of_samples():
    """By its definition, with 200,000 draws."""
    posteriors, truth = drawn_posteriors(3, seed=5)
    scores = posterior_scores(posteriors, truth)
    rng = np.random.default_rng(1)
    for row in range(3):
        weights, means, covariances = (part[row] for part in posteriors)
        away = -offset_east_north_m(means, np.tile(truth[row], (3, 1)))
        matrices = covariances[:, [0, 2, 2, 1]].reshape(3, 2, 2)
        pairs = []
        for _ in range(2):
            chosen = rng.choice(3, 200_000, p=weights)
            every = [
                rng.multivariate_normal(*one, 200_000) for one in zip(away, matrices, strict=True)
            ]
            pairs.append(np.stack(every)[chosen, np.arange(200_000)])
        one, other = pairs
        apart = np.linalg.norm(one - other, axis=1).mean()
        wanted = np.linalg.norm(one, axis=1).mean() - apart / 2
        assert scores.energy_m[row] == pytest.approx(wanted, rel=0.01)


@pytest.mark.slow
def test_a_posterior_scores_best_where_it_is_true():
    """Proper scores: neither one ellipse for two places nor too much certainty pays."""
    posteriors, truth = drawn_posteriors(2000, seed=2)
    weights, means, covariances = posteriors
    honest = posterior_scores(posteriors, truth)
    for lie in (
        Posteriors(weights, means, covariances / 4),
        Posteriors(weights, means, covariances * 4),
        Posteriors(np.ones_like(weights), means, covariances),
    ):
        found = posterior_scores(lie, truth)
        assert found.nll.mean() > honest.nll.mean()
        assert found.energy_m.mean() > honest.energy_m.mean()


@pytest.mark.parametrize(
    ("weights", "covariances", "message"),
    [
        ([[1.0, math.nan]], [[[1, 1, 0]] * 2], "1 of 1 weights"),
        ([[1.5, -0.5]], [[[1, 1, 0]] * 2], "1 of 1 weights"),
        ([[0.5, 0.5]], [[[1, 1, 0], [1, 1, 2]]], "1 of 1 posteriors"),
        ([[0.5, 0.5]], [[[1, 1, 0]] * 3], r"covariances \(1, 3, 3\) do not match"),
    ],
)
def test_posteriors_that_are_none_are_refused(weights, covariances, message):
    """With the first session of them."""
    posteriors = Posteriors(np.array(weights), np.zeros((1, 2, 2)), np.array(covariances))
    with pytest.raises(ModelError, match=message):
        posterior_scores(posteriors, [[0.0, 0.0]])


def east_of(distances_m, azimuth_deg=90.0):
    """Places at these distances from 45 N 8 E, by PROJ's way there and not its way back."""
    n = len(distances_m)
    longitude, latitude, _ = WGS84.fwd([8.0] * n, [45.0] * n, [azimuth_deg] * n, distances_m)
    return np.stack([latitude, longitude], axis=1)


def test_a_hundred_errors_by_hand():
    """Errors of 0, 10, ... 1000 m and ellipses of 100 m: 68 % end at 151 m and 95 % at 245 m."""
    metrics = localization_metrics([45.0, 8.0], [100.0, 100.0], east_of(np.arange(101) * 10.0))
    expected = {
        "error_m_median": 500,
        "error_m_mean": 500,
        "error_m_rmse": math.sqrt(100 * 201 / 6 * 100),
        "error_m_p68": 680,
        "error_m_p95": 950,
        "coverage_68": 16 / 101,
        "coverage_95": 25 / 101,
        "nll": 2 * math.log(0.1) + math.log(2 * math.pi) + 100 * 201 / 6 / 100 / 2,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_accuracy_is_of_errors_up_to_30_m():
    """Beside the limit, on both sides."""
    truth = east_of([29.99, 30.01, 5000.0, 1.0])
    assert localization_metrics([45.0, 8.0], [10.0, 10.0], truth)["accuracy_30m"] == 0.5


@pytest.mark.parametrize(("level", "ece"), [(0.0, 9.5 / 19), (0.52, 5 / 19), (0.999, 9.5 / 19)])
def test_the_calibration_error_of_one_session_by_hand(level, ece):
    """It is inside the ellipses above its level: 0.05 + ... + 0.50 and 0.45 + ... + 0.05 amiss."""
    truth = east_of([100 * math.sqrt(-2 * math.log1p(-level))])
    found = localization_metrics([45.0, 8.0], [100.0, 100.0], truth)["ece"]
    assert found == pytest.approx(ece)


@pytest.mark.parametrize(
    ("azimuth_deg", "unit"), [(0, (0, 1)), (90, (1, 0)), (210, (-0.5, -0.866))]
)
def test_offsets_are_east_and_north_from_the_estimate(azimuth_deg, unit):
    """An azimuth counts clockwise from north."""
    offset_m = offset_east_north_m(np.array([[45.0, 8.0]]), east_of([2000.0], azimuth_deg))
    assert offset_m[0] == pytest.approx(2000 * np.array(unit), abs=0.1)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), tilts), min_size=1, max_size=5))
def test_distances_in_sigmas_are_those_of_the_inverse_covariance(rows):
    """By the definition, with NumPy's inverse."""
    east, north, tilt = np.array(rows).T
    sigma_m, offset_m = np.tile([2.0, 5.0], (len(rows), 1)), np.stack([east, north], axis=1)
    expected = [
        each @ np.linalg.inv([[4.0, 10 * r], [10 * r, 25.0]]) @ each
        for each, r in zip(offset_m, tilt, strict=True)
    ]
    found = mahalanobis_squared(offset_m, sigma_m, tilt)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-300)


def test_a_networks_outputs_are_read_in_their_order():
    """Two outputs, or three with correlations, or six with a mixture, or five without them."""
    position, sigma, truth = simulated(40, tilt=0.7)
    tilt = np.full(40, 0.7)
    mixture = tuple(drawn_posteriors(40)[0])
    for outputs, expected in (
        ([position, sigma], localization_metrics(position, sigma, truth)),
        ([position, sigma, tilt], localization_metrics(position, sigma, truth, tilt)),
        (
            [position, sigma, *mixture],
            localization_metrics(position, sigma, truth, 0.0, Posteriors(*mixture)),
        ),
        (
            [position, sigma, tilt, *mixture],
            localization_metrics(position, sigma, truth, tilt, Posteriors(*mixture)),
        ),
    ):
        assert served_metrics(outputs, truth) == expected


def test_a_mixtures_density_is_that_of_its_parts():
    """By hand: 3/4 of a Gaussian of 1 km at the truth, 1/4 of one of 2 km that is 2 km north."""
    means = np.stack([[45.0, 8.0], east_of([2000.0], 180.0)[0]])[None]
    covariances = np.array([[[1e6, 1e6, 0.0], [4e6, 4e6, 0.0]]])
    posteriors = Posteriors(np.array([[6.0, 2.0]]), means, covariances)
    density = (0.75 + 0.25 * math.exp(-0.5) / 4) / (2 * math.pi)
    found = posterior_scores(posteriors, [[45.0, 8.0]])
    assert found.nll[0] == pytest.approx(-math.log(density), abs=1e-4)


def test_the_energy_score_of_a_round_gaussian_by_hand():
    """Distances in the plane are Rayleigh's: sigma sqrt(pi / 2), and sqrt 2 times it of a pair."""
    gaussian = Posteriors(np.ones((1, 1)), np.array([[[45.0, 8.0]]]), np.array([[[9e4, 9e4, 0.0]]]))
    expected = 300 * math.sqrt(math.pi / 2) * (1 - math.sqrt(2) / 2)
    found = posterior_scores(gaussian, [[45.0, 8.0]])
    assert found.energy_m[0] == pytest.approx(expected, rel=1e-3)
    assert found.smallest_region[0] == 0


@pytest.mark.parametrize("sigmas", [0.2, 1.0, 1.7])
@pytest.mark.parametrize(("azimuth_deg", "sigma_m"), [(90.0, 2000.0), (0.0, 1000.0)])
def test_the_region_of_one_gaussian_is_its_ellipse(sigmas, azimuth_deg, sigma_m):
    """Also if it is tilted, by 0.8; 512 points tell probabilities to a 512th."""
    covariance = np.array([[[4e6, 1e6, 1.6e6]]])
    gaussian = Posteriors(np.ones((1, 1)), np.array([[[45.0, 8.0]]]), covariance)
    truth = east_of([sigmas * sigma_m], azimuth_deg)
    found = posterior_scores(gaussian, truth).smallest_region[0]
    assert found == pytest.approx(1 - math.exp(-(sigmas**2) / (1 - 0.8**2) / 2), abs=3 / 512)


@pytest.mark.parametrize("n_sessions", [1, 64, 65])
def test_sessions_are_scored_alike_in_any_number(n_sessions):
    """They are taken 64 at a time."""
    posteriors, truth = drawn_posteriors(n_sessions, seed=3)
    together = posterior_scores(posteriors, truth)
    last = posterior_scores(Posteriors(*(part[-1:] for part in posteriors)), truth[-1:])
    for all_of, one in zip(together, last, strict=True):
        assert all_of.shape == (n_sessions,)
        assert all_of[-1] == pytest.approx(one[0])


@pytest.mark.parametrize(
    ("weights", "covariance", "message"),
    [
        ([[0.0, 0.0]], [1, 1, 0], "1 of 1 weights"),
        ([[math.inf, 1.0]], [1, 1, 0], "1 of 1 weights"),
        ([[1.0]], [0, 1, 0], "1 of 1 posteriors"),
        ([[1.0]], [1, 0, 0], "1 of 1 posteriors"),
        ([[1.0]], [-1, -1, 0], "1 of 1 posteriors"),
        ([[1.0]], [1, 1, 1], "1 of 1 posteriors"),
        ([[1.0]], [math.inf, 1, 0], "1 of 1 posteriors"),
        ([[1.0], [1.0]], [1, 1, 0], r"weights \(2, 1\) do not match 1 truths"),
        ([1.0], [1, 1, 0], r"weights \(1,\) do not match 1 truths"),
    ],
)
def test_weights_and_covariances_up_to_their_limits(weights, covariance, message):
    """What is no distribution has no score."""
    shape = np.shape(weights)[-1]
    posteriors = Posteriors(
        np.array(weights), np.zeros((1, shape, 2)), np.array([[covariance] * shape], float)
    )
    with pytest.raises(ModelError, match=message):
        posterior_scores(posteriors, [[0.0, 0.0]])


def test_the_first_bad_row_is_the_one_that_is_named():
    """And how many there are."""
    sigma = np.ones((4, 2))
    sigma[[1, 3]] = [[-7, 1], [0, 1]]
    with pytest.raises(ModelError, match=r"^2 of 4 sigmas .* row 1, is \[-7.0, 1.0\]"):
        localization_metrics(np.zeros((4, 2)), sigma, np.zeros((4, 2)))
