"""Checkpoints that stand alone, and one clear refusal for every file that is not one.

Lightning writes the file; beside its own keys it holds one record of ours, text only: format,
configuration and region. The normalisation is among the weights. Files are read with
`weights_only`, so that a checkpoint from a stranger cannot run code.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from heimdall_models.config import LocalizationConfig
from heimdall_models.errors import ModelError
from heimdall_models.region import Region

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, BinaryIO

    from torch import Tensor

RECORD = "heimdall_models"
ENSEMBLE_RECORD = "heimdall_ensemble"
FORMAT = 1
NORMALISATION = ("standardize.mean", "standardize.std")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds of a model: its record and its weights."""

    config: LocalizationConfig
    region: Region
    state: dict[str, Tensor]


def described(config: LocalizationConfig, region: Region) -> dict[str, str | int]:
    """The record that goes into a checkpoint."""
    return {"format": FORMAT, "config": config.to_json(), "region": region.to_json()}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The model in a checkpoint file, on the CPU.

    Raises:
        ModelError: If the file is absent, cut short, not a checkpoint or not one of ours, or
            holds pickled objects.
    """
    return checkpoint_in(tensors_and_text(Path(path)), path)


def checkpoint_in(contents: object, path: str | Path) -> Checkpoint:
    """The model in what a checkpoint file holds.

    Args:
        contents: Tensors and text.
        path: Where they are from, for what errors say.

    Raises:
        ModelError: If they are of no checkpoint of ours.
    """
    if isinstance(contents, dict) and ENSEMBLE_RECORD in contents:
        raise ModelError(f"{path} holds an ensemble, and one network is asked for")
    record = contents.get(RECORD) if isinstance(contents, dict) else None
    state = contents.get("state_dict") if isinstance(contents, dict) else None
    if not isinstance(record, dict) or not isinstance(state, dict):
        raise ModelError(f"{path} is a PyTorch file, but no checkpoint of a Heimdall model")
    if record.get("format") != FORMAT:
        raise ModelError(
            f"{path} has checkpoint format {record.get('format')!r}; this version reads {FORMAT}"
        )
    lacking = [name for name in NORMALISATION if name not in state]
    if lacking:
        raise ModelError(f"{path} lacks {', '.join(lacking)}; it is damaged")
    return Checkpoint(
        LocalizationConfig.from_json(str(record.get("config"))),
        Region.from_json(str(record.get("region"))),
        state,
    )


def tensors_and_text(path: Path, *, mapped: bool = False) -> object:
    """What a PyTorch file holds, on the CPU.

    Args:
        path: The file.
        mapped: Leave the tensors in the file until they are looked at.

    Raises:
        ModelError: If the file is absent, cut short, no PyTorch file, or holds pickled objects.
    """
    if not path.is_file():
        raise ModelError(f"no checkpoint at {path}")
    # A file that was cut short has lost the directory at the end of the archive.
    if not zipfile.is_zipfile(path):
        raise ModelError(
            f"{path} ({path.stat().st_size} bytes) is not a PyTorch checkpoint, or was cut short"
        )
    try:
        contents: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds pickled objects beside tensors and text; it is not loaded, because "
            f"doing so could run code"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        first_line = str(error).partition("\n")[0]
        raise ModelError(f"{path} is not a PyTorch checkpoint: {first_line}") from error
    return contents


def write_whole(contents: Mapping[str, Any], to: Path) -> None:
    """Write tensors and text as a PyTorch file, whole or not at all.

    Raises:
        OSError: If the file cannot be written; nothing is left behind.
    """
    with whole_file(to) as file:
        torch.save(contents, file)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` once the block ends without an error.

    Raises:
        OSError: If it cannot be written; what was at `path` stays, and nothing is left beside it.
    """
    descriptor, name = tempfile.mkstemp(
        dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".part"
    )
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
