"""Predictions of one epoch, over all processes: metrics of the set, not of batches.

A median of batches' medians is not the median, and a distributed sampler repeats samples so that
all processes have as many; where batches carry `session_id`, repeats count once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

from heimdall_models.errors import ModelError
from heimdall_models.metrics import localization_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from heimdall_models.region import Region

__all__ = ["EpochPredictions", "metrics_of", "of_all_processes"]

T = TypeVar("T")


@dataclass(slots=True)
class EpochPredictions:
    """Predictions of one epoch as they come, in plane units."""

    parts: tuple[list[Tensor], ...] = field(default_factory=lambda: ([], [], [], []))
    """Batches of position, sigma, correlation and target."""
    session_ids: list[str] = field(default_factory=list)

    def add(self, *predicted: Tensor, session_ids: Sequence[str] = ()) -> None:
        """Keep one batch.

        Args:
            predicted: Position, sigma, correlation and target: `(batch, 2)` each, but
                correlations `(batch,)`.
            session_ids: As many, or none.
        """
        for kept, values in zip(self.parts, predicted, strict=True):
            kept.append(values.detach().float())
        self.session_ids.extend(session_ids)

    def gathered(self) -> tuple[Tensor, ...]:
        """Position, sigma, correlation and target of all processes on the CPU.

        `(n, 2)` each, but correlations `(n,)`. Every process must call this, and all get the same.

        Raises:
            ModelError: If a prediction is not finite; it names the session, if there are ids.
        """
        parts, ids = self._of_all_processes()
        if len(ids) != len(parts[0]):
            return parts
        finite = (parts[0].isfinite() & parts[1].isfinite()).all(dim=1).tolist()
        if broken := sorted({name for name, fine in zip(ids, finite, strict=True) if not fine}):
            raise ModelError(
                f"predictions for {len(broken)} of {len(ids)} sessions are not finite, the first "
                f"{broken[0]}; check its features"
            )
        first = {session_id: row for row, session_id in reversed(list(enumerate(ids)))}
        rows = torch.tensor(sorted(first.values()))
        return tuple(values[rows] for values in parts)

    def state(self) -> dict[str, Any]:
        """Predictions of all processes so far, for a checkpoint in the middle of an epoch.

        Every process must call this, and all get the same.
        """
        parts, ids = self._of_all_processes()
        return {"parts": list(parts), "session_ids": ids}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`; where several processes all do, sessions still count once."""
        self.add(*state["parts"], session_ids=state["session_ids"])

    def __len__(self) -> int:
        return sum(map(len, self.parts[0]))

    def _of_all_processes(self) -> tuple[tuple[Tensor, ...], list[str]]:
        mine = [torch.cat(values).cpu() for values in self.parts]
        parts, ids = zip(*of_all_processes((mine, self.session_ids)), strict=True)
        together = tuple(map(torch.cat, zip(*parts, strict=True)))
        return together, [name for own in ids for name in own]


def of_all_processes(mine: T) -> list[T]:
    """The values of all processes that train together; every one of them must call this."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    everyone = [mine] * distributed.get_world_size()
    distributed.all_gather_object(everyone, mine)
    return everyone


def metrics_of(
    region: Region, position: Tensor, sigma: Tensor, correlation: Tensor, target: Tensor
) -> dict[str, float]:
    """The contract's metrics, without prefix, of the result of `EpochPredictions.gathered`."""
    return localization_metrics(
        region.to_degrees(position.double().numpy()),
        sigma.double().numpy() * region.scale_m,
        region.to_degrees(target.double().numpy()),
        correlation.double().numpy(),
    )
