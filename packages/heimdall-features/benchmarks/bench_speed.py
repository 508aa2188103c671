"""Speed of several libraries, alternating, with the same input and number of threads.

    python benchmarks/bench_speed.py [threads] [rounds]

Without arguments: one thread, then two, each in its own process. Needs the dependency group
`bench`. `bare FFTs` only transforms as many frames as the features need, the lower limit of the
time with that library.
"""

import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import librosa
import numpy as np
import pyfftw
import scipy.fft
import torch
import torchaudio
from heimdall_features import FeatureConfig, FeatureExtractor
from heimdall_features.config import SpectrumConfig
from heimdall_features.mel import filter_bank
from heimdall_features.spectrogram import mel_spectrogram

N_FFT, HOP, BLOCK = 2048, 512, 64
THREADS = int(sys.argv[1]) if len(sys.argv) > 1 else 0
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 15
# Processor time excludes other work on the machine, but is only meaningful for one thread.
CLOCK = time.process_time if THREADS == 1 else time.perf_counter
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
Job = Callable[[], object]
warnings.simplefilter("ignore")
torch.set_num_threads(max(1, THREADS))
pool = ThreadPoolExecutor(max(1, THREADS))


def each(work: Callable[[np.ndarray], object], channels: np.ndarray) -> list[object]:
    return [work(x) for x in channels] if THREADS == 1 else list(pool.map(work, channels))


def bare_scipy(channels: np.ndarray) -> Job:
    transform = scipy.fft.fft if np.iscomplexobj(channels) else scipy.fft.rfft
    blocks = [np.resize(x, (BLOCK, N_FFT)) for x in channels]
    n_blocks = (1 + (channels.shape[1] - N_FFT) // HOP) / BLOCK

    def one(block: np.ndarray) -> None:
        for done in range(int(n_blocks) + 1):
            transform(block[: round(min(1.0, n_blocks - done) * BLOCK)])

    return lambda: each(one, blocks)


def bare_fftw(channels: np.ndarray) -> Job:
    n_bins = N_FFT if np.iscomplexobj(channels) else N_FFT // 2 + 1
    n_frames = 1 + (channels.shape[1] - N_FFT) // HOP
    plans = []
    for x in channels:
        frames = pyfftw.empty_aligned((BLOCK, N_FFT), x.dtype)
        bins = pyfftw.empty_aligned((BLOCK, n_bins), np.complex64)
        plans.append(pyfftw.FFTW(frames, bins, axes=(1,)))
        frames[:] = np.resize(x, frames.shape)

    def one(plan: pyfftw.FFTW) -> None:
        for _ in range(round(n_frames / BLOCK)):
            plan.execute()

    return lambda: each(one, plans)


def real_jobs(channels: np.ndarray, rate_hz: int) -> dict[str, Job]:
    tensor = torch.from_numpy(channels)
    config = SpectrumConfig(sample_rate_hz=rate_hz, spectrum="one-sided")
    theirs = torch.nn.Sequential(
        torchaudio.transforms.MelSpectrogram(rate_hz, N_FFT, hop_length=HOP, n_mels=128),
        torchaudio.transforms.AmplitudeToDB(),
    )
    extract = extractor(channels, config)
    heard = {str(i): (x, rate_hz) for i, x in enumerate(channels)}
    return {
        "torchaudio mel, dB": lambda: theirs(tensor),
        "librosa mel, dB": lambda: librosa.power_to_db(
            librosa.feature.melspectrogram(
                y=channels, sr=rate_hz, n_fft=N_FFT, hop_length=HOP, n_mels=128
            )
        ),
        "heimdall, a column per hop": lambda: each(lambda x: mel_spectrogram(x, config), channels),
        "heimdall, the same in one call": lambda: mel_spectrogram(channels, config),
        "heimdall, 32 columns": lambda: extract(heard),
        "bare FFTs, SciPy": bare_scipy(channels),
        "bare FFTs, FFTW": bare_fftw(channels),
    }


def complex_jobs(channels: np.ndarray, rate_hz: int) -> dict[str, Job]:
    tensor = torch.from_numpy(channels)
    config = SpectrumConfig(sample_rate_hz=rate_hz)
    window = torch.hann_window(N_FFT)
    bank = torch.from_numpy(filter_bank(config).astype(np.float32))
    to_db = torchaudio.transforms.AmplitudeToDB()

    def stft() -> torch.Tensor:
        spectrum = torch.stft(
            tensor, N_FFT, HOP, window=window, return_complex=True, onesided=False
        )
        return to_db(torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2) @ bank)

    extract = extractor(channels, config)
    heard = {str(i): (x, rate_hz) for i, x in enumerate(channels)}
    return {
        "torch.stft mel, dB": stft,
        "heimdall, a column per hop": lambda: each(lambda x: mel_spectrogram(x, config), channels),
        "heimdall, the same in one call": lambda: mel_spectrogram(channels, config),
        "heimdall, 32 columns": lambda: extract(heard),
        "bare FFTs, SciPy": bare_scipy(channels),
        "bare FFTs, FFTW": bare_fftw(channels),
    }


def extractor(channels: np.ndarray, config: SpectrumConfig) -> FeatureExtractor:
    names = tuple(str(i) for i in range(len(channels)))
    features = FeatureConfig(
        receivers=names, sample_rate_hz=config.sample_rate_hz, spectrum=config.spectrum
    )
    return FeatureExtractor(features, n_threads=THREADS)


def timed(jobs: dict[str, Job]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in jobs}
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            for name, job in jobs.items():
                start = CLOCK()
                job()
                times[name].append(CLOCK() - start)
    return {name: found[1:] for name, found in times.items()}  # the first round warms up


def table(title: str, jobs: dict[str, Job], n_samples: int) -> None:
    times = timed(jobs)
    reference = next(iter(jobs))
    bare = times["bare FFTs, SciPy"]
    threads = f"{THREADS} thread{'s' * (THREADS > 1)}"
    print(f"\n{title}, {threads}, median of {ROUNDS} rounds of {CLOCK.__name__}\n")
    print(f"| | ms | million samples/s | times {reference} | time / bare FFTs |")
    print("|---|---|---|---|---|")
    for name, found in times.items():
        # Ratios per round, because a disturbance affects all cases of a round.
        gain = statistics.median(a / b for a, b in zip(times[reference], found, strict=True))
        cost = statistics.median(a / b for a, b in zip(found, bare, strict=True))
        seconds = statistics.median(found)
        rate = n_samples / seconds / 1e6
        print(f"| {name} | {1e3 * seconds:.1f} | {rate:.0f} | {gain:.1f} | {cost:.2f} |")


def main() -> None:
    rng = np.random.default_rng(0)
    for receivers, seconds, rate_hz in ((3, 1, 192_000), (7, 10, 200_000)):
        shape = (receivers, seconds * rate_hz)
        real = (0.1 * rng.normal(size=shape)).astype(np.float32)
        iq = (real + 0.1j * rng.normal(size=shape)).astype(np.complex64)
        what = f"{receivers} receivers x {seconds} s x {rate_hz // 1000} kHz"
        table(f"Real, one-sided, {what}", real_jobs(real, rate_hz), real.size)
        table(f"Complex, two-sided, {what}", complex_jobs(iq, rate_hz), iq.size)


if __name__ == "__main__":
    if THREADS:
        main()
    for threads in () if THREADS else ("1", "2"):
        environment = {**os.environ, **dict.fromkeys(POOLS, threads)}
        subprocess.run([sys.executable, __file__, threads], env=environment, check=True)
