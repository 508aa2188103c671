"""A small network of the contract's shape, its file, and real servers to put it on."""

import importlib.util
import json
import uuid
from pathlib import Path

import numpy as np
import psycopg
import pytest
import torch
from heimdall_export import ArtifactStore, MLflowTracker, export_onnx, upload_model
from heimdall_features import FeatureConfig, FeatureExtractor
from hypothesis import settings
from psycopg import sql
from torch import nn

# A busy machine takes longer over an example than Hypothesis allows.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

pytest_plugins = ["heimdall_data.testing.fixtures"]

RECEIVERS = ("Torino", "Genova", "Milano-Baggio")
CONFIG = FeatureConfig(receivers=RECEIVERS, sample_rate_hz=12_500.0)
SCALE_M = 80_000.0


class SmallNet(nn.Module):
    """Features to degrees near 45 N, 8 E and metres; with what tends to hide a NaN."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 5, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, mel_spectrogram):
        """Positions and uncertainties, float32 `(batch, 2)` each."""
        normal = (mel_spectrogram + 100.0) / 40.0
        maps = self.norm(self.convolution(normal)).relu()
        out = self.head(self.dropout(maps.amax(dim=(2, 3))))
        origin = torch.tensor([45.0, 8.0], dtype=torch.float64)
        degrees = origin + out[:, :2].double() * 0.5
        return degrees.float(), out[:, 2:].clamp(0.01, 1.0) * SCALE_M


@pytest.fixture(scope="session")
def network():
    """The small network, with weights that are the same every time."""
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.fixture(scope="session")
def metadata():
    """What the contract wants a model file to say about itself."""
    receivers = [
        {"name": name, "latitude": 45.0 + n / 10, "longitude": 8.0}
        for n, name in enumerate(RECEIVERS)
    ]
    return {
        **FeatureExtractor(CONFIG).metadata(),
        "heimdall.receivers": json.dumps(receivers),
        "heimdall.region": json.dumps({"latitude_deg": 45.0, "longitude_deg": 8.0}),
        "heimdall.run_id": "0123abcd",
        "heimdall.created_at": "2026-11-20T12:00:00+00:00",
    }


@pytest.fixture(scope="session")
def onnx_path(network, metadata, tmp_path_factory):
    """The small network as a model file."""
    return export_onnx(network, tmp_path_factory.mktemp("model") / "model.onnx", metadata=metadata)


@pytest.fixture(scope="session")
def scale_m():
    """Metres in one of the small network's units."""
    return SCALE_M


@pytest.fixture(scope="session")
def feature_config():
    """The small network's features."""
    return CONFIG


@pytest.fixture(scope="session")
def recordings_of():
    """Makes one session's recordings from a seed."""
    return _recordings_of


def _recordings_of(seed, receivers=RECEIVERS, rate_hz=12_500.0, n_samples=20_000):
    """Noise with a carrier in it, as each receiver might hear one transmission."""
    rng = np.random.default_rng(seed)
    carrier = np.exp(2j * np.pi * rng.uniform(-0.4, 0.4) * np.arange(n_samples))
    return {
        name: (
            (carrier * 10 ** rng.uniform(-3, -1) + _noise(rng, n_samples)).astype(np.complex64),
            rate_hz,
        )
        for name in receivers
    }


def _noise(rng, n_samples):
    parts = rng.normal(scale=10 ** rng.uniform(-4, -2), size=(2, n_samples))
    return parts[0] + 1j * parts[1]


@pytest.fixture(scope="session")
def features():
    """70 feature tensors of IQ, as the extractor makes them."""
    extract = FeatureExtractor(CONFIG)
    return np.stack([extract(_recordings_of(seed)) for seed in range(70)])


def _module(name):
    """A module beside this file; tests are collected without `sys.path`."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def faulty():
    """The module `faulty_store`."""
    return _module("faulty_store")


@pytest.fixture(scope="session")
def one_mlflow_server(stack, tmp_path_factory):
    """A server with its runs in Postgres; it takes half a minute to start, so there is one."""
    name = f"mlflow_{uuid.uuid4().hex}"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = f"{stack.database_url.rpartition('/')[0]}/{name}"
    server = _module("mlflow_server").MlflowServer(tmp_path_factory.mktemp("mlflow-server"), url)
    try:
        yield server
    finally:
        server.die()


@pytest.fixture
def mlflow_server(one_mlflow_server):
    """The server, running; a test may let it die."""
    one_mlflow_server.start()
    return one_mlflow_server


@pytest.fixture
def client(s3_settings):
    """A client of the real object store."""
    return s3_settings.client()


@pytest.fixture(scope="session")
def keys():
    """Lists the objects of a bucket."""
    return lambda client, bucket: sorted(
        found.object_name for found in client.list_objects(bucket, recursive=True)
    )


@pytest.fixture(scope="session")
def without_extras():
    """Python that keeps a process from importing what a service does not install."""
    return """
import sys


class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        extras = {"torch", "onnx", "mlflow", "boto3", "heimdall_data", "heimdall_models"}
        if name.partition(".")[0] in extras:
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, NotInstalled())
"""


@pytest.fixture
def uploaded(client, models_bucket, onnx_path):
    """The small network in the object store, with its sidecar."""
    return upload_model(client, models_bucket, onnx_path, run_id="r", metrics={}, versions={})


@pytest.fixture
def models_bucket(s3_settings):
    """An empty bucket for this test alone."""
    name = f"test-{uuid.uuid4()}"
    client = s3_settings.client()
    client.make_bucket(name)
    yield name
    for found in client.list_objects(name, recursive=True):
        client.remove_object(name, found.object_name)
    client.remove_bucket(name)


@pytest.fixture(scope="session")
def artifact_store(stack):
    """The stack's object store, as MLflow is told of it."""
    s3 = stack.s3
    return ArtifactStore(
        endpoint_url=s3.endpoint_url, access_key=s3.access_key, secret_key=s3.secret_key
    )


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory):
    """A real MLflow store in SQLite; its schema is made once."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def tracker(tracking_uri, artifact_store):
    """A run whose artifacts go to the stack's object store."""
    with MLflowTracker(
        tracking_uri, artifact_root="s3://heimdall-mlflow", artifact_store=artifact_store
    ) as run:
        yield run


@pytest.fixture
def model_name():
    """A name in the registry for this test alone."""
    return f"model-{uuid.uuid4().hex}"
