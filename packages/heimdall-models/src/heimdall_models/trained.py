"""Contents of a checkpoint file, opened once: networks, receivers, their sites, and the run.

Beside a network of spectrograms, a checkpoint may hold a timing network in a record of its own. A
file of an ensemble holds what serving needs of each member, and the weight of their disagreement.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from heimdall_models.checkpoint import (
    CALIBRATION,
    ENSEMBLE,
    MODEL,
    RUN_RECORD,
    TIMING,
    migrated,
    model_record,
    read_checkpoint,
    write_checkpoint,
)
from heimdall_models.config import LocalizationConfig
from heimdall_models.ensembles import EnsembleNet, TimedEnsembleNet
from heimdall_models.errors import ModelError
from heimdall_models.module import LocalizationModule
from heimdall_models.region import Region
from heimdall_models.serving import ServingNet, TimedServingNet
from heimdall_models.timing.network import TimingNet
from heimdall_models.timing.receivers import ReceiverSite

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NORMALISATION = ("standardize.mean", "standardize.std")
SAME_PLACE = 1e-4
"""Plane units, 9 m in a region of 180 km, between two places that count as the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Run that wrote a checkpoint; a field is None where the file does not say."""

    run_id: str | None = None
    """MLflow's id."""
    seed: int | None = None
    batch_size: int | None = None
    """Sessions a step, of all processes together."""
    sessions: str | None = None
    """Hash of the training sessions' ids, in order."""
    receivers: tuple[str, ...] | None = None
    """Names, in channel order."""

    @classmethod
    def of(cls, contents: dict[str, Any]) -> RunRecord:
        """The record in the contents of a checkpoint."""
        found = contents.get(RUN_RECORD)
        known = found if isinstance(found, dict) else {}
        values = {each.name: known[each.name] for each in fields(cls) if each.name in known}
        if values.get("receivers") is not None:
            values["receivers"] = tuple(map(str, values["receivers"]))
        return cls(**values)


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One trained network, on the CPU in evaluation mode."""

    name: str
    """Its file and, in an ensemble's file, its number."""
    module: LocalizationModule
    timing: TimingNet | None = None
    sites: tuple[ReceiverSite, ...] | None = None
    """Receivers of the timing network, in channel order."""
    run: RunRecord = RunRecord()
    calibration: str | None = None
    """Delays of the timing network's receivers, as text of whoever learned them."""

    @property
    def receivers(self) -> tuple[str, ...] | None:
        """Names of the receivers in channel order; None where the file does not say."""
        return tuple(site.name for site in self.sites) if self.sites else self.run.receivers

    @property
    def network(self) -> ServingNet | TimedServingNet:
        """The network to export of this member alone."""
        levels = self.module.serving_net()
        return levels if self.timing is None else TimedServingNet(levels, self.timing).eval()


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """Trained networks that answer as one; most often it is only one."""

    members: tuple[Member, ...]
    """One network, or those of an ensemble."""
    disagreement_weight: float | None = None
    """Weight of the members' disagreement; None before calibration and for a single network."""

    @classmethod
    def open(cls, path: str | Path) -> Trained:
        """The network or the ensemble in a checkpoint file, which is read once.

        Raises:
            ModelError: If the file is absent, not one of ours, damaged, or of a newer version.
        """
        contents = read_checkpoint(path, mapped=True)
        record = contents.get(ENSEMBLE.key)
        if record is None:
            return cls((_member(contents, str(path)),))
        members, weight = record.get("members"), record.get("disagreement_weight")
        if not isinstance(members, list) or {*map(type, members)} != {dict}:
            raise ModelError(f"{path} is an ensemble without members; it is damaged")
        if not isinstance(weight, float) or not 0 <= weight < math.inf:
            raise ModelError(f"{path} has disagreement weight {weight!r}; it is damaged")
        named = [(f"{path}, member {number}", each) for number, each in enumerate(members, 1)]
        return cls(tuple(_member(migrated(each, name), name) for name, each in named), weight)

    @classmethod
    def merge(cls, parts: Iterable[Trained]) -> Trained:
        """All members of several, to be calibrated anew."""
        return cls(tuple(member for each in parts for member in each.members))

    @property
    def single(self) -> Member:
        """The network, where there is only one and no ensemble.

        Raises:
            ModelError: If this is an ensemble.
        """
        if len(self.members) > 1 or self.disagreement_weight is not None:
            raise ModelError(f"{self.members[0].name} is one of an ensemble; give a single network")
        return self.members[0]

    def network(self) -> ServingNet | TimedServingNet | EnsembleNet | TimedEnsembleNet:
        """The network to export, in evaluation mode.

        Raises:
            ModelError: If the members cannot be merged; see `ensembles`.
        """
        if len(self.members) == 1 and self.disagreement_weight is None:
            return self.members[0].network
        network, weight = self.merged(), self.disagreement_weight
        network.disagreement_weight.fill_(1.0 if weight is None else weight)
        return network

    def merged(self) -> EnsembleNet | TimedEnsembleNet:
        """The members as one network in evaluation mode, not calibrated; see `network`."""
        names, networks = zip(*((each.name, each.network) for each in self.members), strict=True)
        plain = [network for network in networks if isinstance(network, ServingNet)]
        timed = [network for network in networks if isinstance(network, TimedServingNet)]
        if not timed:
            return EnsembleNet(plain, names).eval()
        if not plain:
            return TimedEnsembleNet(timed, names).eval()
        raise ModelError(
            f"{names[networks.index(plain[0])]} cannot be merged with "
            f"{names[networks.index(timed[0])]}: it takes no arrival times, and the other does"
        )


def save_ensemble(
    trained: Trained, network: EnsembleNet | TimedEnsembleNet, path: str | Path
) -> Path:
    """Write members and the weight of their calibrated network as one file, whole or not at all.

    What only resuming needs is left out; an existing file is replaced.

    Raises:
        OSError: If the file cannot be written; nothing is left behind.
    """
    members = []
    for member in trained.members:
        record = model_record(member.module.config, member.module.region)
        contents: dict[str, Any] = {MODEL.key: record, "state_dict": _on_cpu(member.module)}
        if member.timing is not None:
            contents[TIMING.key] = _timing_record(member.timing, member.sites or ())
        if member.calibration is not None:
            contents[CALIBRATION] = member.calibration
        members.append(contents)
    weight = float(network.disagreement_weight)
    ensemble = {**ENSEMBLE.begin(), "members": members, "disagreement_weight": weight}
    write_checkpoint({ENSEMBLE.key: ensemble}, path)
    return Path(path)


def save_with_timing(
    mel_checkpoint: Path,
    timing: TimingNet,
    sites: Sequence[ReceiverSite],
    to: Path,
    calibration: str | None = None,
) -> Path:
    """Write a copy of a checkpoint with a timing network added, whole or not at all.

    Its sites are in channel order; an existing file at `to` is replaced. `calibration` is text
    with the receivers' delays, which `Member` gives back.

    Raises:
        ModelError: If the checkpoint cannot be read or is of another region.
        OSError: If the file cannot be written; nothing is left behind.
    """
    contents = read_checkpoint(mel_checkpoint, mapped=True)
    _, region = _described(contents, str(mel_checkpoint))
    if timing.ranges.region != region:
        raise ModelError(
            f"the timing network works in {timing.ranges.region}, {mel_checkpoint} in {region}; "
            "train both in one region"
        )
    added: dict[str, Any] = {TIMING.key: _timing_record(timing, sites)}
    if calibration is not None:
        added[CALIBRATION] = calibration
    write_checkpoint({**contents, **added}, to)
    return Path(to)


def _member(contents: dict[str, Any], name: str) -> Member:
    config, region = _described(contents, name)
    state, run = contents["state_dict"], RunRecord.of(contents)
    # The weights that training started from may be gone; how it computed does not matter here.
    plain = replace(config, weights=None, gradient_checkpointing=False, compile=False)
    module = LocalizationModule(plain, region, *(state[each] for each in NORMALISATION)).eval()
    module.config = config
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"the weights in {name} are of another architecture than its {config.backbone}"
        ) from error
    if TIMING.key not in contents:
        return Member(name, module, run=run)
    record = contents[TIMING.key]
    try:
        sites = tuple(ReceiverSite(**entry) for entry in json.loads(record["sites"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{name} does not say where its receivers are: {error}") from error
    timing = TimingNet(region, sites).eval()
    expected = timing.ranges.receivers.clone()
    try:
        timing.load_state_dict(record["state"])
    except (RuntimeError, KeyError, TypeError) as error:
        raise ModelError(f"{name} has no weights of a timing network for its receivers") from error
    if not torch.allclose(timing.ranges.receivers, expected, rtol=0.0, atol=SAME_PLACE):
        raise ModelError(
            f"{name} names other receivers than its timing network has, another order of them, or "
            f"another region than {region}"
        )
    calibration = contents.get(CALIBRATION)
    return Member(name, module, timing, sites, run, calibration and str(calibration))


def _described(contents: dict[str, Any], name: str) -> tuple[LocalizationConfig, Region]:
    """Configuration and region of the one network in a checkpoint that has its weights."""
    record, state = contents.get(MODEL.key), contents.get("state_dict")
    if ENSEMBLE.key in contents or not isinstance(record, dict) or not isinstance(state, dict):
        raise ModelError(f"{name} is a PyTorch file, but no checkpoint of one Heimdall network")
    if lacking := [each for each in NORMALISATION if each not in state]:
        raise ModelError(f"{name} lacks {', '.join(lacking)}; it is damaged")
    config = LocalizationConfig.from_json(str(record.get("config")))
    return config, Region.from_json(str(record.get("region")))


def _timing_record(timing: TimingNet, sites: Sequence[ReceiverSite]) -> dict[str, Any]:
    sites_json = json.dumps([*map(asdict, sites)])
    return {**TIMING.begin(), "sites": sites_json, "state": _on_cpu(timing)}


def _on_cpu(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: values.cpu() for name, values in network.state_dict().items()}
