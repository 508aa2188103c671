"""Everything predicted in one epoch, over all processes: metrics of the set, not of batches.

A median of batches' medians is not the median, and a distributed sampler repeats samples so
that all processes have as many; where batches carry `session_id`, repeats count once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from heimdall_models.errors import ModelError
from heimdall_models.metrics import localization_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from heimdall_models.region import Region


@dataclass(slots=True)
class EpochPredictions:
    """Predictions of one epoch as they come, in plane units."""

    position: list[Tensor] = field(default_factory=list)
    sigma: list[Tensor] = field(default_factory=list)
    correlation: list[Tensor] = field(default_factory=list)
    target: list[Tensor] = field(default_factory=list)
    session_ids: list[str] = field(default_factory=list)

    def add(
        self,
        position: Tensor,
        sigma: Tensor,
        correlation: Tensor,
        target: Tensor,
        session_ids: Sequence[str] = (),
    ) -> None:
        """Keep one batch: `(batch, 2)` each, but correlations `(batch,)`; as many ids or none."""
        for kept, values in zip(self._parts(), (position, sigma, correlation, target), strict=True):
            kept.append(values.detach().float())
        self.session_ids.extend(session_ids)

    def gathered(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Position, sigma, correlation and target of all processes on the CPU.

        `(n, 2)` each, but correlations `(n,)`. Every process must call this, and all get the
        same.

        Raises:
            ModelError: If something predicted is not finite; by its session, where there are ids.
        """
        (position, sigma, correlation, target), ids = self._of_all_processes()
        if len(ids) != len(position):
            return position, sigma, correlation, target
        _require_finite(position, sigma, ids)
        first = {session_id: row for row, session_id in reversed(list(enumerate(ids)))}
        rows = torch.tensor(sorted(first.values()))
        return position[rows], sigma[rows], correlation[rows], target[rows]

    def state(self) -> dict[str, Any]:
        """What all processes have kept so far, for a checkpoint in the middle of an epoch.

        Every process must call this, and all get the same.
        """
        parts, ids = self._of_all_processes()
        return {"parts": list(parts), "session_ids": ids}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; where several processes all do, sessions still count once."""
        for kept, values in zip(self._parts(), state["parts"], strict=True):
            kept.append(values)
        self.session_ids.extend(state["session_ids"])

    def __len__(self) -> int:
        return sum(map(len, self.position))

    def _of_all_processes(self) -> tuple[tuple[Tensor, ...], list[str]]:
        mine = (*(torch.cat(parts).cpu() for parts in self._parts()), self.session_ids)
        everyone: list[Any] = [mine]
        if distributed.is_available() and distributed.is_initialized():
            everyone = [None] * distributed.get_world_size()
            distributed.all_gather_object(everyone, mine)
        parts = tuple(torch.cat(part) for part in list(zip(*everyone, strict=True))[:4])
        return parts, [session_id for process in everyone for session_id in process[4]]

    def _parts(self) -> tuple[list[Tensor], ...]:
        return self.position, self.sigma, self.correlation, self.target


def _require_finite(position: Tensor, sigma: Tensor, session_ids: Sequence[str]) -> None:
    finite = (position.isfinite() & sigma.isfinite()).all(dim=1).tolist()
    broken = sorted({name for name, fine in zip(session_ids, finite, strict=True) if not fine})
    if broken:
        raise ModelError(
            f"what is predicted of {len(broken)} of {len(finite)} sessions is not finite; the "
            f"first is {broken[0]}: are its features?"
        )


def metrics_of(
    region: Region, position: Tensor, sigma: Tensor, correlation: Tensor, target: Tensor
) -> dict[str, float]:
    """The contract's metrics, without prefix, of what `EpochPredictions.gathered` returns."""
    return localization_metrics(
        region.to_degrees(position.double().numpy()),
        sigma.double().numpy() * region.scale_m,
        region.to_degrees(target.double().numpy()),
        correlation.double().numpy(),
    )
