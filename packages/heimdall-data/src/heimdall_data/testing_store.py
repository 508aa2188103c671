"""Sessions of one receiver and a store that misbehaves, for tests of what is in an object store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from heimdall_features import FeatureConfig

from heimdall_data.sessions import Measurement, Session
from heimdall_data.testing import new_recording
from heimdall_data.testing_proxy import FaultyProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heimdall_data.s3 import ObjectStore, S3Settings

__all__ = ["NPY", "ONE_RECEIVER", "OTHER_NPY", "one_receiver_session", "proxy", "six", "through"]

ONE_RECEIVER = FeatureConfig(receivers=("A",), sample_rate_hz=12_500, n_fft=256, hop_length=128)
NPY = new_recording(n_samples=12_500).payload or b""
OTHER_NPY = new_recording(n_samples=12_500, seed=1).payload or b""


def one_receiver_session(id_: object, bucket: str, key: str, form: str = "npy") -> Session:
    """What receiver A recorded, wherever the row says that it is."""
    measurement = Measurement(
        station="A",
        station_deg=(45.0, 7.0),
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
        position_deg=(45.0, 7.0),
        start=datetime(2026, 1, 1, tzinfo=UTC),
        measurements=(measurement,),
    )


@pytest.fixture
def proxy(s3_settings: S3Settings) -> Iterator[FaultyProxy]:
    """Before the real server."""
    where = urlsplit(s3_settings.endpoint_url)
    with FaultyProxy(str(where.hostname), int(where.port or 80)) as before:
        yield before


@pytest.fixture
def through(s3_settings: S3Settings, proxy: FaultyProxy) -> S3Settings:
    """The settings of a client that goes through the proxy."""
    return replace(s3_settings, endpoint_url=proxy.url)


@pytest.fixture
def six(s3_settings: S3Settings, raw_iq_store: ObjectStore) -> list[Session]:
    """Six sound sessions."""
    for number in range(6):
        raw_iq_store.put(f"{number}.npy", NPY)
    return [one_receiver_session(n, s3_settings.raw_iq_bucket, f"{n}.npy") for n in range(6)]
