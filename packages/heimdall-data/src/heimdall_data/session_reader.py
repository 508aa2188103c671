"""The recordings of a session, fetched, decoded and cut to the same span of true time.

A recording that is missing or cannot be decoded is left out with its reason, and the session's
others are kept, whatever its decoding raised. The same applies to a recording in another bucket
than the configured one, if that bucket is missing or closed to us. A store that does not answer is
an error for the caller, as nobody knows what it holds.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from heimdall_features import FeatureError
from heimdall_features.clock import Span, common_span
from heimdall_features.names import composed
from heimdall_features.outside_json import LARGEST_BYTES

from heimdall_data.errors import BucketUnusable, ObjectMissing, ObjectUnreadable, RecordingError
from heimdall_data.object_store.store import ObjectStore
from heimdall_data.recordings.decode import NO_MEMORY, decode
from heimdall_data.recordings.recording import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from heimdall_data.catalogue.session import Measurement, Session
    from heimdall_data.errors import StoreError
    from heimdall_data.object_store.settings import S3Settings
    from heimdall_data.recordings.recording import Recording

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CONTROL = re.compile("[\\x00-\\x1f\\x7f]")

ObjectVersion = tuple[str, int] | None
"""Entity tag and size of an object; None if there is none."""
Listed = Mapping[tuple[str, str], ObjectVersion]
"""Versions of objects by bucket and key."""
NOTHING_LISTED: Listed = MappingProxyType({})
ObjectVersions = tuple[ObjectVersion, ...]
"""Versions of the objects of a recording: SigMF has two."""


@dataclass(frozen=True, slots=True)
class SessionRecordings:
    """Recordings of a session, as far as they could be read."""

    usable: dict[str, Recording]
    """By receiver, cut to one span of time."""
    unusable: dict[str, str]
    """Reason by receiver whose recording is left out."""
    versions: dict[str, ObjectVersions]
    """Versions that were read, by receiver: objects may be replaced during a run."""
    cacheable: bool
    """False if an object arrived incomplete: reading its version again may give more."""


def align(recordings: Mapping[str, Recording]) -> dict[str, Recording]:
    """Cut recordings of one session, by receiver, to the time they share; rates may differ.

    Of recordings with gaps, the stretches are taken that share the longest time with the other
    receivers: gaps are never filled.

    Raises:
        RecordingError: The recordings have no time in common.
    """
    recordings = _longest_common(recordings)
    starts_ns = {name: r.start_gps_ns if r.clock_locked else None for name, r in recordings.items()}
    begin_ns = max((start for start in starts_ns.values() if start is not None), default=0)
    try:
        cuts = common_span(
            {
                # Seconds before the last start: exact, which seconds since 1980 are not.
                name: Span(
                    None if (start := starts_ns[name]) is None else -((begin_ns - start) * 1e-9),
                    len(recording.iq),
                    recording.sample_rate_hz,
                )
                for name, recording in recordings.items()
            }
        )
    except FeatureError as error:
        spans = ", ".join(
            f"{name} {r.duration_s:.3f} s " + (f"from {r.start_utc}" if r.clock_locked else "")
            for name, r in recordings.items()
        )
        raise RecordingError(
            f"the recordings have no time in common: {spans}; were they made in one session?"
        ) from error
    return {
        name: recording.cut(cuts[name].start, cuts[name].stop - cuts[name].start)
        for name, recording in recordings.items()
    }


def _longest_common(recordings: Mapping[str, Recording]) -> dict[str, Recording]:
    """The stretch of each recording with a clock that belongs to the longest time in common."""
    # Each entry is a time that the receivers so far share, and the stretch of each of them; both
    # lists are in order of time, without overlaps, and so is what they share.
    common: list[tuple[int, int, dict[str, Recording]]] = [(-(2**63), 2**63, {})]
    for name, recording in recordings.items():
        if recording.clock_locked:
            stretches = _in_order(recording)
            shared = []
            here = there = 0
            while here < len(common) and there < len(stretches):
                (begin_ns, end_ns, others), (start_ns, stop_ns, stretch) = (
                    common[here],
                    stretches[there],
                )
                span_ns = max(begin_ns, start_ns), min(end_ns, stop_ns)
                if span_ns[0] < span_ns[1]:
                    shared.append((*span_ns, {**others, name: stretch}))
                if end_ns < stop_ns:
                    here += 1
                else:
                    there += 1
            common = shared
    longest = max(common, key=lambda each: each[1] - each[0], default=None)
    return dict(recordings) | (longest[2] if longest else {})


def _in_order(recording: Recording) -> list[tuple[int, int, Recording]]:
    """Start, end and samples of the stretches with a clock, each where those before it ended.

    Metadata may claim any number at the same time.
    """
    timed = [
        (start_ns, start_ns + round(stretch.duration_s * 1e9), stretch)
        for stretch in (recording, *recording.others)
        if stretch.clock_locked and (start_ns := stretch.start_gps_ns) is not None
    ]
    found: list[tuple[int, int, Recording]] = []
    for start_ns, stop_ns, stretch in sorted(timed, key=lambda each: each[:2]):
        begin_ns = max(start_ns, found[-1][1]) if found else start_ns
        if begin_ns < stop_ns:
            found.append((begin_ns, stop_ns, stretch))
    return found


def chosen_measurements(session: Session, receivers: Iterable[str]) -> dict[str, Measurement]:
    """Return the first measurement of each receiver that has any in the session."""
    wanted = {composed(name): name for name in receivers}
    chosen: dict[str, Measurement] = {}
    for measurement in session.measurements:
        if (name := wanted.get(measurement.station)) is not None:
            chosen.setdefault(name, measurement)
    return chosen


class SessionReader:
    """Fetches and decodes sessions. A copy in another process opens its own connections.

    Raises `StoreError` if the store cannot be reached, refuses us or lacks the bucket.
    """

    def __init__(self, s3: S3Settings) -> None:
        """Read from a store; no connection is opened yet."""
        self.s3 = s3
        self._stores: dict[str, ObjectStore] = {}
        self._interrupted = threading.Event()

    def __reduce__(self) -> tuple[type[SessionReader], tuple[S3Settings]]:
        return (SessionReader, (self.s3,))

    def _store(self, bucket: str) -> ObjectStore:
        if bucket not in self._stores:
            self._stores[bucket] = ObjectStore(self.s3, bucket, interrupted=self._interrupted)
        return self._stores[bucket]

    @contextmanager
    def threads(self, number: int, name: str) -> Iterator[ThreadPoolExecutor]:
        """Context with a pool of threads for reading, which have all ended afterwards.

        After an error or Ctrl-C they stop waiting for a store that does not answer.
        """
        try:
            with ThreadPoolExecutor(number, name) as pool:
                try:
                    yield pool
                except BaseException:
                    self._interrupted.set()
                    pool.shutdown(cancel_futures=True)
                    raise
        finally:
            self._interrupted.clear()

    def read(self, session: Session, receivers: Sequence[str]) -> SessionRecordings:
        """Read the recordings of the named receivers, in their order, cut to one span of time."""
        chosen = chosen_measurements(session, receivers)
        usable: dict[str, Recording] = {}
        unusable: dict[str, str] = {}
        versions: dict[str, ObjectVersions] = {}
        cacheable = True
        for name in (name for name in receivers if name in chosen):
            measurement = chosen[name]
            seen: list[ObjectVersion] = []
            try:
                data, *metadata = self._objects(measurement, seen)
                recording = decode(
                    data,
                    measurement.format,
                    name=measurement.key,
                    sample_rate_hz=measurement.sample_rate_hz,
                    start=measurement.start or session.start,
                    metadata=metadata[0] if metadata else None,
                )
                usable[name] = recording
            except (ObjectMissing, RecordingError) as error:
                unusable[name] = str(error)
            except (BucketUnusable, ObjectUnreadable) as error:
                self._raise_if_ours(error, measurement)
                unusable[name] = str(error)
                cacheable = False
            except MemoryError:
                # Its size is limited: another machine, or this one tomorrow, may decode it.
                unusable[name] = f"{measurement.key}: {NO_MEMORY}"
                cacheable = False
            versions[name] = tuple(seen)
        if len(usable) > 1:
            try:
                usable = align(usable)
            except RecordingError as error:
                unusable |= dict.fromkeys(usable, str(error))
                usable = {}
        for name, recording in usable.items():
            if recording.center_frequency_hz is None:
                usable[name] = replace(recording, center_frequency_hz=chosen[name].frequency_hz)
        return SessionRecordings(usable, unusable, versions, cacheable)

    def listed(self, measurements: Iterable[Measurement]) -> Listed:
        """Find the present versions of many objects, by bucket and key, in few requests.

        Objects that are not found may exist; `versions` asks for each of them.
        """
        places: dict[str, set[str]] = {}
        for one in measurements:
            keys = (key for key in object_keys(one) if _is_location(one.bucket, key))
            places.setdefault(one.bucket, set()).update(keys)
        found: dict[tuple[str, str], ObjectVersion] = {}
        for bucket, wanted in places.items():
            for key, stored in self._store(bucket).find(wanted).items():
                found[bucket, key] = (stored.etag, stored.size)
        return found

    def versions(self, measurement: Measurement, listed: Listed) -> ObjectVersions:
        """Return the present versions of a measurement's objects, of which some are `listed`."""
        versions: list[ObjectVersion] = []
        for key in object_keys(measurement):
            version = listed.get((measurement.bucket, key))
            if version is None and _is_location(measurement.bucket, key):
                try:
                    stored = self._store(measurement.bucket).stat(key)
                except (BucketUnusable, ObjectUnreadable) as error:
                    self._raise_if_ours(error, measurement)
                else:
                    version = None if stored is None else (stored.etag, stored.size)
            versions.append(version)
        return tuple(versions)

    def _objects(self, measurement: Measurement, versions: list[ObjectVersion]) -> list[bytes]:
        """Data, and metadata if it is an object of its own; adds their versions to `versions`.

        All objects are fetched even if one is missing, so that the versions are complete.
        """
        missing: ObjectMissing | None = None
        objects = []
        for key in object_keys(measurement):
            if not _is_location(measurement.bucket, key):
                versions.append(None)
                raise RecordingError(
                    f"invalid location of the recording in the catalogue: {key!r} in bucket "
                    f"{measurement.bucket!r}; correct measurements.iq_data_location"
                )
            most_bytes = MAX_BYTES if key == measurement.key else LARGEST_BYTES
            try:
                data, found = self._store(measurement.bucket).get_with_version(key, most_bytes)
            except ObjectMissing as error:
                missing = missing or error
                versions.append(None)
            else:
                objects.append(data)
                versions.append((found.etag, found.size))
        if missing is not None:
            raise missing
        return objects

    def _raise_if_ours(self, error: StoreError, measurement: Measurement) -> None:
        """Raise if it is the configured bucket: then the configuration is wrong, not the row."""
        if isinstance(error, BucketUnusable) and measurement.bucket == self.s3.raw_iq_bucket:
            raise error


def object_keys(measurement: Measurement) -> tuple[str, ...]:
    """Return the keys of the object with the samples, and of its metadata if that is another."""
    key = measurement.key
    if measurement.format == "sigmf" and key.endswith("-data"):
        return (key, key.removesuffix("-data") + "-meta")
    return (key,)


def _is_location(bucket: str, key: str) -> bool:
    """Return True if S3 could hold an object there; the database may name anything."""
    try:
        n_bytes = len(key.encode())
    except UnicodeEncodeError:
        return False
    plain = {".", ".."}.isdisjoint(key.split("/")) and not _CONTROL.search(key)
    return bool(BUCKET.fullmatch(bucket)) and 0 < n_bytes <= 1024 and plain
