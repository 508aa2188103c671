"""A checkpoint of spectrograms with the timing network beside them, in one file.

It is the other checkpoint with one more record of tensors and text, so whatever reads that one,
`LocalizationModule.load` and Lightning included, reads this one too.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from heimdall_models.checkpoint import checkpoint_in, tensors_and_text, write_whole
from heimdall_models.errors import ModelError
from heimdall_models.ranges import ReceiverSite
from heimdall_models.timing_net import TimingNet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heimdall_models.region import Region

__all__ = [
    "TIMING_RECORD",
    "load_timing",
    "save_with_timing",
    "sites_in",
    "timing_in",
    "timing_record",
    "timing_sites",
]

TIMING_RECORD = "heimdall_timing"
FORMAT = 1
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
    return {"format": FORMAT, "sites": json.dumps([*map(asdict, sites)]), "state": state}


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
    record = _record(contents, path)
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
    record = _record(contents, path)
    return None if record is None else _sites(record, path)


def _record(contents: object, path: str | Path) -> Mapping[str, Any] | None:
    record = _checked(contents, path).get(TIMING_RECORD)
    if record is None:
        return None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise ModelError(f"{path} has timing format {found!r}; this version reads {FORMAT}")
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
