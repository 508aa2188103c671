"""Time of each step of a frame: the FFT, and the unavoidable passes over memory.

    OPENBLAS_NUM_THREADS=1 python benchmarks/bench_passes.py

The minimum of many repetitions, which other work on the machine affects least.
"""

import time
from collections.abc import Callable

import numpy as np
import scipy.fft
from heimdall_features.config import SpectrumConfig
from heimdall_features.spectrum import Squares, band_powers, scaled_window

N_FRAMES, HOP, N_FFT = 64, 512, 2048


def least_us(job: Callable[[], object]) -> float:
    found = []
    for _ in range(300):
        start = time.perf_counter()
        job()
        found.append(time.perf_counter() - start)
    return 1e6 * min(found) / N_FRAMES


def passes(config: SpectrumConfig) -> dict[str, float]:
    is_complex = config.spectrum == "two-sided"
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(N_FRAMES - 1) * HOP + N_FFT).astype(np.float32)
    samples = signal.astype(np.complex64) if is_complex else signal
    parts = samples.view(np.float32)
    window = np.repeat(scaled_window(N_FFT), 2 if is_complex else 1)
    strides = (parts.strides[0] * HOP * (2 if is_complex else 1), parts.strides[0])
    frames = np.ndarray((N_FRAMES, window.size), np.float32, parts, strides=strides)
    work = np.multiply(frames, window)
    rows = work.view(samples.dtype)
    transform = scipy.fft.fft if is_complex else scipy.fft.rfft
    engine = Squares(config)
    squares = np.square(transform(rows).view(np.float32))
    return {
        "FFT": least_us(lambda: transform(rows)),
        "window": least_us(lambda: np.multiply(frames, window, out=work)),
        "square": least_us(lambda: np.multiply(squares, np.float32(1), out=squares)),
        "add up the frames of a column": least_us(lambda: np.add.reduce(squares, axis=0)),
        "filter bank (a column per hop)": least_us(lambda: band_powers(squares, config)),
        "all but the last two, as done": least_us(lambda: engine.of_run(samples, N_FRAMES, HOP)),
    }


real = passes(SpectrumConfig(spectrum="one-sided", sample_rate_hz=192e3))
both = passes(SpectrumConfig(spectrum="two-sided", sample_rate_hz=192e3))
print("| us per frame of 2,048 | real | complex |\n|---|---|---|")
for name in real:
    print(f"| {name} | {real[name]:.2f} | {both[name]:.2f} |")
