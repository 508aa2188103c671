"""Batches for PyTorch's DataLoader, read to the tensor that it hands over.

The DataLoader asks a dataset's `__getitems__` for the samples of a batch, copies them into a
tensor in memory that the trainer's process shares, and drops them. Copying costs a warm epoch
a tenth of its speed and more, so that here the shared tensor comes first, features are read to
its rows, and the collation finds that they are there. Whoever collates in another way gets
samples as always. Only this module of the package knows torch, when a DataLoader calls it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = ["FeatureBlock", "Sample"]


class Sample(TypedDict):
    """One session as the model learns from it."""

    features: npt.NDArray[np.float32]
    """`(receivers, n_mels, n_frames)`, dB relative to full scale, before normalisation."""
    position_deg: npt.NDArray[np.float64]
    """`(2,)`: latitude and longitude of the transmitter."""
    present: npt.NDArray[np.bool_]
    """`(receivers,)`: false where the channel is filled for want of a recording."""
    clock_locked: npt.NDArray[np.bool_]
    """`(receivers,)`: true where the recording's time is GNSS's."""
    session_id: str
    arrivals: NotRequired[npt.NDArray[np.float32]]
    """`(receivers, 5)`, columns of `heimdall_features.ARRIVAL_COLUMNS`, a row being zero where
    nothing is known; there if the dataset was asked for them."""


class FeatureBlock:
    """The features of a batch in one tensor, shared where a DataLoader's worker makes it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Make room for float32 features, `shape` being `(batch, receivers, n_mels, n_frames)`."""
        self.tensor = _room(shape)
        self.rows: npt.NDArray[np.float32] = self.tensor.numpy()

    def samples(self, samples: Sequence[Sample]) -> list[Sample]:
        """Samples whose features are this block's rows, marked so that they need no copy."""
        _let_default_collate_know()
        return [
            cast("Sample", BlockSample(sample, self, row)) for row, sample in enumerate(samples)
        ]


class BlockSample(dict[str, Any]):
    """A sample whose features are a row of a block; to all but our collation, a dictionary."""

    __slots__ = ("block", "row")

    def __init__(self, sample: Sample, block: FeatureBlock, row: int) -> None:
        super().__init__(sample)
        self.block = block
        self.row = row

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """In another process it is a sample like any other."""
        return (dict, (dict(self),))


def _room(shape: tuple[int, ...]) -> torch.Tensor:
    """An empty tensor where `default_collate` would put its own."""
    import torch

    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=torch.float32)
    # The call that `default_collate` makes; nothing public gives shared memory without a copy.
    storage = torch.UntypedStorage._new_shared(4 * math.prod(shape))  # type: ignore[no-untyped-call]
    shared: torch.Tensor = torch.empty(0, dtype=torch.float32)
    shared.set_(storage, 0, shape)  # type: ignore[call-overload]
    return shared


def _let_default_collate_know() -> None:
    """Extend it by our samples, in the way that its documentation describes."""
    from torch.utils.data._utils.collate import default_collate_fn_map

    default_collate_fn_map.setdefault(BlockSample, _collate)


def _collate(
    samples: Sequence[BlockSample], *, collate_fn_map: object = None
) -> dict[str, torch.Tensor | list[str]]:
    """What `default_collate` gives of samples, without copying those that are a whole block."""
    import torch

    del collate_fn_map  # our samples hold arrays and strings only
    block = samples[0].block
    whole = [(id(block), row) for row in range(len(block.rows))]
    in_place = whole == [(id(sample.block), sample.row) for sample in samples]
    batch: dict[str, torch.Tensor | list[str]] = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        if name == "features" and in_place:
            batch[name] = block.tensor
        else:
            is_array = isinstance(first, np.ndarray)
            batch[name] = torch.from_numpy(np.stack(values)) if is_array else values
    return batch
