"""Requests and answers of the service, as its OpenAPI page describes them."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from heimdall_features import ClockedRecording
from heimdall_locate import Candidate, Ellipse, ReceiverResult
from pybase64 import b64decode
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

SAMPLE_BYTES = 8


def _decoded(text: bytes) -> bytes:
    """Samples from base64."""
    samples = b64decode(text, validate=True)
    if len(samples) % SAMPLE_BYTES:
        raise ValueError(f"{len(samples)} bytes are not a multiple of {SAMPLE_BYTES}, a complex64")
    return samples


class Recording(BaseModel):
    """What one receiver heard."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    iq: Annotated[bytes, AfterValidator(_decoded)]
    """Samples: complex64, little-endian, full scale 1, in base64."""
    sample_rate_hz: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """True sample rate."""
    start_s: float | None = None
    """Start on a clock that the other receivers share; null without such a clock."""

    def clocked(self) -> ClockedRecording:
        """The recording as a `Predictor` takes it."""
        start_s, sigma_s = (0.0, np.inf) if self.start_s is None else (self.start_s, 0.0)
        iq = np.frombuffer(self.iq, "<c8")
        return ClockedRecording(iq, self.sample_rate_hz, start_s, clock_sigma_s=sigma_s)


RECORDINGS = TypeAdapter(dict[str, Recording])
"""A request's body: recordings by receiver."""
QUESTION: dict[str, Any] = {
    "Torino": {"iq": "zczMPQAAAAAAAAAAzczMPQ==", "sample_rate_hz": 12_500, "start_s": 0.25},
    "Genova": {"iq": "AAAAAM3MzD3NzMw9AAAAAA==", "sample_rate_hz": 12_500, "start_s": 0.25},
}
"""Example of a request, with two samples where a receiver sends thousands."""


class PositionJson(BaseModel):
    """Where the transmitter is, as `heimdall locate` writes it to position.json."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    latitude_deg: float
    """Of the most probable candidate, WGS84."""
    longitude_deg: float
    ellipse_68: Ellipse
    """Holds the transmitter with 68 %; bearings are of the major axis, clockwise from north."""
    ellipse_95: Ellipse
    candidates: list[Candidate]
    """Most probable first; covariances are east and north."""
    receivers: list[ReceiverResult]
    frequency_hz: float | None
    propagation: str
    termination: str
    """The kind of answer, in a sentence."""


class Answer(BaseModel):
    """A position, and the version of the model that found it."""

    model_config = ConfigDict(
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "model_version": "3",
                    "position": {
                        "latitude_deg": 44.9,
                        "longitude_deg": 8.2,
                        "ellipse_68": {
                            "semi_major_m": 91.0,
                            "semi_minor_m": 60.4,
                            "bearing_deg": 31.0,
                        },
                        "ellipse_95": {
                            "semi_major_m": 147.5,
                            "semi_minor_m": 97.9,
                            "bearing_deg": 31.0,
                        },
                        "candidates": [
                            {
                                "probability": 1.0,
                                "latitude_deg": 44.9,
                                "longitude_deg": 8.2,
                                "covariance_m2": [[2044.0, 720.0], [720.0, 3161.0]],
                            }
                        ],
                        "receivers": [
                            {
                                "name": "Torino",
                                "used": True,
                                "reason": "",
                                "residual_us": 0.2,
                                "sigma_us": 0.4,
                                "snr_db": 21.5,
                            }
                        ],
                        "frequency_hz": 7_100_000.0,
                        "propagation": "",
                        "termination": "a model's answer from levels and arrival times",
                    },
                    "on_a_map": {
                        "type": "FeatureCollection",
                        "features": [
                            {
                                "type": "Feature",
                                "geometry": {"type": "Point", "coordinates": [8.2, 44.9]},
                                "properties": {"kind": "candidate", "probability": 1.0},
                            }
                        ],
                    },
                }
            ]
        },
    )

    model_version: str
    """Version in the registry; the id of its run where the model is a file."""
    position: PositionJson
    on_a_map: dict[str, Any]
    """GeoJSON: a point and two ellipses for each candidate."""


class ModelInUse(BaseModel):
    """The model that answers."""

    model_config = ConfigDict(
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "heimdall-localization-onnx",
                    "version": "3",
                    "uri": "s3://heimdall-models/models/localization/v20260101_000000.onnx",
                    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                    "hears": ["Genova", "Milano", "Torino"],
                }
            ]
        },
    )

    name: str | None = None
    """Registered model; this, `uri` and `sha256` are missing where the model is a file."""
    version: str
    uri: str | None = None
    sha256: str | None = None
    hears: list[str]
    """Receivers that it takes recordings of."""


class Status(BaseModel):
    """A probe's answer."""

    status: str


class Problem(BaseModel):
    """What is wrong with a request, or why it cannot be answered now."""

    detail: str
