"""Approved recordings, from Postgres and S3 to training batches.

The names below are loaded when they are first used, so that importing the package costs
nothing. The functions `ingest` and `decode` are in the modules of their names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heimdall_data.dataset import Exclusion, HeimdallDataset
    from heimdall_data.errors import DataError
    from heimdall_data.new_session import NewRecording, NewSession, NewSource
    from heimdall_data.postgres import Catalogue
    from heimdall_data.receivers import choose_receivers
    from heimdall_data.recording import Recording
    from heimdall_data.s3 import ObjectStore, S3Settings
    from heimdall_data.session_filter import SessionFilter
    from heimdall_data.sessions import Measurement, Session, Station
    from heimdall_data.split import Split, split_sessions

__all__ = [
    "Catalogue",
    "DataError",
    "Exclusion",
    "HeimdallDataset",
    "Measurement",
    "NewRecording",
    "NewSession",
    "NewSource",
    "ObjectStore",
    "Recording",
    "S3Settings",
    "Session",
    "SessionFilter",
    "Split",
    "Station",
    "choose_receivers",
    "split_sessions",
]

_MODULES = {
    "Catalogue": "postgres",
    "DataError": "errors",
    "Exclusion": "dataset",
    "HeimdallDataset": "dataset",
    "Measurement": "sessions",
    "NewRecording": "new_session",
    "NewSession": "new_session",
    "NewSource": "new_session",
    "ObjectStore": "s3",
    "Recording": "recording",
    "S3Settings": "s3",
    "Session": "sessions",
    "SessionFilter": "session_filter",
    "Split": "split",
    "Station": "sessions",
    "choose_receivers": "receivers",
    "split_sessions": "split",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
