"""Receivers' constant delays, learned from sessions with a known transmitter, and their file.

`delays` has the statistics. A calibration file is JSON: `format` ("heimdall-calibration"),
`version`, `n_sessions`, and `receivers`, a list with the fields of `ReceiverDelay`, whose
`position_fault` is null or has the fields of `PositionFault`. A model file has the same in its
metadata.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from heimdall_features.names import composed, json_text
from heimdall_features.outside_json import parsed_json
from numpy.typing import NDArray

from heimdall_locate.atomic import write_whole
from heimdall_locate.delays import (
    HALF_WIDTH,
    PositionFault,
    Sessions,
    fitted,
    independent_sigmas,
    position_faults,
)
from heimdall_locate.errors import LocateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike

    from heimdall_locate.delays import Transmitter
    from heimdall_locate.sites import Site

Float64 = NDArray[np.float64]

METADATA_KEY: Final = "heimdall.calibration"
"""Entry of a model file with the contents of a calibration file."""
FORMAT: Final = "heimdall-calibration"
VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverDelay:
    """Delay of one receiver."""

    name: str
    """Name of the receiver."""
    delay_s: float
    """By which its arrivals are late, against a robust mean of all receivers."""
    delay_sigma_s: float
    """Uncertainty: the difference of two delays has the variance of both together."""
    spread_s: float
    """Half-width that holds 68 % of the deviations from session to session, without noise."""
    n_sessions: int
    """Sessions in which it was heard."""
    position_fault: PositionFault | None = None
    """Set if the receiver seems to be elsewhere."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Delays of receivers, and the number of sessions that they were learned from."""

    receivers: tuple[ReceiverDelay, ...]
    """One delay for each receiver."""
    n_sessions: int
    """Sessions of known transmitters that had arrival times."""

    def get(self, name: str) -> ReceiverDelay | None:
        """The delay of a receiver; None if it is unknown."""
        wanted = composed(name)
        return next((one for one in self.receivers if composed(one.name) == wanted), None)

    def delays_at(self, sites: Sequence[Site]) -> tuple[Float64, Float64]:
        """Delays and their spreads at receivers, `(receivers,)` seconds, as `locate` takes them.

        A spread has the uncertainty of the delay in it. Both are zero for an unknown receiver.
        """
        delays_s, spreads_s = np.zeros((2, len(sites)))
        for channel, site in enumerate(sites):
            if (known := self.get(site.name)) is not None:
                delays_s[channel] = known.delay_s
                spreads_s[channel] = math.hypot(known.delay_sigma_s, known.spread_s)
        return delays_s, spreads_s

    def to_json(self) -> str:
        """Contents of a calibration file."""
        contents = {
            "format": FORMAT,
            "version": VERSION,
            "n_sessions": self.n_sessions,
            "receivers": [asdict(one) for one in self.receivers],
        }
        return json_text(contents, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "the calibration") -> Self:
        """Calibration of a file's contents; `name` is the file's in errors.

        Raises:
            LocateError: It is damaged, of a newer version, or no calibration.
        """
        try:
            contents = parsed_json(text)
            known, version = contents["format"] == FORMAT, contents["version"]
        except (ValueError, TypeError, KeyError) as error:
            raise LocateError(
                f"{name} is no calibration; make one with `heimdall calibrate`"
            ) from error
        if not known or version != VERSION:
            raise LocateError(
                f"{name} has format {contents['format']!r}, version {version!r}, and is read if it "
                f"has {FORMAT!r}, version {VERSION}; make it anew with `heimdall calibrate`"
            )
        try:
            receivers, n_sessions = _contents(contents)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise LocateError(
                f"{name} is damaged ({error}); make it anew with `heimdall calibrate`"
            ) from error
        if twice := _twice(one.name for one in receivers):
            raise LocateError(f"{name} has receiver {twice!r} twice; remove one")
        return cls(receivers, n_sessions)

    def metadata(self) -> dict[str, str]:
        """The entry of a model file that `from_metadata` reads."""
        return {METADATA_KEY: json_text(json.loads(self.to_json()))}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self | None:
        """Calibration of a model file; None if it has none.

        Raises:
            LocateError: The entry is damaged or of a newer version.
        """
        found = metadata.get(METADATA_KEY)
        return None if found is None else cls.from_json(found, f"the model's {METADATA_KEY}")

    def save(self, path: str | Path) -> None:
        """Write a calibration file, whole or not at all; an existing one is replaced.

        Raises:
            OSError: It cannot be written; nothing is left behind.
        """
        write_whole({Path(path): self.to_json()})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a calibration file.

        Raises:
            LocateError: It cannot be read, is damaged, of a newer version, or no calibration.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise LocateError(f"calibration {path} cannot be read: {reason}") from error
        return cls.from_json(text, f"calibration {path}")


def _contents(contents: Mapping[str, Any]) -> tuple[tuple[ReceiverDelay, ...], int]:
    """Receivers and number of sessions; ValueError, TypeError or KeyError if damaged."""
    n_sessions, receivers = contents["n_sessions"], []
    for entry in contents["receivers"]:
        fault = entry["position_fault"]
        found = ReceiverDelay(
            **{**entry, "position_fault": None if fault is None else PositionFault(**fault)}
        )
        figures = [found.delay_s, found.delay_sigma_s, found.spread_s]
        if found.position_fault is not None:
            figures += asdict(found.position_fault).values()
        sound = all(type(value) in (int, float) and math.isfinite(value) for value in figures)
        sound = sound and isinstance(found.name, str) and type(found.n_sessions) is int
        if not (found.name and sound and min(figures[1:3]) >= 0):
            raise ValueError(f"an entry is {entry}")
        receivers.append(found)
    if type(n_sessions) is not int:
        raise ValueError(f"n_sessions is {n_sessions!r}")
    return tuple(receivers), n_sessions


def calibrate(
    arrivals_s: ArrayLike,
    sites: Sequence[Site],
    transmitters: Sequence[Transmitter],
    sigma_s: ArrayLike | None = None,
) -> Calibration:
    """Learn the delays of receivers.

    Args:
        arrivals_s: `(sessions, receivers)`, seconds; NaN where nothing was heard. The zero is
            common to a session's receivers, and may differ between sessions.
        sites: The receivers.
        transmitters: The transmitter of each session.
        sigma_s: Standard deviations of the arrivals from noise; zero if unknown.

    Returns:
        The receivers that were heard in a session with another; sessions of one receiver tell
        nothing.

    Raises:
        LocateError: Shapes differ, a value is infinite or a sigma negative, a name occurs twice,
            or no session has two receivers.
    """
    arrivals, sigma = _checked(arrivals_s, sigma_s, sites, len(transmitters))
    heard = np.isfinite(arrivals)
    used = heard.sum(axis=1) >= 2
    if not used.any():
        raise LocateError(
            f"none of {len(arrivals)} sessions has arrivals at two receivers; a delay shows in "
            "differences only"
        )
    known = heard[used].any(axis=0)
    sites = [site for site, is_known in zip(sites, known, strict=True) if is_known]
    sessions = Sessions.of(
        arrivals[used][:, known],
        sigma[used][:, known],
        sites,
        [transmitters[number] for number in np.flatnonzero(used).tolist()],
    )
    fit = fitted(sessions)
    faults = position_faults(sessions, fit)
    delay_sigma_s = independent_sigmas(fit.covariance)
    return Calibration(
        tuple(
            ReceiverDelay(
                name=site.name,
                delay_s=float(fit.delay_s[channel]),
                delay_sigma_s=float(delay_sigma_s[channel]),
                spread_s=float(HALF_WIDTH * fit.scale_s[channel]),
                n_sessions=int(sessions.heard[:, channel].sum()),
                position_fault=faults.get(channel),
            )
            for channel, site in enumerate(sites)
        ),
        int(used.sum()),
    )


def _checked(
    arrivals_s: ArrayLike, sigma_s: ArrayLike | None, sites: Sequence[Site], n_sessions: int
) -> tuple[Float64, Float64]:
    arrivals = np.asarray(arrivals_s, dtype=np.float64)
    sigma = np.zeros_like(arrivals) if sigma_s is None else np.asarray(sigma_s, dtype=np.float64)
    shape = (n_sessions, len(sites))
    if arrivals.shape != shape or sigma.shape != shape:
        raise LocateError(
            f"arrivals_s has shape {arrivals.shape} and sigma_s {sigma.shape}; {n_sessions} "
            f"transmitters and {len(sites)} sites need {shape}"
        )
    if np.isinf(arrivals).any():
        raise LocateError("an arrival is infinite; give NaN where nothing was heard")
    asked = sigma[np.isfinite(arrivals)]
    if not (np.isfinite(asked) & (asked >= 0)).all():
        raise LocateError(f"sigma_s has {asked.min()}; give zero or more where an arrival is given")
    if twice := _twice(site.name for site in sites):
        raise LocateError(f"receiver {twice!r} occurs twice; give each once")
    return arrivals, sigma


def _twice(names: Iterable[str]) -> str | None:
    """A name that occurs more than once."""
    return next(
        (name for name, number in Counter(map(composed, names)).items() if number > 1), None
    )
