"""Model files that answer with a mixture of Gaussians."""

import numpy as np
import onnx
import pytest
import torch
from heimdall_export import ExportError, Predictor, check_parity, export_onnx
from heimdall_export.contract import MIXTURE_OUTPUTS, OUTPUTS
from heimdall_export.graph.quantize import quantize_model
from heimdall_export.session import open_session
from heimdall_locate import Site
from heimdall_locate.output import geojson, kml
from heimdall_locate.sites import moved_deg
from heimdall_models import LocalizationNet, Region, ServingNet, Standardize
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from pyproj import Geod

WGS84 = Geod(ellps="WGS84")
places_m = st.tuples(st.floats(-100e3, 100e3), st.floats(-100e3, 100e3))
covariances_m2 = st.builds(
    lambda east, north, r: (east**2, north**2, r * east * north),
    st.floats(100, 10e3),
    st.floats(100, 10e3),
    st.floats(-0.99, 0.99),
)
mixtures = st.lists(st.tuples(st.floats(0.05, 1), places_m, covariances_m2), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def predictor_of(onnx_path):
    """Makes a predictor that answers every session with the same mixture."""

    def make(weights, means, covariances):
        model = onnx.load(onnx_path)
        graph = model.graph
        # A zero for each session, (n, 1), gives the constants their batch.
        for name, values in (("axis 1", [1]), ("axis 2", [2]), ("zero", np.zeros(1, np.float32))):
            graph.initializer.append(numpy_helper.from_array(np.array(values), name))
        graph.node.extend(
            [
                helper.make_node("ReduceSum", ["uncertainties", "axis 1"], ["sum"]),
                helper.make_node("Mul", ["sum", "zero"], ["flat"]),
                helper.make_node("Unsqueeze", ["flat", "axis 2"], ["deep"]),
            ]
        )
        for name, values, zero in (
            ("weights", weights, "flat"),
            ("means", means, "deep"),
            ("covariances", covariances, "deep"),
        ):
            constant = np.asarray(values, np.float32)[None]
            graph.initializer.append(numpy_helper.from_array(constant, f"{name} of all"))
            graph.node.append(helper.make_node("Add", [f"{name} of all", zero], [name]))
            shape = ["batch", *constant.shape[1:]]
            graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        return Predictor(model.SerializeToString(), n_threads=1, warm_up=False)

    return make


@settings(max_examples=25)
@given(mixtures)
def test_the_answer_is_the_files_mixture(predictor_of, features, drawn):
    """Two mirror solutions must reach the user as two places, the likelier first."""
    weights, places, covariances = zip(*drawn, strict=True)
    assume(len(set(weights)) == len(weights))
    means = [[float(axis) for axis in moved_deg(45.0, 8.0, *place)] for place in places]
    found = predictor_of(weights, means, covariances).predict_features(features[:2])
    assert found[0] == found[1]
    order = np.argsort(weights)[::-1]
    shares = np.array(weights)[order] / sum(weights)
    assert [one.probability for one in found[0].candidates] == pytest.approx(shares)
    there = [(one.latitude_deg, one.longitude_deg) for one in found[0].candidates]
    assert np.array(there) == pytest.approx(np.array(means)[order], rel=1e-6)
    for one, at in zip(found[0].candidates, order, strict=True):
        (east, both), (_, north) = one.covariance_m2
        assert (east, north, both) == pytest.approx(covariances[at], rel=1e-5, abs=1e-3)
    assert ("no candidate dominates" in found[0].termination) == (shares[0] < 0.95)


@settings(max_examples=25)
@given(mixtures)
def test_sigmas_are_those_of_the_whole_mixture(predictor_of, features, drawn):
    """Oracle: the second moment of many points, with PROJ's geodesics between the candidates.

    A first candidate alone would claim metres where the other candidate is far away.
    """
    weights, places, covariances = zip(*drawn, strict=True)
    assume(len(set(weights)) == len(weights))
    means = [[float(axis) for axis in moved_deg(45.0, 8.0, *place)] for place in places]
    (found,) = predictor_of(weights, means, covariances).predict_features(features[:1])
    rng, points = np.random.default_rng(0), []
    for (latitude_deg, longitude_deg), (east, north, both) in zip(means, covariances, strict=True):
        bearing_deg, _, away_m = WGS84.inv(
            found.longitude_deg, found.latitude_deg, longitude_deg, latitude_deg
        )
        turn = np.radians(bearing_deg)
        offset = away_m * np.array([np.sin(turn), np.cos(turn)])
        shape = np.linalg.cholesky([[east, both], [both, north]])
        points.append(offset + rng.normal(size=(4_000, 2)) @ shape.T)
    shares = np.array(weights) / sum(weights)
    wanted = np.einsum("k,kni,knj->ij", shares / 4_000, points, points)
    assert found.sigma_east_m == pytest.approx(wanted[0, 0] ** 0.5, rel=0.1)
    assert found.sigma_north_m == pytest.approx(wanted[1, 1] ** 0.5, rel=0.1)
    correlation = wanted[0, 1] / np.sqrt(wanted[0, 0] * wanted[1, 1])
    assert found.correlation == pytest.approx(correlation, abs=0.1)


@pytest.mark.parametrize(
    ("weights", "means", "covariances"),
    [
        ([0.5, np.nan], [[45, 8], [46, 8]], [[1e6, 1e6, 0], [1e6, 1e6, 0]]),
        ([1.5, -0.5], [[45, 8], [46, 8]], [[1e6, 1e6, 0], [1e6, 1e6, 0]]),
        ([0.5, 0.5], [[45, 8], [46, np.inf]], [[1e6, 1e6, 0], [1e6, 1e6, 0]]),
        ([0.5, 0.5], [[45, 8], [46, 8]], [[1e6, 1e6, 0], [-1e6, 1e6, 0]]),
        ([0.0, 0.0], [[45, 8], [46, 8]], [[1e6, 1e6, 0], [1e6, 1e6, 0]]),
    ],
)
def test_a_mixture_that_is_none_is_no_answer(predictor_of, features, weights, means, covariances):
    """One broken component would make a map of nonsense."""
    with pytest.raises(ExportError, match="session 0"):
        predictor_of(weights, means, covariances).predict_features(features[:1])


def test_a_long_ellipse_is_an_answer(predictor_of, features):
    """In float32, 1,920 km by 59 m has the determinant 0: nothing may be lost by rounding."""
    (found,) = predictor_of([1.0], [[45, 8]], [[1.96e12, 1.96e12, 1.96e12]]).predict_features(
        features[:1]
    )
    assert found.sigma_east_m == pytest.approx(1.4e6)
    assert found.ellipse_68.semi_minor_m < found.ellipse_68.semi_major_m / 1000
    assert found.ellipse_68.bearing_deg == pytest.approx(45, abs=0.1)


@pytest.fixture(scope="module")
def mixed(scale_m):
    """A network whose levels leave several places: receivers read path loss, and rather loosely."""
    torch.manual_seed(0)
    mean = np.full((3, 128, 1), -60.0)
    net = LocalizationNet(3, "test_convnext", n_components=4)
    posterior = net.heads.posterior
    receivers = torch.tensor([[-0.3, 0.2], [0.3, 0.1], [0.0, -0.3]])
    apart = (posterior.places - receivers[:, None]).norm(dim=2)
    posterior.mean_db.copy_(-60 - 30 * (apart + 0.05).log10())
    posterior.own_variance.fill_(9.0)
    posterior.noise.fill_(1e-12)
    posterior.mean.fill_(-60.0)
    posterior.std.fill_(20.0)
    standardize = Standardize(mean, np.full_like(mean, 20.0))
    return ServingNet(standardize, net, Region(45.0, 8.0, scale_m)).eval()


@pytest.fixture(scope="module")
def mixed_path(mixed, metadata, tmp_path_factory):
    """Its model file."""
    return export_onnx(mixed, tmp_path_factory.mktemp("mixed") / "model.onnx", metadata=metadata)


def test_an_exported_mixture_is_the_network_s(mixed, mixed_path, features, scale_m):
    """The fit is part of the graph, and runs for any batch."""
    report = check_parity(mixed_path, mixed, features, scale_m=scale_m, batch_sizes=(1, 16))
    assert 0 < report.mean_mixture_difference < 1e-4
    session = open_session(mixed_path)
    assert [end.name for end in session.get_outputs()] == [*OUTPUTS, *MIXTURE_OUTPUTS]


def test_parity_sees_another_mixture(mixed_path, mixed, features, scale_m):
    """The check above can fail."""
    variance = mixed.net.heads.posterior.own_variance
    variance.fill_(16.0)
    try:
        with pytest.raises(ExportError, match="differs from its network"):
            check_parity(mixed_path, mixed, features, scale_m=scale_m, batch_sizes=(16,))
    finally:
        variance.fill_(9.0)


def test_a_predictor_lists_the_places_that_the_network_weighs(mixed, mixed_path, features):
    """The likelier first, and each in every file that a user opens."""
    found = Predictor(mixed_path, n_threads=1).predict_features(features[:8])
    with torch.no_grad():
        _, _, weights, means, covariances = mixed(torch.from_numpy(features[:8]))
    sites = [Site("Torino", 45.0, 8.0)]
    for row, position in enumerate(found):
        order = weights[row].argsort(descending=True).tolist()
        kept = [at for at in order if weights[row, at] >= 1e-3]
        assert len(position.candidates) == len(kept)
        for one, at in zip(position.candidates, kept, strict=True):
            assert one.probability == pytest.approx(weights[row, at].item(), abs=1e-3)
            place = (one.latitude_deg, one.longitude_deg)
            assert place == pytest.approx(means[row, at].tolist(), abs=1e-4)
            assert one.covariance_m2[0][0] == pytest.approx(
                covariances[row, at, 0].item(), rel=0.01
            )
        drawn = [each["properties"] for each in geojson(position, sites)["features"]]
        assert sum("probability" in each for each in drawn) >= len(kept)
        assert kml(position, sites).count("<Placemark>") > len(kept)
    assert max(len(position.candidates) for position in found) > 1


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_smaller_files_keep_the_mixture(mixed_path, features, tmp_path, kind):
    """All outputs, and finite ones."""
    path = quantize_model(mixed_path, tmp_path / "small.onnx", kind, features=features[:16])
    session = open_session(path)
    names = [end.name for end in session.get_outputs()]
    assert names == [*OUTPUTS, *MIXTURE_OUTPUTS]
    outputs = dict(zip(names, session.run(None, {"mel_spectrogram": features[:4]}), strict=True))
    assert all(np.isfinite(values).all() for values in outputs.values())
    assert outputs["weights"].sum(axis=1) == pytest.approx(np.ones(4), abs=1e-4)


def test_a_broken_session_has_no_mixture(mixed_path, features):
    """Of a batch, the others keep theirs."""
    batch = features[:3].copy()
    batch[1, 0, 3, 4] = np.nan
    for values in open_session(mixed_path).run(None, {"mel_spectrogram": batch}):
        assert np.isnan(values[1]).all()
        assert np.isfinite(values[[0, 2]]).all()
