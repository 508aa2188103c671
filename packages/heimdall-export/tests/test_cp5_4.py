"""CP5.4: the model file is in the bucket, passes the checker, and agrees with PyTorch."""

import json
import re

import onnx
from heimdall_export import check_parity, export_onnx, upload_model


def test_cp5_4_the_model_in_the_bucket_passes_the_checker_and_agrees_with_pytorch(
    stack, network, metadata, features, scale_m, tmp_path
):
    """What services will download is judged, not the copy that the trainer kept."""
    path = export_onnx(network, tmp_path / "model.onnx", metadata=metadata)
    client, bucket = stack.s3.client(), stack.s3.models_bucket
    uploaded = upload_model(
        client,
        bucket,
        path,
        run_id="0123abcd",
        metrics={"val/error_m_median": 1234.5},
        versions={"heimdall-export": "0.1.0"},
    )
    assert bucket == "heimdall-models"
    assert re.fullmatch(
        r"s3://heimdall-models/models/localization/v\d{8}_\d{6}\.onnx", uploaded.uri
    )
    downloaded = tmp_path / "downloaded.onnx"
    client.fget_object(bucket, uploaded.key, str(downloaded))

    onnx.checker.check_model(str(downloaded), full_check=True)
    report = check_parity(downloaded, network, features, scale_m=scale_m)
    assert report.n_features == 70
    assert report.batch_sizes == (1, 4, 8, 16, 32, 64)
    assert report.mean_difference < 1e-5

    sidecar = json.loads(client.get_object(bucket, uploaded.key.replace("onnx", "json")).data)
    assert sidecar["sha256"] == uploaded.sha256
    assert sidecar["size"] == downloaded.stat().st_size
    assert sidecar["run_id"] == "0123abcd"
