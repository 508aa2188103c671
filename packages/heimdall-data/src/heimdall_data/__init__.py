"""Approved recordings, from Postgres and S3 to training batches.

The names below are loaded when they are first used, so that importing the package costs
nothing. The functions `ingest` and `decode` are in the modules of their names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heimdall_data.catalogue.catalogue import Catalogue as Catalogue
    from heimdall_data.catalogue.session import Measurement as Measurement
    from heimdall_data.catalogue.session import Session as Session
    from heimdall_data.catalogue.session import SessionFilter as SessionFilter
    from heimdall_data.catalogue.session import Station as Station
    from heimdall_data.dataset import Exclusion as Exclusion
    from heimdall_data.dataset import HeimdallDataset as HeimdallDataset
    from heimdall_data.errors import DataError as DataError
    from heimdall_data.ingest.new_session import NewRecording as NewRecording
    from heimdall_data.ingest.new_session import NewSession as NewSession
    from heimdall_data.ingest.new_session import NewSource as NewSource
    from heimdall_data.ingest.recording_file import Details as Details
    from heimdall_data.ingest.recording_file import read_recording as read_recording
    from heimdall_data.object_store.settings import S3Settings as S3Settings
    from heimdall_data.object_store.store import ObjectStore as ObjectStore
    from heimdall_data.public.locards import read_locards as read_locards
    from heimdall_data.public.powder_frs import read_powder_frs as read_powder_frs
    from heimdall_data.receivers import choose_receivers as choose_receivers
    from heimdall_data.recordings.gnss_pos import (
        positions_from_gnss_pos as positions_from_gnss_pos,
    )
    from heimdall_data.recordings.recording import ReceiverPosition as ReceiverPosition
    from heimdall_data.recordings.recording import Recording as Recording
    from heimdall_data.session_reader import align as align
    from heimdall_data.split import Split as Split
    from heimdall_data.split import split_sessions as split_sessions

_NAMES = {
    "catalogue.catalogue": "Catalogue",
    "catalogue.session": "Measurement Session SessionFilter Station",
    "dataset": "Exclusion HeimdallDataset",
    "errors": "DataError",
    "ingest.new_session": "NewRecording NewSession NewSource",
    "ingest.recording_file": "Details read_recording",
    "object_store.settings": "S3Settings",
    "object_store.store": "ObjectStore",
    "public.locards": "read_locards",
    "public.powder_frs": "read_powder_frs",
    "receivers": "choose_receivers",
    "recordings.gnss_pos": "positions_from_gnss_pos",
    "recordings.recording": "ReceiverPosition Recording",
    "session_reader": "align",
    "split": "Split split_sessions",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
