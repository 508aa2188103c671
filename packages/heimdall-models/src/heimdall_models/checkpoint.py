"""Checkpoint files: read without running code, written whole, migrated from older formats.

Beside Lightning's keys, a file holds records of ours: the model, a timing network, an ensemble,
the run. Records with a format number are migrated to this version's format step by step. Files
are read with `weights_only`, so that a checkpoint from a stranger cannot run code.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

    from heimdall_models.config import LocalizationConfig
    from heimdall_models.region import Region

RUN_RECORD = "heimdall_run"
"""Key of the record of the run that wrote a checkpoint; it has no format number."""
CALIBRATION = "heimdall_calibration"
"""Key of the receivers' delays beside a timing network: text, which is not read here."""


@dataclass(frozen=True, slots=True)
class Format:
    """Format of one record: its key in the file, and its number."""

    key: str
    number: int = 1
    steps: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = field(default_factory=dict)
    """By n, a function of the contents of the whole file: from format n to n + 1."""

    def begin(self) -> dict[str, Any]:
        """The entries that every record of this format starts with."""
        return {"format": self.number, "version": version("heimdall-models")}

    def migrate(self, contents: dict[str, Any], name: str) -> dict[str, Any]:
        """The contents with this record, if there is one, in the format of this version.

        Raises:
            ModelError: If the record is newer than this version, damaged, or too old.
        """
        while (record := contents.get(self.key)) is not None:
            found = record.get("format") if isinstance(record, dict) else None
            if found == self.number:
                break
            if isinstance(found, int) and found > self.number:
                raise ModelError(
                    f"{name} has {self.key} format {found}, and heimdall-models "
                    f"{version('heimdall-models')} reads up to {self.number}; open it with "
                    f"heimdall-models {record.get('version') or 'of a newer version'}"
                )
            if not isinstance(found, int) or found not in self.steps:
                raise ModelError(f"{name} has {self.key} format {found!r}; it is damaged")
            contents = self.steps[found](contents)
        return contents


def _without_delays(contents: dict[str, Any]) -> dict[str, Any]:
    """Format 1 of a timing network knew no delays of receivers, and left the region out.

    It had one temperature for every way of being strange.
    """
    record = contents["heimdall_timing"]
    state = {**record["state"], "region_share": torch.zeros(())}
    n_receivers = len(state["ranges.receivers"])
    for name in ("delays", "delay_spreads"):
        state[name] = torch.zeros(n_receivers)
    strange = "log_temperature_of_strangers"
    state[strange] = state[strange].repeat(3)
    return {**contents, "heimdall_timing": {**record, "format": 2, "state": state}}


MODEL = Format("heimdall_models")
TIMING = Format("heimdall_timing", 2, {1: _without_delays})
ENSEMBLE = Format("heimdall_ensemble")


def model_record(config: LocalizationConfig, region: Region) -> dict[str, str | int]:
    """Record that makes a checkpoint stand alone; the normalisation is among the weights."""
    return {**MODEL.begin(), "config": config.to_json(), "region": region.to_json()}


def migrated(contents: dict[str, Any], name: str) -> dict[str, Any]:
    """Contents of a checkpoint with every record migrated; `name` is the file's in errors.

    Raises:
        ModelError: As `Format.migrate`.
    """
    for form in (MODEL, TIMING, ENSEMBLE):
        contents = form.migrate(contents, name)
    return contents


def read_checkpoint(path: str | Path, *, mapped: bool = False) -> dict[str, Any]:
    """Contents of a checkpoint file on the CPU, `migrated`.

    With `mapped`, tensors stay in the file until they are used.

    Raises:
        ModelError: If the file is absent, cut short, no checkpoint, of a newer version, or holds
            pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no checkpoint at {path}")
    if not zipfile.is_zipfile(path):
        raise ModelError(
            f"{path} ({path.stat().st_size} bytes) is not a PyTorch checkpoint, or was cut short"
        )
    try:
        contents: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds pickled objects, which could run code; only tensors and text are loaded"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        first_line = str(error).partition("\n")[0]
        raise ModelError(f"{path} is not a PyTorch checkpoint: {first_line}") from error
    if not isinstance(contents, dict):
        raise ModelError(f"{path} is a PyTorch file, but no checkpoint")
    return migrated(contents, str(path))


def write_checkpoint(contents: Mapping[str, Any], path: str | Path) -> None:
    """Write tensors and text as a PyTorch file; see `whole_file`."""
    with whole_file(Path(path)) as file:
        torch.save(contents, file)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` once the block ends without an error.

    Raises:
        OSError: If it cannot be written; an earlier file stays, and nothing is left beside it.
    """
    folder, prefix = path.absolute().parent, f".{path.name}."
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=".part")
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
