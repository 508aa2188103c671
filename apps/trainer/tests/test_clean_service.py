"""A service of its own environment: heimdall-features, ONNX Runtime and NumPy are all there is."""

import json
import os
import subprocess
from importlib.metadata import distribution, version
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
import uv
from heimdall_models import error_m
from heimdall_models.trained import Trained
from heimdall_models.training.resume import exported_network
from heimdall_trainer.delivery import sessions_of_part

pytestmark = pytest.mark.slow

SERVICE = """
import importlib.util, json, sys
import numpy as np, onnxruntime
from heimdall_features import FeatureExtractor
folder = sys.argv[1]
session = onnxruntime.InferenceSession(folder + "/model.onnx")
extract = FeatureExtractor.from_metadata(session.get_modelmeta().custom_metadata_map)
answers = []
for sent in json.load(open(folder + "/requests.json")):
    heard = {name: (np.load(folder + "/" + file), rate_hz) for name, file, rate_hz in sent}
    said = session.run(None, {"mel_spectrogram": extract(heard)[None]})
    answers.append([values[0].tolist() for values in said[:2]])
there = [name for name in ("torch", "onnx", "mlflow", "heimdall_export", "heimdall_locate",
                           "heimdall_models")
         if importlib.util.find_spec(name)]
print(json.dumps({"answers": answers, "there": there}))
"""


@pytest.fixture(scope="module")
def service_python(tmp_path_factory):
    """Python of a new environment, into which heimdall-features goes as a wheel."""
    place = tmp_path_factory.mktemp("service")
    tool, python = uv.find_uv_bin(), place / "bin" / "python"
    # What this environment was made of: a wheel, or a checkout that one is built of.
    source = json.loads(distribution("heimdall-features").read_text("direct_url.json"))["url"]
    needed = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy")]
    features = unquote(urlsplit(source).path)
    for command in (
        ["venv", "--quiet", place],
        ["pip", "install", "--quiet", f"--python={python}", features, *needed],
    ):
        # Past the listener of the tests: packages come from where they come from.
        ours = ("https_proxy", "xdg_cache_home", "xdg_config_home")
        direct = {k: v for k, v in os.environ.items() if k.lower() not in ours}
        subprocess.run([tool, *command], check=True, cwd=place, env=direct)
    return python


def test_a_clean_service_gives_the_positions_of_training(finished, service_python, tmp_path):
    """The same IQ: within a metre and one percent of the network that PyTorch has just trained."""
    part = sessions_of_part(finished.data, "test")
    items = [part[index] for index in range(len(part))]
    features = torch.from_numpy(np.stack([item["features"] for item in items]))
    network = exported_network(Trained.open(finished.summary.checkpoint), finished.data)
    with torch.inference_mode():
        position_deg, sigma_m = (values.numpy() for values in network(features)[:2])

    os.link(finished.summary.onnx_path, tmp_path / "model.onnx")
    sent = [_sent(part, index, tmp_path) for index in range(len(part))]
    (tmp_path / "requests.json").write_text(json.dumps(sent))
    ended = subprocess.run(
        [service_python, "-I", "-c", SERVICE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},  # as docs/architecture.md says
    )
    said = json.loads(ended.stdout)
    assert said["there"] == []
    there_deg, there_sigma_m = (np.array(column) for column in zip(*said["answers"], strict=True))
    assert len(there_deg) == len(part) > 5
    assert error_m(there_deg, position_deg.astype(np.float64)).max() < 1.0
    assert there_sigma_m == pytest.approx(sigma_m, rel=0.01)


def _sent(part, index, folder):
    """Writes a session's recordings; what a request says of them."""
    sent = []
    for name, recording in part.recordings(index).items():
        file = f"{index}-{len(sent)}.npy"
        np.save(folder / file, recording.iq)
        sent.append((name, file, recording.sample_rate_hz))
    return sent
