"""Overview before a run starts: sessions, receivers, the map, the size of the model."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_data.catalogue.table import SessionTable
from heimdall_data.distance import great_circle_m

from heimdall_trainer.events import tell

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from heimdall_data import HeimdallDataset
    from heimdall_models import LocalizationModule

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.data import TrainingData

__all__ = ["ModelSize", "data_table", "tell_data", "tell_model"]

BYTES_OF_A_WEIGHT = 4
ADAM = 2
"""Moments that AdamW keeps of each weight that learns."""
SIDES = ("train", "validation", "test")


def tell_data(data: TrainingData) -> None:
    """Log the sessions of each side of the split."""
    parts = _parts(data)
    tell(
        "data",
        data_table(data),
        sessions={side: len(part) for side, part in parts.items()},
        receivers={side: _heard(part, data) for side, part in parts.items()},
        region=asdict(data.region),
        excluded=len(data.exclusions),
    )


def data_table(data: TrainingData) -> str:
    """Sessions and recordings of each receiver on each side of the split, and the map."""
    parts = _parts(data)
    heard = {side: _heard(part, data) for side, part in parts.items()}
    names = [station.name for station in data.receivers]
    width = max(len("recordings of"), *(len(name) + 2 for name in names))
    rows = [
        _row("", parts, width),
        _row("sessions", [len(part) for part in parts.values()], width),
        "recordings of",
        *(_row(f"  {name}", [heard[side][name] for side in parts], width) for name in names),
    ]
    width_km, height_km = _extent_km(parts)
    return "\n".join(
        (
            *rows,
            f"transmitters over {width_km:.0f} km by {height_km:.0f} km; region of "
            f"{data.region.scale_m / 1000:.0f} km around "
            f"{data.region.latitude_deg:.3f}, {data.region.longitude_deg:.3f}",
            f"{len(data.exclusions)} sessions excluded as unusable, "
            f"{len(data.unusable)} recordings left out",
        )
    )


def _row(head: str, cells: object, width: int) -> str:
    return f"{head:{width}s}" + "".join(f"{cell!s:>12s}" for cell in cells)  # type: ignore[attr-defined]


def _parts(data: TrainingData) -> dict[str, HeimdallDataset]:
    return {side: getattr(data, side) for side in SIDES}


def _heard(part: HeimdallDataset, data: TrainingData) -> dict[str, int]:
    """Number of sessions of a part with a used recording, by receiver."""
    left_out = Counter(recording.station for recording in part.unusable_recordings)
    found = _n_sessions(part)
    names = [station.name for station in data.receivers]
    return {name: found.get(name, 0) - left_out[name] for name in names}


def _n_sessions(part: HeimdallDataset) -> Mapping[str, int]:
    if isinstance(part.sessions, SessionTable):
        return part.sessions.n_sessions_of_stations()
    return Counter(name for s in part.sessions for name in {m.station for m in s.measurements})


def _extent_km(parts: Mapping[str, HeimdallDataset]) -> tuple[float, float]:
    """Width and height of the box around all transmitters."""
    places = np.concatenate([_positions_deg(part) for part in parts.values() if len(part)])
    # From the first transmitter, so that a box over the 180th meridian is no wider than it is.
    first = places[0, 1]
    east = (places[:, 1] - first + 180) % 360 - 180
    (south, north), west_deg, east_deg = np.percentile(places[:, 0], (0, 100)), *_ends(east)
    middle = (south + north) / 2
    width_m = great_circle_m((middle, west_deg), (middle, east_deg))
    return width_m / 1000, great_circle_m((south, 0.0), (north, 0.0)) / 1000


def _ends(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _positions_deg(part: HeimdallDataset) -> npt.NDArray[np.float64]:
    if isinstance(part.sessions, SessionTable):
        return part.sessions.positions_deg
    return np.array([session.position_deg for session in part.sessions])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Size of a network, and the memory that its training takes before any batch."""

    parameters: int
    trainable_parameters: int
    memory_bytes: int
    """Weights, their average, and of what learns the gradient and the optimizer's moments."""

    @classmethod
    def of(cls, module: LocalizationModule, *, averaged: bool) -> ModelSize:
        """The size of a network, to be trained with or without an average of its weights."""
        total = sum(each.numel() for each in module.parameters())
        learns = sum(each.numel() for each in module.parameters() if each.requires_grad)
        kept = total * (2 if averaged else 1) + learns * (1 + ADAM)
        return cls(
            parameters=total, trainable_parameters=learns, memory_bytes=kept * BYTES_OF_A_WEIGHT
        )


def tell_model(module: LocalizationModule, config: TrainingConfig) -> None:
    """Log the size of the network that is about to be trained."""
    size = ModelSize.of(module, averaged=bool(config.ema_decay))
    tell(
        "model",
        f"{config.backbone}: {size.parameters / 1e6:.1f} M parameters, "
        f"{size.trainable_parameters / 1e6:.1f} M of them learn; "
        f"{size.memory_bytes / 1e6:.0f} MB of weights, gradients and optimizer, "
        f"and more for a batch of {config.batch_size} (--dry_run measures it)",
        **asdict(size),
    )
