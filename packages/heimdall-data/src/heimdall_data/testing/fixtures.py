"""Pytest fixtures with real servers, and sessions to store there.

`pytest_plugins = ["heimdall_data.testing.fixtures"]` in a `conftest.py` loads them. Each test gets
its own bucket and database. Needs the extra `heimdall-data[embedded]` and pytest.
"""

from __future__ import annotations

import io
import subprocess
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pytest
from heimdall_features import FeatureConfig
from psycopg import sql

from heimdall_data.catalogue.catalogue import Catalogue
from heimdall_data.catalogue.session import Measurement, Session, Station
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.ingest.new_session import NewRecording, NewSession, NewSource
from heimdall_data.object_store.store import ObjectStore
from heimdall_data.testing.proxy import FaultyProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heimdall_data.object_store.settings import S3Settings

TORINO = Station("Torino", 45.044, 7.672, 250.0)
GENOVA = Station("Genova", 44.395, 8.956, 100.0)
_START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def new_recording(station: Station = TORINO, n_samples: int = 256, seed: int = 0) -> NewRecording:
    """Return a station's recording: complex noise at 12.5 kHz in a NumPy file."""
    parts = np.random.default_rng(seed).normal(scale=0.1, size=(n_samples, 2))
    file = io.BytesIO()
    np.save(file, (parts[:, 0] + 1j * parts[:, 1]).astype(np.complex64))
    return NewRecording(
        station=station,
        payload=file.getvalue(),
        format="npy",
        sample_rate_hz=12_500.0,
        n_samples=n_samples,
        frequency_hz=145e6,
        snr_db=20.0,
        signal_strength_db=-60.0,
    )


def new_session(
    name: str = "morning",
    source: str = "Beacon",
    stations: tuple[Station, ...] = (TORINO, GENOVA),
    status: str = "completed",
    approval_status: str = "approved",
) -> NewSession:
    """Return a session of a source at 45.0 N, 8.0 E, with one recording per station."""
    return NewSession(
        source=NewSource(name=source, latitude_deg=45.0, longitude_deg=8.0, source_type="beacon"),
        measurements=tuple(new_recording(station, seed=n) for n, station in enumerate(stations)),
        name=name,
        start=_START,
        status=status,
        approval_status=approval_status,
    )


@pytest.fixture(scope="session")
def nameless() -> list[str]:
    """Words before a command that run it as containers do: a user without a name and a home."""
    user = ["unshare", "--user", "--map-user=12345", "--map-group=0", "--"]
    words = [*user, "env", "--unset=HOME"]
    if subprocess.run([*words, "true"], check=False).returncode:  # noqa: S603 - fixed words
        pytest.skip("no user namespaces here")
    return words


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """A running Postgres and S3, stopped when the tests end or are killed."""
    with EmbeddedStack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def s3_settings(stack: EmbeddedStack) -> Iterator[S3Settings]:
    """The stack's object store, with an empty raw-IQ bucket for this test only."""
    settings = replace(stack.s3, raw_iq_bucket=f"test-{uuid.uuid4()}")
    store = ObjectStore(settings, settings.raw_iq_bucket)
    store.ensure_bucket()
    yield settings
    for found in store.list():
        store.delete(found.key)
    settings.client().remove_bucket(settings.raw_iq_bucket)


@pytest.fixture
def raw_iq_store(s3_settings: S3Settings) -> ObjectStore:
    """This test's empty raw-IQ bucket."""
    return ObjectStore(s3_settings, s3_settings.raw_iq_bucket)


@pytest.fixture
def database_url(stack: EmbeddedStack) -> Iterator[str]:
    """An empty database for this test only: no schema, no tables."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield stack.database_url.rpartition("/")[0] + f"/{name}"
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def catalogue(database_url: str) -> Iterator[Catalogue]:
    """An empty catalogue for this test only, with its tables."""
    with Catalogue(database_url) as fresh:
        fresh.create_schema()
        yield fresh


ONE_RECEIVER = FeatureConfig(receivers=("A",), sample_rate_hz=12_500, n_fft=256, hop_length=128)
NPY = new_recording(n_samples=12_500).payload or b""
OTHER_NPY = new_recording(n_samples=12_500, seed=1).payload or b""


def one_receiver_session(id_: object, bucket: str, key: str, form: str = "npy") -> Session:
    """Return a catalogued session of receiver A only, with its object anywhere."""
    position_deg = (45.0, 7.0)
    measurement = Measurement(
        station="A",
        station_deg=position_deg,
        bucket=bucket,
        key=key,
        format=form,
        sample_rate_hz=12_500.0,
    )
    return Session(
        id=str(id_),
        session_name="",
        source_id="s",
        source_name="s",
        position_deg=position_deg,
        start=_START,
        measurements=(measurement,),
    )


@pytest.fixture
def proxy(s3_settings: S3Settings) -> Iterator[FaultyProxy]:
    """A proxy in front of the real store."""
    address = urlsplit(s3_settings.endpoint_url)
    with FaultyProxy(str(address.hostname), int(address.port or 80)) as running:
        yield running


@pytest.fixture
def through(s3_settings: S3Settings, proxy: FaultyProxy) -> S3Settings:
    """Settings of a client that connects through the proxy."""
    return replace(s3_settings, endpoint_url=proxy.url)


@pytest.fixture
def six(s3_settings: S3Settings, raw_iq_store: ObjectStore) -> list[Session]:
    """Six sessions of receiver A, with their objects stored."""
    for number in range(6):
        raw_iq_store.put(f"{number}.npy", NPY)
    return [one_receiver_session(n, s3_settings.raw_iq_bucket, f"{n}.npy") for n in range(6)]
