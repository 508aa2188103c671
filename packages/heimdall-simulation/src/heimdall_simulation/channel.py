"""Effects of the path beyond its loss, and other transmitters; all off by default.

Each path has its own fading, echoes and detour; each interferer, on the same or a neighbouring
channel, has its own position. The session's label is the source alone; interferers are in the
truth.

Sources: S. O. Rice, BSTJ 23 (1944), for a steady part in Gaussian noise; R. H. Clarke, "A
statistical theory of mobile-radio reception", BSTJ 47 (1968), and W. C. Jakes, "Microwave
Mobile Communications" (1974), for waves from all directions and their autocorrelation
`J0(2 pi f_d tau)`; C. Xiao, Y. R. Zheng and N. C. Beaulieu, "Novel sum-of-sinusoids simulation
models for Rayleigh and Rician fading channels", IEEE Trans. Wireless Communications 5 (2006),
for one random angle in each `1/N` of the circle, which has exactly that autocorrelation; COST
207 (1989) for the exponential profile of power over delay, and P. A. Bello, IEEE Trans.
Communications Systems 11 (1963), for uncorrelated echoes; P.-C. Chen, "A non-line-of-sight
error mitigation algorithm in location estimation", IEEE WCNC 1999, for exponential detours.
"""

import math
from dataclasses import dataclass

import numpy as np
from heimdall_data.errors import SimulationError
from numpy.typing import NDArray

from heimdall_simulation.truth import EchoTruth, RicianTruth

_N_WAVES = 32
_LONGEST_SPREADS = 5
"""End of the delay profile, in delay spreads: 0.7 % of the power is beyond."""


def require_within(
    settings: object,
    name: str,
    least: float = 0.0,
    largest: float = math.inf,
    *,
    positive: bool = False,
) -> None:
    """Raise a `SimulationError` unless the setting of this name is finite and within limits."""
    value = getattr(settings, name)
    if not (math.isfinite(value) and least <= value <= largest) or (positive and value == 0):
        low = "more than 0" if positive else f"{least:g} or more"
        high = "" if largest == math.inf else f", at most {largest:g}"
        raise SimulationError(f"{name} is {value}; give {low}{high}")


def require_order(settings: object, name: str) -> None:
    """Raise a `SimulationError` unless the setting of this name is (least, largest)."""
    low, high = getattr(settings, name)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise SimulationError(f"{name} is ({low}, {high}); give (least, largest)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Fading within a recording, echoes and detours, drawn for each path of each session."""

    rician_k_db: float | None = None
    """Steady over scattered power of the direct path; None for a constant path."""
    doppler_hz: float = 1.0
    """Largest Doppler shift, that of a wave from straight ahead."""
    n_echoes: int = 0
    """Echoes of each path."""
    echoes_db: float = -6.0
    """Mean power of all echoes together, relative to the direct path."""
    delay_spread_s: float = 5e-6
    """Mean excess delay of the exponential profile before it is cut off."""
    blocked_share: float = 0.0
    """Share of paths that are blocked: the whole signal arrives by a detour."""
    detour_s: float = 1e-6
    """Mean excess delay of a blocked path, exponentially distributed."""

    def __post_init__(self) -> None:
        if self.rician_k_db is not None:
            require_within(self, "rician_k_db", -1000, 1000)
        require_within(self, "echoes_db", -1000, 1000)
        require_within(self, "doppler_hz")
        require_within(self, "n_echoes", 0, 1000)
        require_within(self, "blocked_share", 0, 1)
        require_within(self, "detour_s", 0, 1e-4)  # 30 km
        require_within(self, "delay_spread_s", 0, 1e-3, positive=True)

    @property
    def longest_echo_s(self) -> float:
        """Largest delay of an echo after the direct path."""
        return _LONGEST_SPREADS * self.delay_spread_s if self.n_echoes else 0.0


def drawn_fading(rng: np.random.Generator, channel: Channel) -> RicianTruth | None:
    """Draw the waves of one path; None if it does not fade."""
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
    """Draw echoes in order of delay; amplitudes are Rayleigh, as of many reflections each."""
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
    """Draw the excess delay of one path over the straight line, in seconds; mostly 0."""
    if not channel.blocked_share:
        return 0.0
    is_blocked, length = rng.random() < channel.blocked_share, rng.standard_exponential()
    return channel.detour_s * length if is_blocked else 0.0


def fading_gain(
    rician: RicianTruth, n_samples: int, sample_rate_hz: float
) -> NDArray[np.complex128]:
    """Return the direct path's gain over time, of mean power 1, `(n_samples,)`.

    The sum of waves is a product of two small matrices: the phases at some coarse times, and
    their turns from there.
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
    """Return the sum of the echoes over the direct path, at each FFT bin, `(n_samples,)`."""
    turn = -2j * np.pi * np.fft.fftfreq(n_samples, 1 / sample_rate_hz)
    response = np.zeros(n_samples, dtype=np.complex128)
    for echo in echoes:
        gain = 10 ** (echo.gain_db / 20) * np.exp(1j * echo.phase_rad)
        response += gain * np.exp(turn * echo.excess_s)
    return response


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """Number, frequencies and power of other transmitters."""

    n_interferers: int = 0
    """In every session, anywhere in the region, with any of the scenario's modulations."""
    offset_hz: float = 0.0
    """Distance of the nominal carrier from the source's, up or down; 0 is co-channel."""
    radiated_dbm: tuple[float, float] = (30.0, 43.0)
    """EIRP, uniform in dB."""

    def __post_init__(self) -> None:
        require_within(self, "n_interferers", 0, 100)
        require_within(self, "offset_hz")
        require_order(self, "radiated_dbm")
