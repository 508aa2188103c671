"""The features of a session, computed once for each version of its recordings and settings.

When each receiver of a session heard the transmission, by its recordings' own clocks.
"""

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
    ClockedRecording,
    FeatureError,
    FeatureExtractor,
)

from heimdall_data.distance import great_circle_m
from heimdall_data.errors import DataError
from heimdall_data.session_reader import SessionReader, chosen_measurements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from heimdall_features import ArrivalConfig, FeatureConfig

    from heimdall_data.cache.bucket import SharedCache
    from heimdall_data.cache.disk import FeatureCache
    from heimdall_data.catalogue.session import Measurement, Session
    from heimdall_data.object_store.settings import S3Settings
    from heimdall_data.recordings.recording import Recording
    from heimdall_data.session_reader import ObjectVersions, SessionRecordings

__all__ = [
    "FeatureSource",
    "SessionFeatures",
    "arrivals_of",
    "clocked",
    "extractor_beside",
    "require_reach",
]


def extractor_beside(
    features: FeatureConfig, arrivals: ArrivalConfig | None
) -> ArrivalExtractor | None:
    """What measures arrivals, in rows that are the channels of the features.

    Raises:
        DataError: The two have other receivers, the same in another order, or another rate.
    """
    if arrivals is None:
        return None
    if arrivals.receivers != features.receivers:
        raise DataError(
            f"arrivals are of {arrivals.receivers} and features of {features.receivers}; give "
            "both the same receivers in the same order"
        )
    if arrivals.sample_rate_hz != features.sample_rate_hz:
        raise DataError(
            f"arrivals are measured at {arrivals.sample_rate_hz:g} Hz and features at "
            f"{features.sample_rate_hz:g} Hz; give both the recordings' rate: above it there is "
            "no noise to tell how sure a time is"
        )
    return ArrivalExtractor(arrivals)


def require_reach(arrivals: ArrivalConfig, sessions: Iterable[Session]) -> None:
    """See that no two receivers are further apart than arrivals are looked for.

    Raises:
        DataError: Two are; times of arrival would be wrong, and not missing.
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


def arrivals_of(
    extract: ArrivalExtractor, recordings: Mapping[str, Recording]
) -> tuple[npt.NDArray[np.float32], str]:
    """The arrival times of a session, and why there are none.

    Args:
        extract: What measures them.
        recordings: The usable ones, by receiver.

    Returns:
        `(receivers, 5)` as `ArrivalExtractor` gives them, and an empty string; or all zero
        and the reason. A session without arrival times is still one of levels.
    """
    rows = np.zeros((len(extract.config.receivers), len(ARRIVAL_COLUMNS)), np.float32)
    heard = clocked(recordings)
    if len(heard) < 2:
        return rows, (
            f"{len(heard)} of {len(recordings)} recordings ({', '.join(recordings)}) have a "
            "locked clock; a difference of times takes two"
        )
    try:
        rows = extract(heard)
    except FeatureError as error:
        return rows, str(error)
    return rows, "" if rows.any() else f"no two of {', '.join(heard)} hear one transmission"


def clocked(recordings: Mapping[str, Recording]) -> dict[str, ClockedRecording]:
    """Those whose clock is GNSS's, by receiver, with starts in seconds after the earliest.

    Seconds since 1980 in a float would be rounded to 240 ns: 70 m.
    """
    starts_ns = {
        name: recording.start_gps_ns
        for name, recording in recordings.items()
        if recording.clock_locked and recording.start_gps_ns is not None
    }
    first_ns = min(starts_ns.values(), default=0)
    return {
        name: ClockedRecording(
            recordings[name].iq, recordings[name].sample_rate_hz, (start_ns - first_ns) * 1e-9
        )
        for name, start_ns in starts_ns.items()
    }


DECODING_VERSION = 2
"""Rises whenever decoding or alignment gives other samples, so that caches are left behind."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionFeatures:
    """What the model sees of a session, and what it should know of it."""

    features: npt.NDArray[np.float32]
    """`(receivers, n_mels, n_frames)`, dB relative to full scale."""
    present: npt.NDArray[np.bool_]
    """`(receivers,)`: the channel holds a recording and no filling."""
    clock_locked: npt.NDArray[np.bool_]
    """`(receivers,)`: the recording's time is GNSS's, fit for time differences."""
    unusable: dict[str, str]
    """By receiver, why its recording was left out."""
    arrivals: npt.NDArray[np.float32] | None = None
    """`(receivers, 5)`, columns of `heimdall_features.ARRIVAL_COLUMNS`; None if not asked for."""
    no_arrivals: str = ""
    """Why they are all zero."""
    computed: bool = False
    """Just now, and not found in the cache."""
    key: str | None = None
    """Under which the cache holds or held them; None where they are of no use tomorrow."""

    def to_tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """As plain arrays, for the cache."""
        reasons = np.frombuffer(json.dumps(self.unusable).encode(), np.uint8)
        tensors: dict[str, npt.NDArray[np.generic]] = {
            "features": self.features,
            "present": self.present,
            "clock_locked": self.clock_locked,
            "unusable": reasons,
        }
        if self.arrivals is not None:
            # In the alphabet behind the features, which are read fastest where they come first.
            tensors["times"] = self.arrivals
            tensors["no_times"] = np.frombuffer(self.no_arrivals.encode(), np.uint8)
        return tensors

    @classmethod
    def from_tensors(
        cls, tensors: dict[str, npt.NDArray[np.generic]], key: str | None = None
    ) -> SessionFeatures:
        """The inverse of `to_tensors`, for what the cache holds under `key`."""
        return cls(
            features=np.asarray(tensors["features"], np.float32),
            present=np.asarray(tensors["present"], np.bool_),
            clock_locked=np.asarray(tensors["clock_locked"], np.bool_),
            # Nothing is unusable in almost every session, and JSON takes 5 of 30 microseconds.
            unusable=json.loads(reasons)
            if (reasons := tensors["unusable"].tobytes()) != b"{}"
            else {},
            arrivals=np.asarray(tensors["times"], np.float32) if "times" in tensors else None,
            no_arrivals=tensors["no_times"].tobytes().decode() if "no_times" in tensors else "",
            key=key,
        )


class FeatureSource:
    """Where features come from: the cache, or else the store and the extractor."""

    def __init__(
        self,
        config: FeatureConfig,
        s3: S3Settings,
        cache: FeatureCache | SharedCache | None,
        arrivals: ArrivalConfig | None = None,
    ) -> None:
        """Compute as `config` says from what `s3` holds; without a cache, each time.

        Raises:
            DataError: `arrivals` are of other receivers than `config`.
        """
        self.config = config
        self.arrivals = arrivals
        self.reader = SessionReader(s3)
        self.cache = cache
        self._extract = FeatureExtractor(config)
        self._extract_arrivals = extractor_beside(config, arrivals)

    def recordings(self, session: Session) -> dict[str, Recording]:
        """The usable recordings of the session by receiver, in channel order."""
        return self.reader.read(session, self.config.receivers).usable

    def features(
        self,
        session: Session,
        key: str | None = None,
        out: npt.NDArray[np.float32] | None = None,
    ) -> SessionFeatures:
        """The features of a session.

        Args:
            session: Which.
            key: That of its features, as far as is known; None finds out what the store has.
            out: Where the features go, `(receivers, n_mels, n_frames)`; None takes new memory.
        """
        out = np.empty(self.config.shape, np.float32) if out is None else out
        return self.cached(key, out) or self.current(session, key, out)

    def cached(self, key: str | None, out: npt.NDArray[np.float32]) -> SessionFeatures | None:
        """What the cache holds under `key`, with the features in `out`; None if nothing."""
        if key is None or self.cache is None:
            return None
        found = self.cache.get_into(key, "features", out)
        if found is None:
            return None
        found["features"] = out
        return SessionFeatures.from_tensors(found, key)

    def current(
        self, session: Session, missed: str | None, out: npt.NDArray[np.float32]
    ) -> SessionFeatures:
        """The features of what the store holds now, in `out`; `missed` is not in the cache.

        Which versions it holds is asked only where the cache has any of this session: else
        they come with the objects, and asking would take as long as fetching.
        """
        if self.cache is not None and self.cache.may_hold(self._beginning(session)):
            key = self.key(session)
            found = None if key == missed else self.cached(key, out)
            if found is not None:
                return found
        computed, read = self._computed(session, out)
        if self.cache is None or not read.lasting:
            return computed
        # Under what was read: since the store was asked, an object may have been replaced.
        computed = replace(computed, key=self._key(session, read.versions))
        self.cache.put(str(computed.key), computed.to_tensors())
        return computed

    def key(self, session: Session) -> str:
        """A hash of all that the features depend on: settings and versions of the objects."""
        chosen = chosen_measurements(session, self.config.receivers)
        versions = {name: self.reader.versions(m) for name, m in chosen.items()}
        return self._key(session, versions)

    def _key(self, session: Session, versions: Mapping[str, ObjectVersions]) -> str:
        return self._beginning(session) + _digest(sorted(versions.items()))

    def _beginning(self, session: Session) -> str:
        """Of the keys of all versions of the session's objects."""
        chosen = chosen_measurements(session, self.config.receivers)
        parts = [
            self.config.fingerprint,
            DECODING_VERSION,
            str(session.start),
            [_identity(m) for _, m in sorted(chosen.items())],
        ]
        if self.arrivals is not None:
            parts.append(self.arrivals.fingerprint)
        return _digest(parts)

    def _computed(
        self, session: Session, out: npt.NDArray[np.float32]
    ) -> tuple[SessionFeatures, SessionRecordings]:
        read = self.reader.read(session, self.config.receivers)
        out[...], refused = self._extract.each(
            {name: (one.iq, one.sample_rate_hz) for name, one in read.usable.items()}
        )
        unusable = read.unusable | {name: str(error) for name, error in refused.items()}
        fit = {name: one for name, one in read.usable.items() if name not in refused}
        receivers = self.config.receivers
        arrivals, no_arrivals = None, ""
        if self._extract_arrivals is not None:
            arrivals, no_arrivals = arrivals_of(self._extract_arrivals, fit)
        computed = SessionFeatures(
            features=out,
            present=np.array([name in fit for name in receivers], np.bool_),
            clock_locked=np.array(
                [name in fit and fit[name].clock_locked for name in receivers], np.bool_
            ),
            unusable=unusable,
            arrivals=arrivals,
            no_arrivals=no_arrivals,
            computed=True,
        )
        return computed, read


def _digest(parts: object) -> str:
    """Half of a key: 128 bits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _identity(measurement: Measurement) -> list[object]:
    """All that a recording depends on, but what the store holds."""
    return [
        measurement.station,
        measurement.bucket,
        measurement.key,
        measurement.format,
        measurement.sample_rate_hz,
        str(measurement.start),
    ]
