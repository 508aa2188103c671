"""Approved recordings, from Postgres and S3 to training batches.

The names below are loaded when they are first used, so that importing the package costs
nothing. The functions `ingest` and `decode` are in the modules of their names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heimdall_data.catalogue.catalogue import Catalogue
    from heimdall_data.catalogue.session import Measurement, Session, SessionFilter, Station
    from heimdall_data.dataset import Exclusion, HeimdallDataset
    from heimdall_data.errors import DataError
    from heimdall_data.ingest.new_session import NewRecording, NewSession, NewSource
    from heimdall_data.object_store.settings import S3Settings
    from heimdall_data.object_store.store import ObjectStore
    from heimdall_data.receivers import choose_receivers
    from heimdall_data.recordings.recording import Recording
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
    "Catalogue": "catalogue.catalogue",
    "DataError": "errors",
    "Exclusion": "dataset",
    "HeimdallDataset": "dataset",
    "Measurement": "catalogue.session",
    "NewRecording": "ingest.new_session",
    "NewSession": "ingest.new_session",
    "NewSource": "ingest.new_session",
    "ObjectStore": "object_store.store",
    "Recording": "recordings.recording",
    "S3Settings": "object_store.settings",
    "Session": "catalogue.session",
    "SessionFilter": "catalogue.session",
    "Split": "split",
    "Station": "catalogue.session",
    "choose_receivers": "receivers",
    "split_sessions": "split",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
