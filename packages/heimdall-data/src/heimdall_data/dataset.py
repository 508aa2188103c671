"""Sessions as training samples for PyTorch's DataLoader.

A map-style dataset of `torch.utils.data`, also in workers under fork, spawn and forkserver. The
same seed gives the same samples at any number of workers. torch is imported only for a batch.

The DataLoader asks `__getitems__` for the samples of a batch and would copy them into a tensor
in shared memory, which costs a warm epoch a tenth of its speed or more. Here features are read
straight to the rows of that tensor, and our collation returns it. Any other collation gets
ordinary samples.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
from heimdall_features import Augmentation, augment_features

from heimdall_data.cache.disk import FeatureCache
from heimdall_data.catalogue.table import SessionTable
from heimdall_data.errors import DataError
from heimdall_data.prepare import Threads, reasons
from heimdall_data.progress import progress_bar
from heimdall_data.session_features import FeatureSource, require_reach

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import torch
    from heimdall_features import ArrivalConfig, FeatureConfig

    from heimdall_data.cache.bucket import SharedCache
    from heimdall_data.catalogue.session import Session
    from heimdall_data.object_store.settings import S3Settings
    from heimdall_data.prepare import Engine
    from heimdall_data.recordings.recording import Recording
    from heimdall_data.session_features import SessionFeatures


class Sample(TypedDict):
    """One session as the model learns from it."""

    features: npt.NDArray[np.float32]
    """`(receivers, n_mels, n_frames)`, dB relative to full scale, before normalisation."""
    position_deg: npt.NDArray[np.float64]
    """`(2,)`: latitude and longitude of the transmitter."""
    present: npt.NDArray[np.bool_]
    """`(receivers,)`: false where the channel is filled for lack of a recording."""
    clock_locked: npt.NDArray[np.bool_]
    """`(receivers,)`: true where the recording has GNSS time."""
    session_id: str
    arrivals: NotRequired[npt.NDArray[np.float32]]
    """`(receivers, 5)`, columns of `heimdall_features.ARRIVAL_COLUMNS`, with zeros where nothing
    is known; only if the dataset was made with an `ArrivalConfig`."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A session that cannot be used, and why."""

    session_id: str
    """Identifier in the catalogue."""
    reason: str
    """A sentence for users."""


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
            sessions: All or some of what `Catalogue.sessions` returned.
            config: Receivers, in channel order, and how to compute their features.
            s3: Object store with the recordings.
            cache_dir: Folder for computed features; None computes them each time.
            augment: Vary each sample, differently in each epoch, with `augment_features`.
            seed: Seed of the variation, together with the epoch and the sample's index.
            cache_limit_bytes: Evict the least recently used entries of the cache beyond this.
            shared_cache: Bucket to search for features that are not in `cache_dir`.
            arrivals: How to measure times of arrival beside the features; None measures none.

        Raises:
            DataError: `arrivals` have other receivers or another rate than `config`, or a
                baseline below the distance of two receivers (not checked for a
                `SessionTable`).
        """
        cache: FeatureCache | SharedCache | None = shared_cache
        if cache_dir is not None:
            cache = FeatureCache(cache_dir, cache_limit_bytes, shared_cache)
        self.source = FeatureSource(config, s3, cache, arrivals)
        """Cache, store and extractors that give the features."""
        self.config = config
        self.arrivals = arrivals
        self.seed = seed
        self._set_sessions(sessions, augment=augment)

    def _set_sessions(self, sessions: Iterable[Session], *, augment: bool) -> None:
        """Take sessions of which nothing is known yet."""
        self.sessions = sessions if isinstance(sessions, SessionTable) else tuple(sessions)
        if self.arrivals is not None and not isinstance(self.sessions, SessionTable):
            require_reach(self.arrivals, self.sessions)
        self.epoch = 0
        """Epoch whose variation the samples show, if they are augmented."""
        self.unusable_recordings: tuple[UnusableRecording, ...] = ()
        """Recordings left out of sessions that are used; known after `prepare`."""
        self.without_arrivals: dict[str, str] = {}
        """Reason by id for sessions that are used without arrival times, or without those of
        receivers whose clocks are wrong; known after `prepare`."""
        self.sessions_by_clocks: Counter[int] = Counter()
        """Number of sessions by their number of locked clocks; known after `prepare`."""
        self.n_computed = 0
        """Number of sessions whose features `prepare` did not find in the cache."""
        self._keys: dict[str, str] = {}
        self._augmentation = Augmentation(fill_db=self.config.fill_db) if augment else None

    def __len__(self) -> int:
        return len(self.sessions)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of session `index`.

        Raises:
            DataError: The session has no usable recording; `prepare` leaves such out.
            StoreError: The store cannot be reached, refuses us or lacks the bucket.
        """
        session = self.sessions[index]
        found = self.source.features(session, self._keys.get(session.id))
        return self._sample(index, session, found)

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples of a batch, as PyTorch's DataLoader asks; errors as `__getitem__`."""
        from torch.utils.data._utils.collate import default_collate_fn_map

        block = _shared_tensor((len(indices), *self.config.shape))
        if isinstance(self.sessions, SessionTable):
            sessions = self.sessions.read(indices)
        else:
            sessions = [self.sessions[index] for index in indices]
        keys = [self._keys.get(session.id) for session in sessions]
        found = self.source.features_of_batch(sessions, keys, block.numpy())
        samples = list(map(self._sample, indices, sessions, found))
        # As the documentation of `default_collate` describes.
        default_collate_fn_map.setdefault(_BlockSample, _collate)
        return [_BlockSample(sample, block, row) for row, sample in enumerate(samples)]  # type: ignore[misc]

    def _sample(self, index: int, session: Session, found: SessionFeatures) -> Sample:
        """Sample of `session`, in the memory of `found`."""
        if session.id in self._keys and found.key is not None:
            # An object may have been replaced after `prepare`.
            self._keys[session.id] = found.key
        if not found.present.any():
            raise DataError(
                f"session {session.id} has no usable recording "
                f"({reasons(found.unusable)}); call prepare() and use the dataset that it returns"
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

    def set_epoch(self, epoch: int) -> None:
        """Vary the samples as in this epoch.

        Call it before the epoch's iterator is made, as its workers copy the dataset. Workers of
        a DataLoader with `persistent_workers` keep the epoch of their first copy.
        """
        self.epoch = epoch

    def recordings(self, index: int) -> dict[str, Recording]:
        """Read the usable recordings of session `index`, by receiver, cut to their common time."""
        return self.source.reader.read(self.sessions[index], self.config.receivers).usable

    def subset(self, sessions: Iterable[Session], *, augment: bool = False) -> HeimdallDataset:
        """Return a dataset of some sessions with the same settings, prepared if this one is."""
        part = copy(self)
        part._set_sessions(sessions, augment=augment)
        if not (self._keys or self.unusable_recordings or self.without_arrivals):
            return part  # so that the sessions of a large table need not be read
        kept = {session.id for session in part.sessions}
        part._keys = {i: key for i, key in self._keys.items() if i in kept}
        part.unusable_recordings = tuple(
            recording for recording in self.unusable_recordings if recording.session_id in kept
        )
        part.without_arrivals = {i: why for i, why in self.without_arrivals.items() if i in kept}
        return part

    def prepare(
        self, workers: int | None = None, *, progress: bool = True, engine: Engine | None = None
    ) -> tuple[HeimdallDataset, list[Exclusion]]:
        """Compute all features ahead of time, and find the sessions that cannot be used.

        Args:
            workers: Number of cores to use; None takes all.
            progress: Show a bar on standard error.
            engine: Computes the features; None takes threads of this process. `RayEngine` of
                `heimdall_data.ray_engine` uses a cluster, and fills the shared cache alone.

        Returns:
            The usable sessions as a dataset, and the others with their reasons.

        Raises:
            StoreError: The store cannot be reached, refuses us or lacks the bucket.
            EngineError: The engine cannot do it.
        """
        if self.source.cache is not None:
            self.source.cache.refresh()
        found = []
        with (
            contextlib.closing((engine or Threads(workers))(self.source, self.sessions)) as results,
            progress_bar("features", len(self), shown=progress) as advance,
        ):
            for result in results:
                found.append(result)
                advance(1)
        exclusions = [Exclusion(r.session_id, r.reason) for r in found if r.reason is not None]
        excluded = {exclusion.session_id for exclusion in exclusions}
        used = [result for result in found if result.reason is None]
        self._keys = {r.session_id: r.key for r in found if r.key is not None}
        self.unusable_recordings = tuple(
            UnusableRecording(r.session_id, station, reason)
            for r in found
            for station, reason in r.unusable.items()
        )
        self.without_arrivals = {r.session_id: r.no_arrivals for r in used if r.no_arrivals}
        remaining: Sequence[Session]
        if isinstance(self.sessions, SessionTable):
            remaining = self.sessions.without(excluded)
        else:
            remaining = [session for session in self.sessions if session.id not in excluded]
        usable = self.subset(remaining, augment=self._augmentation is not None)
        usable.n_computed = sum(result.computed for result in found)
        usable.sessions_by_clocks = Counter(result.n_clocks for result in used)
        return usable, exclusions


class _BlockSample(dict[str, Any]):
    """A sample whose features are row `row` of `block`; elsewhere an ordinary dictionary."""

    __slots__ = ("block", "row")

    def __init__(self, sample: Sample, block: torch.Tensor, row: int) -> None:
        super().__init__(sample)
        self.block = block
        self.row = row

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """Become an ordinary sample in another process."""
        return (dict, (dict(self),))


def _shared_tensor(shape: tuple[int, ...]) -> torch.Tensor:
    """Return an empty float32 tensor, in shared memory in a DataLoader's worker."""
    import torch

    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=torch.float32)
    # As `default_collate` does; nothing public gives shared memory without a copy.
    storage = torch.UntypedStorage._new_shared(4 * math.prod(shape))  # type: ignore[no-untyped-call]
    shared: torch.Tensor = torch.empty(0, dtype=torch.float32)
    shared.set_(storage, 0, shape)  # type: ignore[call-overload]
    return shared


def _collate(
    samples: Sequence[_BlockSample], *, collate_fn_map: object = None
) -> dict[str, torch.Tensor | list[str]]:
    """Collate as `default_collate` does, without a copy if the samples are a whole block."""
    import torch

    del collate_fn_map  # our samples hold arrays and strings only
    block = samples[0].block
    whole = [(id(block), row) for row in range(len(block))]
    in_place = whole == [(id(sample.block), sample.row) for sample in samples]
    batch: dict[str, torch.Tensor | list[str]] = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        if name == "features" and in_place:
            batch[name] = block
        elif isinstance(first, np.ndarray):
            batch[name] = torch.from_numpy(np.stack(values))
        else:
            batch[name] = values
    return batch
