"""What a finished run says in MLflow of its data, and that the model has an example of it."""

import json

from heimdall_export.registry.registry import list_versions
from mlflow import MlflowClient
from mlflow.models import Model


def test_each_side_of_the_split_is_a_dataset_of_the_run(connections, finished):
    """Who compares two runs must see at a glance whether they saw the same sessions."""
    run = MlflowClient(connections.tracking_uri()).get_run(finished.summary.run_id)
    kept = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    for context, side in (("training", "train"), ("validation", "validation"), ("testing", "test")):
        sessions = getattr(finished.data, side).sessions
        profile = json.loads(kept[context].profile)
        assert profile["sessions"] == sorted(session.id for session in sessions)
        assert json.loads(kept[context].source)["tags"]["recordings"] == "s3://heimdall-raw-iq"


def test_the_registered_model_has_a_signature_and_a_real_example(connections, finished):
    """The example is what a stranger tries first; zeros would say nothing."""
    version = next(
        v for v in list_versions(connections.tracking_uri()) if v.run_id == finished.summary.run_id
    )
    client = MlflowClient(connections.tracking_uri())
    source = client.get_run(version.run_id).info.artifact_uri + "/model"
    with connections.artifact_store().environment():
        model = Model.load(source)
        example = model.load_input_example(source)
    assert model.signature.inputs.input_names() == ["mel_spectrogram"]
    features = finished.data.validation[0]["features"]
    assert abs(example["mel_spectrogram"][0] - features).max() == 0
