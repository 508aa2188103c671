"""Upload to a real object store: never over another model, never half a model."""

import hashlib
import http.client
import io
import json
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import minio
import onnx
import pytest
import urllib3
from heimdall_export import ExportError, check_parity, export_onnx, upload_model
from heimdall_export.object_store.store import store_errors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
MODEL, SIDECAR = "v20261120_120000.onnx", "v20261120_120000.json"


def upload(client, bucket, path, **changes):
    """Upload at noon, or as the test wants it."""
    given_ = {"run_id": "0123abcd", "metrics": {"val/loss": 1.5}, "versions": {"numpy": "2"}}
    return upload_model(client, bucket, path, **(given_ | {"created_at": NOON} | changes))


@pytest.fixture
def stored(client, keys, models_bucket):
    """Names of the objects in the bucket, without the contract's folder."""
    return lambda: [key.removeprefix("models/localization/") for key in keys(client, models_bucket)]


@pytest.fixture
def through(s3_settings):
    """Makes a client that reaches the store through a proxy."""

    def make(address, secret_key=None):
        return minio.Minio(
            address,
            s3_settings.access_key,
            secret_key or s3_settings.secret_key,
            secure=False,
            region=s3_settings.region,
        )

    return make


@pytest.fixture
def store_address(s3_settings):
    """Host and port of the real store."""
    return s3_settings.endpoint_url.removeprefix("http://")


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moment=st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1)),
    hours=st.integers(-12, 14),
    contents=st.binary(min_size=1, max_size=100),
)
def test_the_name_is_the_utc_second_and_the_contents_come_back(
    client, models_bucket, tmp_path, moment, hours, contents
):
    """The contract's name is in UTC, wherever the trainer stands."""
    (tmp_path / "m.onnx").write_bytes(contents)
    local = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    made = upload(client, models_bucket, tmp_path / "m.onnx", created_at=local)
    key = f"models/localization/v{local.astimezone(UTC):%Y%m%d_%H%M%S}.onnx"
    assert made.uri == f"s3://{models_bucket}/{key}"
    assert made.sha256 == hashlib.sha256(contents).hexdigest()
    assert client.get_object(models_bucket, key).data == contents
    for name in (key, key.replace(".onnx", ".json")):
        client.remove_object(models_bucket, name)


def test_the_sidecar_says_what_the_contract_wants(client, models_bucket, onnx_path):
    """Whoever deploys a file decides by its sidecar."""
    made = upload(
        client, models_bucket, onnx_path, metrics={"val/loss": 1.5, "val/ece": float("nan")}
    )
    key = f"models/localization/{SIDECAR}"
    says = json.loads(client.get_object(models_bucket, key).data)
    assert says.pop("upload_id")
    assert says == {
        "uri": f"s3://{models_bucket}/models/localization/{MODEL}",
        "key": f"models/localization/{MODEL}",
        "sha256": made.sha256,
        "size": onnx_path.stat().st_size,
        "created_at": "2026-11-20T12:00:00+00:00",
        "run_id": "0123abcd",
        "metrics": {"val/loss": 1.5, "val/ece": None},
        "versions": {"numpy": "2"},
    }
    assert client.stat_object(models_bucket, key).content_type == "application/json"
    model = client.stat_object(models_bucket, f"models/localization/{MODEL}")
    assert model.content_type == "application/octet-stream"


def test_a_second_that_is_taken_moves_on_to_the_next(client, models_bucket, onnx_path, tmp_path):
    """The first model is in production perhaps; not a byte of it may change."""
    upload(client, models_bucket, onnx_path)
    (tmp_path / "other.onnx").write_bytes(b"other")
    second = upload(client, models_bucket, tmp_path / "other.onnx")
    assert second.key.endswith("v20261120_120001.onnx")
    first = client.get_object(models_bucket, f"models/localization/{MODEL}").data
    assert first == onnx_path.read_bytes()


def test_a_model_without_a_sidecar_is_not_overwritten_either(
    client, models_bucket, onnx_path, stored
):
    """The predecessor's models have none."""
    client.put_object(models_bucket, f"models/localization/{MODEL}", io.BytesIO(b"old"), 3)
    upload(client, models_bucket, onnx_path)
    assert client.get_object(models_bucket, f"models/localization/{MODEL}").data == b"old"
    assert stored() == [
        MODEL,
        "v20261120_120001.json",
        "v20261120_120001.onnx",
    ]


def test_uploads_in_the_same_second_each_get_a_name(s3_settings, models_bucket, tmp_path, stored):
    """Two trainers that finish together must not overwrite each other; the store decides."""
    paths = [tmp_path / f"{n}.onnx" for n in range(6)]
    for n, path in enumerate(paths):
        path.write_bytes(b"model %d" % (n // 2))  # pairs are equal, and still two models
    start = threading.Barrier(len(paths))

    def one(path):
        start.wait()
        return upload(s3_settings.client(), models_bucket, path)

    with ThreadPoolExecutor(len(paths)) as pool:
        made = list(pool.map(one, paths))
    assert len({model.key for model in made}) == len(paths)
    for path, model in zip(paths, made, strict=True):
        client = s3_settings.client()
        assert client.get_object(models_bucket, model.key).data == path.read_bytes()
    assert len(stored()) == 2 * len(paths)


@pytest.mark.parametrize("fault", ["cut", "unavailable", "carry_out_and_cut"])
@pytest.mark.parametrize("where", ["PUT .json", "PUT .onnx"])
def test_what_can_heal_is_tried_again(
    through, store_address, models_bucket, onnx_path, faulty, fault, where, stored
):
    """An overloaded store or a dropped connection must not cost an hour of training."""
    with faulty.faulty_store(store_address, [(where, getattr(faulty, fault))] * 2) as (at, seen):
        made = upload(through(at), models_bucket, onnx_path)
    assert made.key.endswith(MODEL)
    assert stored() == [SIDECAR, MODEL]
    assert sum(request.endswith(where.split(" ")[1]) for request in seen) > 2


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_not_waited_for_forever(
    through, store_address, models_bucket, onnx_path, faulty, monkeypatch, stored
):
    """A connection that a firewall forgot looks like this."""
    monkeypatch.setattr(urllib3, "Timeout", lambda connect, read: urllib3.util.Timeout(read=2))
    with faulty.faulty_store(store_address, [("PUT .onnx", faulty.hang)]) as (at, seen):
        upload(through(at), models_bucket, onnx_path)
    assert stored() == [SIDECAR, MODEL]
    assert sum(request.endswith(".onnx") for request in seen) > 2


def test_a_store_that_is_not_there_is_told(s3_settings, onnx_path):
    """The commonest cause is an address with a typing error."""
    nowhere = replace(s3_settings, endpoint_url="http://127.0.0.1:1").client()
    with pytest.raises(ExportError, match=r"'heimdall-models': .*out of reach"):
        upload(nowhere, "heimdall-models", onnx_path)


def test_damage_on_the_way_is_found_and_nothing_is_left(
    through, store_address, models_bucket, onnx_path, faulty, stored
):
    """A model with one wrong bit answers confidently and wrongly."""
    with (
        faulty.faulty_store(store_address, [("PUT .onnx", faulty.damage)]) as (at, _),
        pytest.raises(ExportError, match=r"came back from .* with sha256 .*it was removed"),
    ):
        upload(through(at), models_bucket, onnx_path)
    assert stored() == []


@pytest.mark.slow
def test_a_store_that_stays_down_leaves_nothing_and_no_address_that_can_write(
    through, store_address, models_bucket, onnx_path, faulty, stored, caplog
):
    """A presigned address in a log would let its reader write into the bucket."""
    with (
        faulty.faulty_store(store_address, [("PUT .onnx", faulty.cut)] * 9) as (at, _),
        pytest.raises(ExportError, match=r"models/localization/v\S+\.onnx") as told,
    ):
        upload(through(at), models_bucket, onnx_path)
    assert "X-Amz" not in str(told.value) + caplog.text
    assert stored() == []


@pytest.mark.parametrize("where", ["PUT .json", "PUT .onnx"])
def test_an_interruption_leaves_nothing(
    through, store_address, models_bucket, onnx_path, faulty, where, stored
):
    """Ctrl-C after an object was stored and before it was verified."""
    with (
        faulty.faulty_store(store_address, [(where, faulty.ctrl_c)]) as (at, _),
        pytest.raises(KeyboardInterrupt),
    ):
        upload(through(at), models_bucket, onnx_path)
    assert stored() == []


def test_half_a_model_from_a_killed_sender_is_no_object(
    client, models_bucket, store_address, onnx_path, stored
):
    """A killed process cannot clean up; the store must not show such an object."""
    key = f"models/localization/{MODEL}"
    url = client.presigned_put_object(models_bucket, key, timedelta(minutes=1))
    sender = http.client.HTTPConnection(store_address, timeout=30)
    sender.putrequest("PUT", url.partition(store_address)[2])
    sender.putheader("Content-Length", "1000000")
    sender.putheader("If-None-Match", "*")
    sender.endheaders()
    sender.send(b"x" * 500_000)
    sender.close()
    assert stored() == []
    assert upload(client, models_bucket, onnx_path).key == key


def test_wrong_credentials_are_told_without_repeating_them(
    through, store_address, models_bucket, onnx_path, stored
):
    """The message goes to logs that many can read."""
    with pytest.raises(ExportError, match=r"AccessDenied|SignatureDoesNotMatch") as told:
        upload(through(store_address, "wrong-secret-key"), models_bucket, onnx_path)
    assert "wrong-secret-key" not in str(told.value)
    assert stored() == []


def test_a_wrong_clock_is_told_from_wrong_credentials(client, models_bucket, monkeypatch):
    """A laptop that slept says that the password is wrong, and nobody looks at its clock."""
    two_hours = timedelta(hours=2)
    of_client, of_machine = minio.time.utcnow, time.time
    monkeypatch.setattr("minio.time.utcnow", lambda: of_client() - two_hours)
    monkeypatch.setattr("time.time", lambda: of_machine() - two_hours.total_seconds())
    for ask in (client.bucket_exists, client.list_objects):
        with pytest.raises(ExportError, match="clock"), store_errors("ask"):
            [*(ask(models_bucket) or ())]


@pytest.mark.parametrize(
    ("bucket", "said"),
    [
        ("heimdall-modles", r"no bucket 'heimdall-modles'; make it, or set HEIMDALL_MODELS_BUCKET"),
        ("A", "bucket name 'A'"),
    ],
)
def test_a_bucket_that_is_not_there_is_named_and_not_made(client, onnx_path, bucket, said):
    """SeaweedFS would make a misspelt bucket on the first object."""
    with pytest.raises(ExportError, match=said):
        upload(client, bucket, onnx_path)
    assert "heimdall-modles" not in {found.name for found in client.list_buckets()}


def test_a_bucket_is_made_where_that_is_allowed(client, onnx_path):
    """The first model of a new installation."""
    bucket = f"test-{uuid.uuid4()}"
    for _ in range(2):
        made = upload(client, bucket, onnx_path, make_bucket=True)
        client.remove_object(bucket, made.key)
        client.remove_object(bucket, made.key.replace(".onnx", ".json"))
    client.remove_bucket(bucket)


@pytest.mark.parametrize("fault", ["full", "forbidden"])
@pytest.mark.parametrize("where", ["PUT .json", "PUT .onnx"])
def test_what_does_not_heal_is_told_at_once_and_leaves_nothing(
    through, store_address, models_bucket, onnx_path, faulty, fault, where, stored
):
    """No space, or no permission to write: the operator must act, not the program."""
    with faulty.faulty_store(store_address, [(where, getattr(faulty, fault))] * 9) as (at, seen):
        with pytest.raises(ExportError, match=r"models/\S+ into bucket .*status (507|403)"):
            upload(through(at), models_bucket, onnx_path)
        assert sum(seen_.startswith("PUT") and seen_.endswith(where[4:]) for seen_ in seen) == 1
    assert stored() == []


def test_a_file_that_is_not_there_is_named(client, models_bucket, tmp_path, stored):
    """And the bucket stays as it was."""
    with pytest.raises(ExportError, match=re.escape(f"{tmp_path / 'm.onnx'}: No ")):
        upload(client, models_bucket, tmp_path / "m.onnx")
    assert stored() == []


def test_the_model_in_the_bucket_passes_the_checker_and_agrees_with_pytorch(
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
