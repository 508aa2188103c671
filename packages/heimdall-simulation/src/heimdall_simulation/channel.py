"""Effects of the path beyond its loss, and other transmitters; all off unless asked for.

Fading, echoes and detours of each path, and interferers on the same channel or beside it, each
with its own place. The session's label is the source alone; interferers are in the truth.

Sources: S. O. Rice, BSTJ 23 (1944), for a steady part in Gaussian noise; R. H. Clarke, "A
statistical theory of mobile-radio reception", BSTJ 47 (1968), and W. C. Jakes, "Microwave
Mobile Communications" (1974), for waves from all around and their autocorrelation
`J0(2 pi f_d tau)`; C. Xiao, Y. R. Zheng and N. C. Beaulieu, "Novel sum-of-sinusoids simulation
models for Rayleigh and Rician fading channels", IEEE Trans. Wireless Communications 5 (2006),
for one random angle to each `1/N` of the circle, which has that autocorrelation exactly; COST
207 (1989) for the exponential profile of power over delay, and P. A. Bello, IEEE Trans.
Communications Systems 11 (1963), for echoes without correlation; P.-C. Chen, "A non-line-of-sight
error mitigation algorithm in location estimation", IEEE WCNC 1999, for exponential detours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_data.errors import SimulationError

from heimdall_simulation.truth import EchoTruth, RicianTruth

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Channel",
    "Interference",
    "drawn_detour_s",
    "drawn_echoes",
    "drawn_fading",
    "echo_response",
    "fading_gain",
]


_N_WAVES = 32
_LONGEST_SPREADS = 5
"""Where the profile of delays is cut off, in delay spreads: 0.7 % of the power lies beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Fading within a recording, and echoes; each path has its own, drawn for every session."""

    rician_k_db: float | None = None
    """Steady over scattered power of the direct path; None for a path that stands still."""
    doppler_hz: float = 1.0
    """Largest Doppler shift, of a wave from straight ahead."""
    n_echoes: int = 0
    echoes_db: float = -6.0
    """Mean power of all echoes together, against the direct path's."""
    delay_spread_s: float = 5e-6
    """Mean excess delay of the exponential profile before it is cut off, and nearly its spread."""
    blocked_share: float = 0.0
    """Of the paths: nothing arrives on the straight line, but all of it by a detour."""
    detour_s: float = 1e-6
    """Mean excess delay of a blocked path, exponentially distributed."""

    def __post_init__(self) -> None:
        for name in ("rician_k_db", "echoes_db"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise SimulationError(f"{name} is {value}; give a finite number of dB")
        if not (math.isfinite(self.doppler_hz) and self.doppler_hz >= 0):
            raise SimulationError(f"doppler_hz is {self.doppler_hz}; give 0 or more")
        if self.n_echoes < 0:
            raise SimulationError(f"{self.n_echoes} echoes; give 0 or more")
        if not 0 <= self.blocked_share <= 1:
            raise SimulationError(f"blocked_share is {self.blocked_share}; give one from 0 to 1")
        if not 0 <= self.detour_s <= 1e-4:
            raise SimulationError(
                f"detour_s is {self.detour_s}; give 0 to 0.0001: a detour of 30 km"
            )
        if not 0 < self.delay_spread_s <= 1e-3:
            raise SimulationError(
                f"delay_spread_s is {self.delay_spread_s}; give more than 0, up to 0.001: "
                "longer echoes are of another continent"
            )

    @property
    def longest_echo_s(self) -> float:
        """No echo comes later than this behind the direct path."""
        return _LONGEST_SPREADS * self.delay_spread_s if self.n_echoes else 0.0


def drawn_fading(rng: np.random.Generator, channel: Channel) -> RicianTruth | None:
    """The waves that one path is made of, or None where nothing fades."""
    if channel.rician_k_db is None:
        return None
    around = 2 * np.pi * (np.arange(_N_WAVES) + rng.random(_N_WAVES)) / _N_WAVES
    return RicianTruth(
        k_db=channel.rician_k_db,
        doppler_hz=channel.doppler_hz,
        direct_angle_rad=rng.uniform(0, 2 * np.pi),
        angles_rad=tuple(around.tolist()),
        phases_rad=tuple(rng.uniform(0, 2 * np.pi, _N_WAVES).tolist()),
    )


def drawn_echoes(rng: np.random.Generator, channel: Channel) -> tuple[EchoTruth, ...]:
    """Echoes by rising delay, with Rayleigh amplitudes: each is many reflections in one."""
    if not channel.n_echoes:
        return ()
    n_echoes = channel.n_echoes
    within = 1 - math.exp(-_LONGEST_SPREADS)
    excess_s = -channel.delay_spread_s * np.log1p(-within * np.sort(rng.random(n_echoes)))
    gain_db = channel.echoes_db + 10 * np.log10(rng.standard_exponential(n_echoes) / n_echoes)
    phases = rng.uniform(0, 2 * np.pi, n_echoes)
    return tuple(
        EchoTruth(excess_s=excess, gain_db=gain, phase_rad=phase)
        for excess, gain, phase in zip(
            excess_s.tolist(), gain_db.tolist(), phases.tolist(), strict=True
        )
    )


def drawn_detour_s(rng: np.random.Generator, channel: Channel) -> float:
    """By how much one path is longer than the straight line, in seconds; mostly 0."""
    if not channel.blocked_share:
        return 0.0
    is_blocked, length = rng.random() < channel.blocked_share, rng.standard_exponential()
    return channel.detour_s * length if is_blocked else 0.0


def fading_gain(
    rician: RicianTruth, n_samples: int, sample_rate_hz: float
) -> NDArray[np.complex128]:
    """The direct path's gain over time, of mean power 1, `(n_samples,)`.

    The sum of waves is a product of two small matrices: their phases at each of some coarse
    times, and how they turn from there.
    """
    k = 10 ** (rician.k_db / 10)
    waves = np.exp(1j * np.array((0.0, *rician.phases_rad)))
    waves[0] *= np.sqrt(k / (k + 1))
    waves[1:] /= np.sqrt((k + 1) * len(rician.phases_rad))
    doppler = rician.doppler_hz * np.cos((rician.direct_angle_rad, *rician.angles_rad))
    turn = 2j * np.pi * doppler / sample_rate_hz
    inner = math.ceil(math.sqrt(n_samples))
    coarse = np.exp(np.multiply.outer(inner * np.arange(-(-n_samples // inner)), turn)) * waves
    fine = np.exp(np.multiply.outer(turn, np.arange(inner)))
    gain: NDArray[np.complex128] = (coarse @ fine).reshape(-1)[:n_samples]
    return gain


def echo_response(
    echoes: tuple[EchoTruth, ...], n_samples: int, sample_rate_hz: float
) -> NDArray[np.complex128]:
    """What the echoes make of each frequency of the direct path's signal, `(n_samples,)`."""
    turn = -2j * np.pi * np.fft.fftfreq(n_samples, 1 / sample_rate_hz)
    response = np.zeros(n_samples, dtype=np.complex128)
    for echo in echoes:
        gain = 10 ** (echo.gain_db / 20) * np.exp(1j * echo.phase_rad)
        response += gain * np.exp(turn * echo.excess_s)
    return response


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """How many others send, where in the band, and how strongly."""

    n_interferers: int = 0
    """In every session, anywhere in the region, with any of the scenario's modulations."""
    offset_hz: float = 0.0
    """Nominal carrier against the source's, above or below it: 0 is co-channel."""
    radiated_dbm: tuple[float, float] = (30.0, 43.0)
    """EIRP, uniform in dB."""

    def __post_init__(self) -> None:
        if self.n_interferers < 0:
            raise SimulationError(f"{self.n_interferers} interferers; give 0 or more")
        if not (math.isfinite(self.offset_hz) and self.offset_hz >= 0):
            raise SimulationError(
                f"interferers' offset_hz is {self.offset_hz}; give 0 or more, it is taken "
                "above and below"
            )
        low, high = self.radiated_dbm
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise SimulationError(
                f"interferers' radiated_dbm is ({low}, {high}); give (least, largest)"
            )
