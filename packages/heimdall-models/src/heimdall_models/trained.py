"""Trained networks as checkpoint files hold them: one in a file, or a whole ensemble.

An ensemble's file holds of every member what a checkpoint of that member would hold for serving,
without what only resuming needs, and how much their disagreement counts. It is no
checkpoint of one network, and loading it as one is refused.

A checkpoint of spectrograms with the timing network beside them, in one file.

It is the other checkpoint with one more record of tensors and text, so whatever reads that one,
`LocalizationModule.load` and Lightning included, reads this one too.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from heimdall_models.checkpoint import (
    ENSEMBLE_RECORD,
    RECORD,
    checkpoint_in,
    described,
    tensors_and_text,
    write_whole,
)
from heimdall_models.ensembles import EnsembleNet, TimedEnsembleNet
from heimdall_models.errors import ModelError
from heimdall_models.module import LocalizationModule
from heimdall_models.serving import ServingNet, TimedServingNet
from heimdall_models.timing.network import TimingNet
from heimdall_models.timing.receivers import ReceiverSite

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from heimdall_models.region import Region

__all__ = [
    "TIMING_RECORD",
    "Ensemble",
    "Member",
    "load_timing",
    "save_ensemble",
    "save_with_timing",
    "sites_in",
    "timing_in",
    "timing_record",
    "timing_sites",
]


TIMING_RECORD = "heimdall_timing"
FORMAT_timing_checkpoint = 1
SAME_PLACE = 1e-4
"""Plane units, 9 m in a region of 180 km, within which a receiver is where it is said to be."""


def save_with_timing(
    mel_checkpoint: Path, timing: TimingNet, sites: Sequence[ReceiverSite], to: Path
) -> Path:
    """Write a checkpoint with a timing network beside what it holds, whole or not at all.

    Args:
        mel_checkpoint: A checkpoint of ours, of the same region; it stays as it is.
        timing: The network of times.
        sites: Its receivers, in channel order.
        to: Where the file goes; what is there is replaced.

    Raises:
        ModelError: If the checkpoint cannot be read or is of another region.
        OSError: If the file cannot be written; nothing is left behind.
    """
    contents = tensors_and_text(Path(mel_checkpoint))
    region = checkpoint_in(contents, mel_checkpoint).region
    if timing.ranges.region != region:
        raise ModelError(
            f"the timing network works in {timing.ranges.region}, {mel_checkpoint} in {region}; "
            "train both in one region"
        )
    beside = {TIMING_RECORD: timing_record(timing, sites)}
    write_whole({**_checked(contents, mel_checkpoint), **beside}, Path(to))
    return Path(to)


def timing_record(timing: TimingNet, sites: Sequence[ReceiverSite]) -> dict[str, Any]:
    """The record of a timing network and its receivers that goes into a checkpoint."""
    state = {name: values.detach().cpu() for name, values in timing.state_dict().items()}
    return {
        "format": FORMAT_timing_checkpoint,
        "sites": json.dumps([*map(asdict, sites)]),
        "state": state,
    }


def load_timing(path: str | Path, region: Region) -> TimingNet | None:
    """The timing network in a checkpoint, on the CPU in evaluation mode; None if there is none.

    Args:
        path: A checkpoint of ours.
        region: The checkpoint's own: where `LocalizationModule.load` says it works.

    Raises:
        ModelError: If the file is none of ours or damaged, or its weights fit no such network.
    """
    return timing_in(tensors_and_text(Path(path)), region, path)


def timing_in(contents: object, region: Region, path: str | Path) -> TimingNet | None:
    """As `load_timing`, of what a checkpoint file holds; `path` is what errors speak of."""
    record = _record_timing_checkpoint(contents, path)
    if record is None:
        return None
    network = TimingNet(region, _sites(record, path))
    expected = network.ranges.receivers.clone()
    try:
        network.load_state_dict(record["state"])
    except (RuntimeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} holds no weights of a timing network for the receivers that it names; it is "
            "damaged, or was written by another version"
        ) from error
    if not torch.allclose(network.ranges.receivers, expected, rtol=0.0, atol=SAME_PLACE):
        raise ModelError(
            f"{path} names other places of its receivers than its timing network was made for: "
            f"other receivers, another order of them, or another region than {region}"
        )
    return network.eval()


def timing_sites(path: str | Path) -> tuple[ReceiverSite, ...] | None:
    """The receivers of the timing network in a checkpoint, in channel order; None without one.

    Raises:
        ModelError: If the file is none of ours or damaged.
    """
    return sites_in(tensors_and_text(Path(path)), path)


def sites_in(contents: object, path: str | Path) -> tuple[ReceiverSite, ...] | None:
    """As `timing_sites`, of what a checkpoint file holds; `path` is what errors speak of."""
    record = _record_timing_checkpoint(contents, path)
    return None if record is None else _sites(record, path)


def _record_timing_checkpoint(contents: object, path: str | Path) -> Mapping[str, Any] | None:
    record = _checked(contents, path).get(TIMING_RECORD)
    if record is None:
        return None
    if not isinstance(record, dict) or record.get("format") != FORMAT_timing_checkpoint:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise ModelError(
            f"{path} has timing format {found!r}; this version reads {FORMAT_timing_checkpoint}"
        )
    return record


def _checked(contents: object, path: str | Path) -> dict[str, Any]:
    if not isinstance(contents, dict):
        raise ModelError(f"{path} is a PyTorch file, but no checkpoint of a Heimdall model")
    return contents


def _sites(record: Mapping[str, Any], path: str | Path) -> tuple[ReceiverSite, ...]:
    try:
        return tuple(ReceiverSite(**entry) for entry in json.loads(record["sites"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} does not say where its receivers are: {error}") from error


FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One trained network, on the CPU in evaluation mode."""

    name: str
    """Its file, and which of the file's members it is."""
    module: LocalizationModule
    timing: TimingNet | None = None
    sites: tuple[ReceiverSite, ...] | None = None
    """Receivers of the timing network, in channel order."""

    @property
    def network(self) -> ServingNet | TimedServingNet:
        """What is exported of it alone."""
        levels = self.module.serving_net()
        return levels if self.timing is None else TimedServingNet(levels, self.timing).eval()


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """Trained networks that answer as one; most often it is only one."""

    members: tuple[Member, ...]
    disagreement_weight: float | None = None
    """How much their disagreement counts; None before calibration."""

    @classmethod
    def load(cls, path: str | Path) -> Ensemble:
        """What a checkpoint file holds, be it one network or an ensemble.

        Raises:
            ModelError: If the file is none of ours or damaged.
        """
        contents = tensors_and_text(Path(path))
        if not isinstance(contents, dict) or ENSEMBLE_RECORD not in contents:
            return cls((_member(contents, str(path)),))
        record = _record(contents[ENSEMBLE_RECORD], path)
        members = enumerate(record["members"], start=1)
        return cls(
            tuple(_member(each, f"{path}, member {number}") for number, each in members),
            record["disagreement_weight"],
        )

    @classmethod
    def of(cls, paths: Iterable[str | Path]) -> Ensemble:
        """All members of several files, to be calibrated anew.

        Raises:
            ModelError: If a file is none of ours or damaged.
        """
        loaded = [cls.load(path) for path in paths]
        return cls(tuple(member for each in loaded for member in each.members))

    def network(self) -> ServingNet | TimedServingNet | EnsembleNet | TimedEnsembleNet:
        """What is exported, in evaluation mode.

        Raises:
            ModelError: If the members cannot be merged; see `ensembles`.
        """
        if len(self.members) == 1 and self.disagreement_weight is None:
            return self.members[0].network
        network = self.merged()
        if self.disagreement_weight is not None:
            network.disagreement_weight.fill_(self.disagreement_weight)
        return network

    def merged(self) -> EnsembleNet | TimedEnsembleNet:
        """The members as one network in evaluation mode, not calibrated.

        Raises:
            ModelError: As `network`.
        """
        names = [member.name for member in self.members]
        networks = [member.network for member in self.members]
        plain = [network for network in networks if isinstance(network, ServingNet)]
        timed = [network for network in networks if isinstance(network, TimedServingNet)]
        if not timed:
            return EnsembleNet(plain, names).eval()
        if not plain:
            return TimedEnsembleNet(timed, names).eval()
        with_times = next(m.name for m in self.members if m.timing is not None)
        without = next(m.name for m in self.members if m.timing is None)
        raise ModelError(
            f"{without} cannot be merged with {with_times}: it takes no arrival times, and the "
            "other does"
        )


def save_ensemble(
    ensemble: Ensemble, network: EnsembleNet | TimedEnsembleNet, path: str | Path
) -> Path:
    """Write an ensemble as one file, whole or not at all.

    Args:
        ensemble: The members.
        network: Theirs, calibrated.
        path: Where the file goes; what is there is replaced.

    Raises:
        OSError: If the file cannot be written; nothing is left behind.
    """
    record = {
        "format": FORMAT,
        "members": [_contents(member) for member in ensemble.members],
        "disagreement_weight": float(network.disagreement_weight),
    }
    write_whole({ENSEMBLE_RECORD: record}, Path(path))
    return Path(path)


def _contents(member: Member) -> dict[str, Any]:
    """What a checkpoint of the member alone would hold for serving."""
    module = member.module
    state = {name: values.detach().cpu() for name, values in module.state_dict().items()}
    contents = {RECORD: described(module.config, module.region), "state_dict": state}
    if member.timing is None:
        return contents
    return {**contents, TIMING_RECORD: timing_record(member.timing, member.sites or ())}


def _member(contents: object, name: str) -> Member:
    module = LocalizationModule.restored(checkpoint_in(contents, name), name)
    timing = timing_in(contents, module.region, name)
    return Member(name, module, timing, sites_in(contents, name))


def _record(record: object, path: str | Path) -> Mapping[str, Any]:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise ModelError(f"{path} has ensemble format {found!r}; this version reads {FORMAT}")
    members, weight = record.get("members"), record.get("disagreement_weight")
    if not isinstance(members, list) or not members:
        raise ModelError(f"{path} is an ensemble without members; it is damaged")
    if not isinstance(weight, float) or not 0 <= weight < math.inf:
        raise ModelError(f"{path} does not say how much disagreement counts: {weight!r}")
    return record
