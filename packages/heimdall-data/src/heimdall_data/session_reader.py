"""From a session of the catalogue to its recordings in memory, and why some are not there.

A recording that is missing or cannot be decoded is left out with its reason; the session's
others are kept. A store that does not answer is another matter: nobody knows what it holds,
so that error goes to the caller.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heimdall_data.align import align
from heimdall_data.decode import decode
from heimdall_data.errors import ObjectMissing, RecordingError
from heimdall_data.s3 import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from heimdall_data.recording import Recording
    from heimdall_data.s3 import S3Settings, StoredObject
    from heimdall_data.sessions import Measurement, Session

__all__ = ["SessionReader", "SessionRecordings", "chosen_measurements"]

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class SessionRecordings:
    """What could be read of a session."""

    usable: dict[str, Recording]
    """By receiver, cut to one span of time."""
    unusable: dict[str, str]
    """By receiver, why its recording is left out."""


def chosen_measurements(session: Session, receivers: Iterable[str]) -> dict[str, Measurement]:
    """For each receiver that has any in the session, its first measurement."""
    wanted = set(receivers)
    chosen: dict[str, Measurement] = {}
    for measurement in session.measurements:
        if measurement.station in wanted:
            chosen.setdefault(measurement.station, measurement)
    return chosen


class SessionReader:
    """Fetches and decodes sessions; every process that uses it opens its own connections."""

    def __init__(self, s3: S3Settings) -> None:
        """Read from the store that `s3` names; nothing is opened yet."""
        self.s3 = s3
        self._stores: dict[tuple[int, str], ObjectStore] = {}

    def __reduce__(self) -> tuple[type[SessionReader], tuple[S3Settings]]:
        return (SessionReader, (self.s3,))

    def store(self, bucket: str) -> ObjectStore:
        """This process's own connections to a bucket: a socket cannot be shared after fork."""
        key = (os.getpid(), bucket)
        if key not in self._stores:
            self._stores[key] = ObjectStore(self.s3, bucket)
        return self._stores[key]

    def read(self, session: Session, receivers: Sequence[str]) -> SessionRecordings:
        """The recordings of the named receivers, in their order, cut to one span of time.

        Raises:
            StoreError: The store cannot be reached, refuses us or lacks the bucket.
        """
        usable: dict[str, Recording] = {}
        unusable: dict[str, str] = {}
        measurements = chosen_measurements(session, receivers)
        for name in (name for name in receivers if name in measurements):
            try:
                usable[name] = self._recording(session, measurements[name])
            except (ObjectMissing, RecordingError) as error:
                unusable[name] = str(error)
        if len(usable) > 1:
            try:
                usable = align(usable).recordings
            except RecordingError as error:
                return SessionRecordings({}, unusable | dict.fromkeys(usable, str(error)))
        return SessionRecordings(usable, unusable)

    def stat(self, measurement: Measurement) -> StoredObject | None:
        """Version of a measurement's object; None where there is none."""
        if not _is_location(measurement.bucket, measurement.key):
            return None
        return self.store(measurement.bucket).stat(measurement.key)

    def _recording(self, session: Session, measurement: Measurement) -> Recording:
        bucket, key = measurement.bucket, measurement.key
        if not _is_location(bucket, key):
            raise RecordingError(
                f"the catalogue says that the recording is at {key!r} in {bucket!r}, which can "
                f"be no object; correct measurements.iq_data_location"
            )
        store = self.store(bucket)
        metadata = None
        if measurement.format == "sigmf" and key.endswith("-data"):
            metadata = store.get(key.removesuffix("-data") + "-meta")
        recording = decode(
            store.get(key),
            measurement.format,
            name=key,
            sample_rate_hz=measurement.sample_rate_hz,
            start=measurement.start or session.start,
            metadata=metadata,
        )
        if recording.center_frequency_hz is None:
            return replace(recording, center_frequency_hz=measurement.frequency_hz)
        return recording


def _is_location(bucket: str, key: str) -> bool:
    """Whether S3 could hold an object there; what the database says may be nonsense."""
    no_path = {".", ".."}.isdisjoint(key.split("/"))
    return bool(BUCKET.fullmatch(bucket)) and 0 < len(key.encode()) <= 1024 and no_path
