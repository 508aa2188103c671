"""Features and arrival times of a session, cached under a hash of all that they depend on."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from heimdall_features import (
    ARRIVAL_COLUMNS,
    ArrivalExtractor,
    FeatureError,
    FeatureExtractor,
)

from heimdall_data.cache.disk import FeatureCache
from heimdall_data.distance import great_circle_m
from heimdall_data.errors import DataError
from heimdall_data.recordings.clocked import clocked
from heimdall_data.session_reader import (
    NOTHING_LISTED,
    SessionReader,
    chosen_measurements,
    object_keys,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from heimdall_features import ArrivalConfig, FeatureConfig

    from heimdall_data.cache.bucket import SharedCache
    from heimdall_data.catalogue.session import Session
    from heimdall_data.object_store.settings import S3Settings
    from heimdall_data.recordings.recording import Recording
    from heimdall_data.session_reader import Listed, ObjectVersions, SessionRecordings

DECODING_VERSION = 5
"""Raise it if decoding or alignment gives other samples, or recordings are refused that were used,
so that old entries are not used."""
FETCHING_THREADS = 8
"""Each has a pack of the shared cache in memory."""
BATCH_THREADS = 8
"""Chosen by measurement on 2 cores, with the store on them or a few milliseconds away."""


def require_reach(arrivals: ArrivalConfig, sessions: Iterable[Session]) -> None:
    """Check that no two receivers are further apart than the baseline of the arrivals.

    Raises:
        DataError: Two are; times of arrival would be wrong, and not just missing.
    """
    places = {
        measurement.station: measurement.station_deg
        for session in sessions
        for measurement in session.measurements
        if measurement.station in arrivals.receivers
    }
    for (one, here), (other, there) in itertools.combinations(sorted(places.items()), 2):
        apart_m = great_circle_m(here, there)
        # The Earth is no sphere: distances differ by half a per cent.
        if apart_m > 1.006 * arrivals.baseline_m:
            raise DataError(
                f"baseline_m is {arrivals.baseline_m:g}, and {one} and {other} are "
                f"{apart_m / 1000:.0f} km apart; give the largest distance between two receivers"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionFeatures:
    """Features of a session, and the state of its recordings."""

    features: npt.NDArray[np.float32]
    """`(receivers, n_mels, n_frames)`, dB relative to full scale."""
    present: npt.NDArray[np.bool_]
    """`(receivers,)`: false where the channel is filled for lack of a recording."""
    clock_locked: npt.NDArray[np.bool_]
    """`(receivers,)`: true where the recording has GNSS time."""
    unusable: dict[str, str]
    """Reason by receiver whose recording was left out."""
    arrivals: npt.NDArray[np.float32] | None = None
    """`(receivers, 5)`, columns of `heimdall_features.ARRIVAL_COLUMNS`; None if not asked for."""
    no_arrivals: str = ""
    """Reason if all arrivals are zero, or those of receivers whose times contradict others."""
    computed: bool = False
    """True if computed now, false if found in the cache."""
    key: str | None = None
    """Cache key; None if the result must not be cached, or there is no cache."""

    def to_tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """Convert to plain arrays, for the cache."""
        tensors: dict[str, npt.NDArray[np.generic]] = {
            "features": self.features,
            "present": self.present,
            "clock_locked": self.clock_locked,
            "unusable": np.frombuffer(json.dumps(self.unusable).encode(), np.uint8),
        }
        if self.arrivals is not None:
            # Named to sort after the features, which are read fastest if they come first.
            tensors["times"] = self.arrivals
            tensors["no_times"] = np.frombuffer(self.no_arrivals.encode(), np.uint8)
        return tensors

    @classmethod
    def from_tensors(
        cls,
        tensors: dict[str, npt.NDArray[np.generic]],
        features: npt.NDArray[np.float32],
        key: str,
    ) -> SessionFeatures:
        """Convert back from `to_tensors`, for the entry of the cache under `key`."""
        unusable = tensors["unusable"].tobytes()
        return cls(
            features=features,
            present=np.asarray(tensors["present"], np.bool_),
            clock_locked=np.asarray(tensors["clock_locked"], np.bool_),
            # Empty in almost every session, and JSON takes 5 of 30 microseconds.
            unusable=json.loads(unusable) if unusable != b"{}" else {},
            arrivals=np.asarray(tensors["times"], np.float32) if "times" in tensors else None,
            no_arrivals=tensors["no_times"].tobytes().decode() if "no_times" in tensors else "",
            key=key,
        )


class FeatureSource:
    """Source of features: the cache, or else the store and the extractors.

    Raises `StoreError` if the store cannot be reached, refuses us or lacks the bucket.
    """

    def __init__(
        self,
        config: FeatureConfig,
        s3: S3Settings,
        cache: FeatureCache | SharedCache | None,
        arrivals: ArrivalConfig | None = None,
    ) -> None:
        """Compute features as `config` says from the recordings in `s3`, and cache them.

        Raises:
            DataError: `arrivals` have other receivers, the same in another order, or another
                rate than `config`.
        """
        if arrivals is not None and (arrivals.receivers, arrivals.sample_rate_hz) != (
            config.receivers,
            config.sample_rate_hz,
        ):
            raise DataError(
                f"arrivals are of {arrivals.receivers} at {arrivals.sample_rate_hz:g} Hz and "
                f"features of {config.receivers} at {config.sample_rate_hz:g} Hz; give both the "
                "same receivers in the same order, and the recordings' rate: at a higher one the "
                "uncertainty of times cannot be estimated"
            )
        self.config = config
        self.arrivals = arrivals
        self.reader = SessionReader(s3)
        self.cache = cache
        self._settings = [each.fingerprint for each in (config, arrivals) if each is not None]
        self._extract = FeatureExtractor(config)
        self._extract_arrivals = None if arrivals is None else ArrivalExtractor(arrivals)

    def features(
        self, session: Session, key: str | None = None, listed: Listed = NOTHING_LISTED
    ) -> SessionFeatures:
        """Return the features of a session; `key` is its cache key, None if unknown."""
        out = np.empty(self.config.shape, np.float32)
        return self._cached(key, out) or self._fetch_or_compute(session, key, out, listed)

    @property
    def shared(self) -> SharedCache | None:
        """The cache in a bucket, if there is one."""
        return self.cache.shared if isinstance(self.cache, FeatureCache) else self.cache

    def fetch_and_list(self, sessions: Sequence[Session]) -> Listed:
        """Bring features of sessions from the shared cache to disk, and list their objects.

        They are listed only if the cache may have features of any of them.
        """
        cache = self.cache
        if cache is None or not any(cache.may_contain(self._key_prefix(s)) for s in sessions):
            return NOTHING_LISTED
        with self.reader.threads(FETCHING_THREADS, "packs") as pool:
            chosen = (chosen_measurements(session, self.config.receivers) for session in sessions)
            listing = pool.submit(
                self.reader.listed, [one for each in chosen for one in each.values()]
            )
            if isinstance(cache, FeatureCache) and cache.shared is not None:
                prefixes = {self._key_prefix(session) for session in sessions}
                for pack in cache.fetch(prefixes, pool):
                    pack.result()
            return listing.result()

    def listed_key(self, session: Session, listed: Listed) -> str | None:
        """Return the cache key, or None if not all objects of the session are listed."""
        versions: dict[str, ObjectVersions] = {}
        for name, one in chosen_measurements(session, self.config.receivers).items():
            versions[name] = tuple(listed.get((one.bucket, key)) for key in object_keys(one))
            if None in versions[name]:
                return None
        return self._key(session, versions)

    def is_packed(self, key: str | None) -> bool:
        """Return True if the features under a key are in a pack on disk."""
        return key is not None and isinstance(self.cache, FeatureCache) and self.cache.packs(key)

    def features_of_batch(
        self,
        sessions: Sequence[Session],
        keys: Sequence[str | None],
        rows: npt.NDArray[np.float32],
    ) -> list[SessionFeatures]:
        """Return the features of sessions; several that are not cached are computed at a time.

        While one session's recordings are fetched, another's features are computed.

        Args:
            sessions: The sessions.
            keys: Their cache keys, None if unknown.
            rows: Memory for the features, `(sessions, receivers, n_mels, n_frames)`.
        """
        found = {
            number: features
            for number, (key, row) in enumerate(zip(keys, rows, strict=True))
            if (features := self._cached(key, row)) is not None
        }
        missed = [number for number in range(len(sessions)) if number not in found]
        if missed:
            # Threads of this batch alone, as threads do not survive a fork.
            with self.reader.threads(min(BATCH_THREADS, len(missed)), "batch") as pool:
                computed = pool.map(
                    lambda n: self._fetch_or_compute(sessions[n], keys[n], rows[n]), missed
                )
                found.update(zip(missed, computed, strict=True))
        return [found[number] for number in range(len(sessions))]

    def _cached(self, key: str | None, out: npt.NDArray[np.float32]) -> SessionFeatures | None:
        """Entry of the cache under `key`, with its features in `out`."""
        if key is None or self.cache is None:
            return None
        found = self.cache.get_into(key, "features", out)
        return None if found is None else SessionFeatures.from_tensors(found, out, key)

    def _fetch_or_compute(
        self,
        session: Session,
        missed: str | None,
        out: npt.NDArray[np.float32],
        listed: Listed = NOTHING_LISTED,
    ) -> SessionFeatures:
        """Features of the present recordings, in `out`; `missed` is a key not in the cache.

        The store is asked for the versions of the recordings only if the cache has any of this
        session: otherwise they come with the objects, and asking would take as long as fetching.
        """
        if self.cache is not None and self.cache.may_contain(self._key_prefix(session)):
            key = self.key(session, listed)
            found = None if key == missed else self._cached(key, out)
            if found is not None:
                return found
        read = self.reader.read(session, self.config.receivers)
        computed = self._compute(read, out)
        if self.cache is None or not read.cacheable:
            return computed
        # Keyed by the versions that were read: an object may have been replaced meanwhile.
        key = self._key(session, read.versions)
        self.cache.put(key, computed.to_tensors())
        return replace(computed, key=key)

    def key(self, session: Session, listed: Listed = NOTHING_LISTED) -> str:
        """Return the cache key: a hash of the settings and of the present versions of objects."""
        chosen = chosen_measurements(session, self.config.receivers)
        versions = {name: self.reader.versions(m, listed) for name, m in chosen.items()}
        return self._key(session, versions)

    def _key(self, session: Session, versions: Mapping[str, ObjectVersions]) -> str:
        return self._key_prefix(session) + _digest(sorted(versions.items()))

    def _key_prefix(self, session: Session) -> str:
        """Start of the keys of all versions of the session's objects."""
        chosen = chosen_measurements(session, self.config.receivers)
        fingerprint, *of_arrivals = self._settings
        parts = [
            fingerprint,
            DECODING_VERSION,
            str(session.start),
            [
                [m.station, m.bucket, m.key, m.format, m.sample_rate_hz, str(m.start)]
                for _, m in sorted(chosen.items())
            ],
            *of_arrivals,
        ]
        return _digest(parts)

    def _compute(self, read: SessionRecordings, out: npt.NDArray[np.float32]) -> SessionFeatures:
        out[...], refused = self._extract.each(
            {name: (one.iq, one.sample_rate_hz) for name, one in read.usable.items()}
        )
        fit = {name: one for name, one in read.usable.items() if name not in refused}
        locked = [name for name, one in fit.items() if one.clock_locked]
        arrivals, no_arrivals = None, ""
        if self._extract_arrivals is not None:
            arrivals, no_arrivals = arrivals_of(self._extract_arrivals, fit)
        return SessionFeatures(
            features=out,
            present=np.array([name in fit for name in self.config.receivers], np.bool_),
            clock_locked=np.array([name in locked for name in self.config.receivers], np.bool_),
            unusable=read.unusable | {name: str(error) for name, error in refused.items()},
            arrivals=arrivals,
            no_arrivals=no_arrivals,
            computed=True,
        )


def arrivals_of(
    extract: ArrivalExtractor, recordings: Mapping[str, Recording]
) -> tuple[npt.NDArray[np.float32], str]:
    """Arrival times of a session, `(receivers, 5)`, and the reason of those that are zeros.

    A receiver that hears nothing beside others that do needs no reason.
    """
    nothing = np.zeros((len(extract.config.receivers), len(ARRIVAL_COLUMNS)), np.float32)
    heard = clocked(recordings)
    if len(heard) < 2:
        return nothing, (
            f"{len(heard)} of {len(recordings)} recordings ({', '.join(recordings)}) have a "
            "locked clock; a difference of times takes two"
        )
    try:
        rows, _, _, impossible = extract.measure(heard)
    except FeatureError as error:
        return nothing, str(error)
    if impossible:
        return rows, "; ".join(f"{name}: {reason}" for name, reason in impossible.items())
    return rows, "" if rows.any() else f"no two of {', '.join(heard)} hear one transmission"


def _digest(parts: object) -> str:
    """Half of a key: 128 bits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
