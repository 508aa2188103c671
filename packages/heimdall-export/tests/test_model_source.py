"""Models by address, from a real object store and a real registry: whole, proven, or refused."""

import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from heimdall_export import (
    ArtifactStore,
    ExportError,
    ModelStores,
    Predictor,
    find_published,
    promote,
    register,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

on_the_store = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def stores(artifact_store, tracking_uri):
    """The real object store, and the registry in SQLite."""
    return ModelStores(s3=artifact_store, tracking_uri=tracking_uri)


@pytest.fixture
def published(tracker, onnx_path, model_name, uploaded):
    """Registers the uploaded file, as training does; the model's name."""
    register(tracker, onnx_path, model_name=model_name, tags=says(uploaded))
    return model_name


def says(model):
    """The tags by which a version tells of its file."""
    return {"onnx_uri": model.uri, "sha256": model.sha256}


def sidecar_of(model):
    """The key of a model's sidecar."""
    return model.key.replace(".onnx", ".json")


def put(client, bucket, key, contents):
    """Store an object, over another if there is one."""
    client.put_object(bucket, key, io.BytesIO(contents), len(contents))


def test_a_model_in_the_object_store_answers_as_the_file_does(
    uploaded, stores, onnx_path, recordings_of
):
    """Who has only the address must get the same positions."""
    there = Predictor(uploaded.uri, stores=stores)
    assert there.predict(recordings_of(1)) == Predictor(onnx_path).predict(recordings_of(1))
    assert there.published is None


def test_an_alias_and_a_number_lead_to_the_version(
    published, stores, tracking_uri, recordings_of, onnx_path, uploaded
):
    """The alias is what a service follows, the number what an incident is reproduced with."""
    promote(tracking_uri, published, "1", force=True)
    for which in ("@production", "@latest", "/1", "/01"):
        address = f"models:/{published}{which}"
        there = Predictor(address, stores=stores)
        assert there.predict(recordings_of(1)) == Predictor(onnx_path).predict(recordings_of(1))
        assert (there.published.version, there.published.uri) == ("1", uploaded.uri)
        assert there.published == find_published(address, stores)


def test_the_contracts_variables_lead_there_too(uploaded, artifact_store, monkeypatch):
    """A container is configured by its environment."""
    for name, value in {
        "ENDPOINT_URL": artifact_store.endpoint_url,
        "ACCESS_KEY": artifact_store.access_key,
        "SECRET_KEY": artifact_store.secret_key,
    }.items():
        monkeypatch.setenv(f"HEIMDALL_S3_{name}", value)
    assert Predictor(uploaded.uri).run_id == "0123abcd"


def test_what_was_downloaded_once_is_not_downloaded_again(
    uploaded, stores, client, models_bucket, tmp_path
):
    """A service that restarts comes up at once; the hash is checked all the same."""
    cache = tmp_path / "models"
    Predictor(uploaded.uri, stores=stores, cache_dir=cache)
    client.remove_object(models_bucket, uploaded.key)
    Predictor(uploaded.uri, stores=stores, cache_dir=cache)
    assert [path.name for path in cache.iterdir()] == [f"{uploaded.sha256}.onnx"]


def test_a_file_in_the_cache_that_was_damaged_is_fetched_anew(uploaded, stores, tmp_path):
    """Disks forget bits."""
    kept = tmp_path / f"{uploaded.sha256}.onnx"
    Predictor(uploaded.uri, stores=stores, cache_dir=tmp_path)
    kept.write_bytes(kept.read_bytes()[:-1])
    Predictor(uploaded.uri, stores=stores, cache_dir=tmp_path)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == uploaded.sha256


@on_the_store
@given(data=st.data())
def test_a_damaged_file_under_the_name_is_refused(
    uploaded, stores, client, models_bucket, onnx_path, tmp_path, data
):
    """A model with one wrong bit answers confidently and wrongly."""
    contents = onnx_path.read_bytes()
    n = len(contents)
    place = data.draw(st.integers(0, n - 1))
    flipped = contents[:place] + bytes([contents[place] ^ 1]) + contents[place + 1 :]
    for damaged, said in (
        (flipped, r"has sha256 \w+, its sidecar says \w+"),
        (contents[:place], f"has size {place}, its sidecar says {n}"),
        (contents + contents[:1], f"has size {n + 1}, its sidecar says {n}"),
    ):
        put(client, models_bucket, uploaded.key, damaged)
        with pytest.raises(ExportError, match=said):
            Predictor(uploaded.uri, stores=stores, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_file_than_the_registered_one_is_refused(
    published, uploaded, stores, client, models_bucket, onnx_path
):
    """The version's tag is the authority, and not what lies beside the file."""
    other = onnx_path.read_bytes() + b"x"
    put(client, models_bucket, uploaded.key, other)
    said = {"sha256": hashlib.sha256(other).hexdigest(), "size": len(other)}
    put(client, models_bucket, sidecar_of(uploaded), json.dumps(said).encode())
    with pytest.raises(ExportError, match=r"has sha256 \w+, the registry says"):
        Predictor(f"models:/{published}/1", stores=stores)


@on_the_store
@given(
    contents=st.binary(max_size=9)
    | st.dictionaries(
        st.sampled_from(["sha256", "run_id"]), st.text(max_size=4) | st.lists(st.none())
    ).map(lambda entries: json.dumps(entries).encode())
)
def test_a_sidecar_without_hash_and_size_is_refused(
    uploaded, stores, client, models_bucket, contents
):
    """Nobody has vouched for the file then."""
    put(client, models_bucket, sidecar_of(uploaded), contents)
    with pytest.raises(ExportError, match=r"the sidecar \S+ in bucket "):
        Predictor(uploaded.uri, stores=stores)


@pytest.mark.parametrize("fault", ["cut", "unavailable", "broken_off"])
@pytest.mark.parametrize("what", [".json", ".onnx"])
def test_what_can_heal_is_fetched_again(uploaded, artifact_store, faulty, tmp_path, fault, what):
    """A store that restarts must not keep a service from starting."""
    upstream = artifact_store.endpoint_url.removeprefix("http://")
    faults = [(f"GET {what}", getattr(faulty, fault))] * 2
    with faulty.faulty_store(upstream, faults) as (at, seen):
        stores = ModelStores(s3=through(artifact_store, at))
        assert Predictor(uploaded.uri, stores=stores, cache_dir=tmp_path).run_id == "0123abcd"
    assert sum(request.endswith(what) for request in seen) == 3
    assert [path.name for path in tmp_path.iterdir()] == [f"{uploaded.sha256}.onnx"]


def through(store, address):
    """The same store, reached by another address."""
    return ArtifactStore(
        endpoint_url=f"http://{address}", access_key=store.access_key, secret_key=store.secret_key
    )


def test_a_store_that_stays_down_leaves_nothing_half_written(
    uploaded, artifact_store, faulty, tmp_path
):
    """Half a model in the cache would be found there tomorrow."""
    upstream = artifact_store.endpoint_url.removeprefix("http://")
    with faulty.faulty_store(upstream, [("GET .onnx", faulty.broken_off)] * 9) as (at, _):
        stores = ModelStores(s3=through(artifact_store, at))
        with pytest.raises(ExportError, match=r"\.onnx: .*out of reach"):
            Predictor(uploaded.uri, stores=stores, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(uploaded, stores, tmp_path, monkeypatch):
    """Ctrl-C in the middle of 800 MB."""

    def ctrl_c(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        Predictor(uploaded.uri, stores=stores, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(uploaded, stores, tmp_path):
    """A read-only container needs its cache elsewhere."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"/file/c: Not a directory"):
        Predictor(uploaded.uri, stores=stores, cache_dir=tmp_path / "file" / "c")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "s3://heimdall-models",
            "'s3://heimdall-models' is not a model's address; give s3://bucket",
        ),
        ("s3://heimdall-models/gone.onnx", "fetch s3://heimdall-models/gone.onnx: .*NoSuchKey"),
        ("s3://no-such-bucket/m.onnx", "fetch s3://no-such-bucket/m.onnx: .*NoSuchBucket"),
        ("models:/m", "'models:/m'"),
        ("models:/m/Production", "'models:/m/Production'"),
        ("models:/@production", "'models:/@production'"),
        (
            "models:/nobodys-model@production",
            "'nobodys-model' has no version '@production'",
        ),
        ("models:/nobodys-model/3", "'nobodys-model' has no version '3'; it has none"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(stores, address, said):
    """A typing error in a deployment is found by its message."""
    with pytest.raises(ExportError, match=said):
        Predictor(address, stores=stores)


def test_a_version_that_does_not_say_where_its_file_is_is_refused(
    tracker, onnx_path, model_name, stores
):
    """Registered by hand: nobody knows what it must be."""
    register(tracker, onnx_path, model_name=model_name, tags={"sha256": "0" * 64})
    with pytest.raises(ExportError, match=r"version 1 of .* has no tag onnx_uri"):
        Predictor(f"models:/{model_name}/1", stores=stores)


def test_a_version_that_is_being_deleted_is_refused(published, stores, tracking_uri):
    """It may have lost its file by the next request."""
    MlflowClient(tracking_uri).set_model_version_tag(published, "1", "stage", "Deleting")
    with pytest.raises(ExportError, match=r"version 1 of .* is being deleted; use another one"):
        Predictor(f"models:/{published}/1", stores=stores)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://bucket/key.onnx", "no object store is configured; set HEIMDALL_S3_ENDPOINT_URL"),
        ("models:/m@production", "set MLFLOW_TRACKING_URI, give .*, or open a model file"),
    ],
)
def test_what_is_not_configured_is_named(address, said):
    """The first start of a service."""
    with pytest.raises(ExportError, match=said):
        Predictor(address, stores=ModelStores())


@pytest.mark.parametrize(
    ("missing", "address", "extra"),
    [("minio", "s3://b/k.onnx", "s3"), ("sqlalchemy", "models:/m@production", "mlflow")],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(missing, address, extra):
    """Most services need neither."""
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        "from heimdall_export import ArtifactStore, ExportError, ModelStores, Predictor\n"
        "s3 = ArtifactStore(endpoint_url='http://127.0.0.1:1', access_key='a', secret_key='b')\n"
        "stores = ModelStores(s3=s3, tracking_uri='sqlite:///nowhere.db')\n"
        f"try:\n    Predictor({address!r}, stores=stores)\n"
        "except ExportError as error:\n    print(error)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert f"needs {missing}: pip install 'heimdall-export[{extra}]'" in said


def test_secrets_are_not_in_what_a_traceback_shows(artifact_store):
    """Tracebacks show representations."""
    stores = ModelStores(s3=artifact_store, tracking_uri="http://me:hunter2@mlflow.example")
    assert artifact_store.secret_key not in repr(stores)
    assert "hunter2" not in repr(stores)


def deleted_before(client, keys):
    """A fault: the version's objects are deleted as the request arrives."""

    def act(handler):
        for bucket, key in keys:
            client.remove_object(bucket, key)
        handler.answer(*handler.upstream())

    return act


def test_a_version_that_is_deleted_while_it_is_fetched_is_told(
    published, uploaded, stores, client, s3_settings, models_bucket, faulty, tmp_path
):
    """Somebody cleans up during an evaluation; half a model must be nowhere."""
    key = f"{models_bucket}/{uploaded.key}"
    gone = [(models_bucket, uploaded.key), (models_bucket, sidecar_of(uploaded))]
    faults = [(f"GET {key}", deleted_before(client, gone))]
    place = s3_settings.endpoint_url.removeprefix("http://")
    with faulty.faulty_store(place, faults) as (address, _):
        through = replace(stores, s3=replace(stores.s3, endpoint_url=f"http://{address}"))
        with pytest.raises(ExportError, match=r"version 1 of .* was deleted: its file s3://"):
            Predictor(f"models:/{published}@staging", stores=through, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
