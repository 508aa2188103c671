"""`heimdall train --tilted`: ellipses of levels that lean, from training to the model file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from heimdall_export.serving.predictor import Predictor
from heimdall_trainer.pipeline import TrainingPipeline


@pytest.fixture(scope="module")
def finished(connections, quick):
    """One whole run."""
    leaning = replace(quick, backbone="test_convnext", tilted=True)
    return TrainingPipeline(leaning, connections).run()


def test_the_model_file_tells_how_ellipses_lean(finished):
    """After the contract's two outputs, which whoever unpacks two must ask for by name."""
    path = Path(finished.summary.onnx_path)
    session = onnxruntime.InferenceSession(path)
    assert [found.name for found in session.get_outputs()] == [
        "positions",
        "uncertainties",
        "correlations",
    ]
    test = finished.data.test
    features = np.stack([test[index]["features"] for index in range(len(test))])
    judged = finished.delivery.evaluated.evaluation
    said = Predictor(path).predict_features(features)
    assert [one.correlation for one in said] == pytest.approx(judged.correlation, abs=1e-3)
    assert np.abs(judged.correlation).max() > 0.05
    assert all(one.unexplained is None for one in said)
