"""Sessions as training samples, without losing or inventing one.

A map-style dataset in the sense of `torch.utils.data`, which it does not import: it works in
DataLoader workers under fork, spawn and forkserver, each with its own connections. The same
seed gives the same samples at any number of workers.

The features of a batch's sessions: from the cache, and the others several at a time.

While one session's recordings are on their way, another's features are computed. On a link
with some milliseconds to the store, one after the other would be mostly waiting.

One number that all processes see, also those that started before it changed.

Workers of a DataLoader with `persistent_workers` hold a copy of the dataset from the first
epoch on. The epoch is therefore kept in eight bytes of a small file that every copy maps,
which works under fork, spawn and forkserver alike, and pickles as the file's name.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from heimdall_features import Augmentation, augment_features

from heimdall_data.batch import Sample
from heimdall_data.cache.disk import FeatureCache
from heimdall_data.catalogue.table import SessionTable
from heimdall_data.errors import DataError
from heimdall_data.prepare import Threads, prepare_sessions, reasons
from heimdall_data.session_features import FeatureSource, require_reach

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import numpy.typing as npt
    from heimdall_features import ArrivalConfig, FeatureConfig

    from heimdall_data.cache.bucket import SharedCache
    from heimdall_data.catalogue.session import Session
    from heimdall_data.object_store.settings import S3Settings
    from heimdall_data.prepare import Engine
    from heimdall_data.recordings.recording import Recording
    from heimdall_data.session_features import SessionFeatures

__all__ = ["Exclusion", "HeimdallDataset", "SharedEpoch", "UnusableRecording", "features_of_batch"]


THREADS = 8
"""With 2 cores, and a store on them or some milliseconds away."""


def features_of_batch(
    source: FeatureSource,
    sessions: Sequence[Session],
    keys: Sequence[str | None],
    rows: npt.NDArray[np.float32],
) -> list[SessionFeatures]:
    """The features of each session, in their order.

    Args:
        source: Where they come from.
        sessions: Which.
        keys: Of each in the cache, as far as is known.
        rows: Where the features go, `(sessions, receivers, n_mels, n_frames)`.

    Raises:
        StoreError: The store cannot be reached, refuses us or lacks the bucket.
    """
    found = [source.cached(key, row) for key, row in zip(keys, rows, strict=True)]
    missed = [number for number, one in enumerate(found) if one is None]
    if missed:
        # Of this batch alone: threads do not survive a fork.
        with source.reader.threads(min(THREADS, len(missed)), "batch") as pool:
            read = pool.map(lambda n: source.current(sessions[n], keys[n], rows[n]), missed)
            found = _filled(found, list(read))
    return [one for one in found if one is not None]


def _filled(
    found: Sequence[SessionFeatures | None], read: Sequence[SessionFeatures]
) -> list[SessionFeatures | None]:
    """`found` with what was read, in order, in its gaps."""
    gaps = iter(read)
    return [next(gaps) if one is None else one for one in found]


WIDTH = 8


class SharedEpoch:
    """A whole number, zero at first; the file goes with the process that made it."""

    def __init__(self) -> None:
        """Make a new one."""
        descriptor, name = tempfile.mkstemp(prefix="heimdall-epoch-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(WIDTH))
        self._path = Path(name)
        self._map = _mapped(self._path)
        weakref.finalize(self, _remove, self._path, os.getpid())

    def __getstate__(self) -> tuple[Path, int]:
        return (self._path, self.value)

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self._path, value = state
        try:
            self._map = _mapped(self._path)
        except FileNotFoundError:
            # The maker is gone, as with a pickle read back later; keep what it last said.
            self.__init__()  # type: ignore[misc]
            self.value = value

    @property
    def value(self) -> int:
        """The number now."""
        return int.from_bytes(self._map[:WIDTH], "little")

    @value.setter
    def value(self, value: int) -> None:
        self._map[:WIDTH] = value.to_bytes(WIDTH, "little")


def _mapped(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), WIDTH)


def _remove(path: Path, maker: int) -> None:
    """Delete the file, unless this is a forked copy of the process that made it."""
    if os.getpid() == maker:
        path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A session that cannot be used, and why."""

    session_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class UnusableRecording:
    """A recording left out of a session whose other recordings are used."""

    session_id: str
    station: str
    reason: str


class HeimdallDataset:
    """Sessions of the catalogue as `Sample`s, in the order given."""

    def __init__(
        self,
        sessions: Iterable[Session],
        config: FeatureConfig,
        s3: S3Settings,
        *,
        cache_dir: Path | None = None,
        augment: bool = False,
        seed: int = 42,
        cache_limit_bytes: int | None = None,
        shared_cache: SharedCache | None = None,
        arrivals: ArrivalConfig | None = None,
    ) -> None:
        """Describe the dataset; nothing is read yet.

        Args:
            sessions: What `Catalogue.sessions` returned, or a part of it.
            config: Which receivers become which channel, and how.
            s3: Where the recordings are.
            cache_dir: Folder for computed features; None computes them each time.
            augment: Vary each sample, anew each epoch, as `augment_features` does.
            seed: Of the variation, together with the epoch and the sample's index.
            cache_limit_bytes: Beyond this the cache evicts what was used longest ago.
            shared_cache: Computed features in a bucket, for what is not in `cache_dir`.
            arrivals: How to measure times of arrival beside the features; None measures none.

        Raises:
            DataError: `arrivals` are of other receivers or another rate than `config`, or reach
                less far than two receivers are apart (not checked for a `SessionTable`).
        """
        self.sessions = sessions if isinstance(sessions, SessionTable) else tuple(sessions)
        self.config = config
        self.arrivals = arrivals
        if arrivals is not None and not isinstance(self.sessions, SessionTable):
            require_reach(arrivals, self.sessions)
        self.seed = seed
        self.unusable_recordings: tuple[UnusableRecording, ...] = ()
        """What `prepare` found; empty before."""
        self.without_arrivals: Mapping[str, str] = {}
        """By id of a session that is used, why it has no arrival times; `prepare` finds out."""
        self.sessions_by_clocks: Counter[int] = Counter()
        """How many sessions have how many receivers with a locked clock; `prepare` counts."""
        self.n_computed = 0
        """For how many sessions `prepare` computed features; the others' were in the cache."""
        cache = (
            shared_cache
            if cache_dir is None
            else FeatureCache(cache_dir, cache_limit_bytes, shared_cache)
        )
        self._source = FeatureSource(config, s3, cache, arrivals)
        self._keys: dict[str, str] = {}
        self._augmentation = Augmentation(fill_db=config.fill_db) if augment else None
        self._epoch = SharedEpoch() if augment else None

    def __len__(self) -> int:
        return len(self.sessions)

    def __getitem__(self, index: int) -> Sample:
        """The sample of session `index`.

        Raises:
            DataError: The session has no usable recording; `prepare` leaves such out.
            StoreError: The store cannot be reached, refuses us or lacks the bucket.
        """
        session = self.sessions[index]
        return self._sample(
            index, session, self._source.features(session, self._keys.get(session.id))
        )

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """The samples of a batch: PyTorch's DataLoader asks for them so, if it can.

        Raises:
            DataError: As `__getitem__`.
        """
        from heimdall_data.batch import FeatureBlock

        block = FeatureBlock((len(indices), *self.config.shape))
        sessions = self._sessions_at(indices)
        keys = [self._keys.get(session.id) for session in sessions]
        found = features_of_batch(self._source, sessions, keys, block.rows)
        samples = map(self._sample, indices, sessions, found)
        return block.samples(list(samples))

    def _sessions_at(self, indices: Sequence[int]) -> list[Session]:
        if isinstance(self.sessions, SessionTable):
            return self.sessions.read(indices)
        return [self.sessions[index] for index in indices]

    def _sample(self, index: int, session: Session, found: SessionFeatures) -> Sample:
        """The sample of `session`, in the memory of `found`."""
        if session.id in self._keys and found.key is not None:
            # Since it was prepared, an object may have been replaced.
            self._keys[session.id] = found.key
        if not found.present.any():
            raise DataError(
                f"session {session.id} has no usable recording "
                f"({reasons(found.unusable)}); call prepare() and use what it returns"
            )
        features, present = found.features, found.present
        if self._augmentation is not None:
            rng = np.random.default_rng((self.seed, self.epoch, index % len(self)))
            varied = augment_features(features, rng, self._augmentation)
            present = present & (varied != np.float32(self.config.fill_db)).any(axis=(1, 2))
            features[...] = varied
        sample = Sample(
            features=features,
            position_deg=np.array(session.position_deg, np.float64),
            present=present,
            clock_locked=found.clock_locked & present,
            session_id=session.id,
        )
        if found.arrivals is not None:
            sample["arrivals"] = np.where(present[:, None], found.arrivals, np.float32(0))
        return sample

    @property
    def epoch(self) -> int:
        """Which variation of the samples is given; 0 without augmentation."""
        return 0 if self._epoch is None else self._epoch.value

    def set_epoch(self, epoch: int) -> None:
        """Vary the samples as in this epoch, in all workers, persistent ones included.

        Call it before the epoch's iterator is made: workers read ahead.
        """
        if self._epoch is not None:
            self._epoch.value = epoch

    def recordings(self, index: int) -> dict[str, Recording]:
        """The usable recordings of session `index` by receiver, cut to one span of time."""
        return self._source.recordings(self.sessions[index])

    def subset(self, sessions: Iterable[Session], *, augment: bool = False) -> HeimdallDataset:
        """A dataset of some sessions with the same settings; what is prepared stays so."""
        source = self._source
        part = HeimdallDataset(
            sessions,
            self.config,
            source.reader.s3,
            augment=augment,
            seed=self.seed,
            arrivals=self.arrivals,
        )
        part._source = source
        if not (self._keys or self.unusable_recordings or self.without_arrivals):
            return part  # the sessions of a large table are not read for nothing
        kept = {session.id for session in part.sessions}
        part._keys = {id_: key for id_, key in self._keys.items() if id_ in kept}
        part.unusable_recordings = tuple(
            recording for recording in self.unusable_recordings if recording.session_id in kept
        )
        part.without_arrivals = {
            id_: reason for id_, reason in self.without_arrivals.items() if id_ in kept
        }
        return part

    def prepare(
        self,
        workers: int | None = None,
        *,
        progress: bool = True,
        engine: Engine | None = None,
    ) -> tuple[HeimdallDataset, list[Exclusion]]:
        """Compute all features ahead of time, and find out what cannot be used.

        Args:
            workers: On how many cores; None takes all.
            progress: Show a bar on standard error.
            engine: What computes; None takes threads of this process. `RayEngine` of
                `heimdall_data.ray_engine` takes a cluster, and fills the shared cache alone.

        Returns:
            The usable sessions as a dataset, and the others with their reasons. The dataset's
            `unusable_recordings` are those left out of sessions that are used.

        Raises:
            StoreError: The store cannot be reached, refuses us or lacks the bucket.
        """
        engine = engine or Threads(workers)
        found = prepare_sessions(self._source, self.sessions, engine, progress=progress)
        exclusions = [
            Exclusion(result.session_id, result.reason)
            for result in found
            if result.reason is not None
        ]
        self._keys = {result.session_id: result.key for result in found if result.key is not None}
        self.unusable_recordings = tuple(
            UnusableRecording(result.session_id, station, reason)
            for result in found
            for station, reason in result.unusable.items()
        )
        self.without_arrivals = {
            result.session_id: result.no_arrivals
            for result in found
            if result.no_arrivals and result.reason is None
        }
        excluded = {exclusion.session_id for exclusion in exclusions}
        usable = self.subset(self._without(excluded), augment=self._augmentation is not None)
        usable.n_computed = sum(result.computed for result in found)
        usable.sessions_by_clocks = Counter(
            result.n_clocks for result in found if result.reason is None
        )
        return usable, exclusions

    def _without(self, excluded: Collection[str]) -> Iterable[Session]:
        if isinstance(self.sessions, SessionTable):
            return self.sessions.without(excluded)
        return (session for session in self.sessions if session.id not in excluded)
