"""Processor time of arrival times, and their precision compared with theory: markdown tables.

    python benchmarks/bench_arrivals.py [sessions]

Seven receivers, 0.7 s at 48 kHz, a waveform of Gaussian noise 12 kHz wide, delays within 300 us,
carriers within 100 Hz. The bound is Hahn and Tretter's (IEEE Trans. IT 19, 1973) for delays of
one unknown waveform. "chi-square" is of the errors in the claimed sigmas, over its six degrees of
freedom: 1 if the sigmas are right.
"""

import sys
import time
from dataclasses import replace

import numpy as np
from heimdall_features import (
    ArrivalConfig,
    ArrivalExtractor,
    ClockedRecording,
    FeatureConfig,
    FeatureExtractor,
)
from heimdall_features.testing import delayed, noise

RATE_HZ = 48_000.0
N_SAMPLES = 33_600
WIDTH_HZ = 12e3
NAMES = tuple("ABCDEFG")
EXTRACT = ArrivalExtractor(ArrivalConfig(receivers=NAMES, baseline_m=180e3, bandwidth_hz=20e3))


WHOLE_BAND = ArrivalExtractor(replace(EXTRACT.config, bandwidth_hz=None))
MEL = FeatureExtractor(FeatureConfig(receivers=NAMES, sample_rate_hz=RATE_HZ))
N_TIMED = 9


def session(rng, snr_db):
    """Recordings by receiver, and their true delays in microseconds."""
    waveform = noise(rng, N_SAMPLES, WIDTH_HZ / RATE_HZ)
    delays_us, offsets_hz = rng.uniform(-300, 300, 7), rng.uniform(-100, 100, 7)
    time_s, heard = np.arange(N_SAMPLES) / RATE_HZ, {}
    for name, delay_us, offset_hz in zip(NAMES, delays_us, offsets_hz, strict=True):
        turn = np.exp(2j * np.pi * (offset_hz * time_s + rng.uniform()))
        iq = delayed(waveform, delay_us * 1e-6, RATE_HZ) * turn
        iq += 10 ** (-snr_db / 20) * noise(rng, N_SAMPLES)
        heard[name] = ClockedRecording((0.05 * iq).astype(np.complex64), RATE_HZ)
    return heard, delays_us


def bound_us(snr_db):
    """One sigma of each of seven receivers with equal SNR, for a known time of emission."""
    snr = 10 ** (snr_db / 10) * RATE_HZ / WIDTH_HZ
    n_bins, total = N_SAMPLES * WIDTH_HZ / RATE_HZ, 7 * snr
    information = 2 * n_bins * (2 * np.pi) ** 2 * WIDTH_HZ**2 / 12 * snr * total / (1 + total)
    return 1e6 / np.sqrt(information)


def mel(recordings):
    """The mel features of a session, for comparison."""
    return MEL({name: (one.iq, one.sample_rate_hz) for name, one in recordings.items()})


def processor_ms(compute, sessions):
    """Median processor time of all threads for a session."""
    took_ms = []
    for recordings in [sessions[0], *sessions]:
        started = time.process_time()
        compute(recordings)
        took_ms.append(1e3 * (time.process_time() - started))
    return np.median(took_ms[1:])


def print_times():
    """Print the processor time of sessions at 10 dB, also with clocks that are ppm off."""
    rng = np.random.default_rng(2)
    exact = [session(rng, 10)[0] for _ in range(N_TIMED)]
    slow = [
        {n: replace(r, sample_rate_hz=RATE_HZ * (1 + 5e-6 * rng.normal())) for n, r in one.items()}
        for one in exact
    ]
    processor_ms(mel, exact)  # the first session after the imports takes longer than later ones
    mel_ms = processor_ms(mel, exact)
    print("| features | processor time, ms | over mel |\n|---|---|---|")
    for name, compute, sessions in (
        ("mel", mel, exact),
        ("arrivals, 20 kHz", EXTRACT, exact),
        ("arrivals, 20 kHz, clocks 5 ppm off", EXTRACT, slow),
        ("arrivals, 48 kHz", WHOLE_BAND, exact),
    ):
        took_ms = processor_ms(compute, sessions)
        print(f"| {name} | {took_ms:.0f} | {took_ms / mel_ms:.1f} |", flush=True)
    print()


def main():
    """Print the tables."""
    print_times()
    n_sessions = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    print("| SNR, dB | heard, % | rms error, us | bound, us | chi-square | ms a session |")
    print("|---|---|---|---|---|---|")
    for snr_db in (-9, -6, -3, 0, 10, 20, 30):
        rng, heard, errors, squares, took_ms = np.random.default_rng(1), [], [], [], []
        for _ in range(n_sessions):
            recordings, delays_us = session(rng, snr_db)
            started = time.process_time()
            rows = EXTRACT(recordings)
            took_ms.append(1e3 * (time.process_time() - started))
            found = rows[:, 0] > 0
            heard.append(found.mean())
            if not found.any():
                continue
            error = rows[found, 1] - delays_us[found]
            error -= np.average(error, weights=rows[found, 2] ** -2.0)
            errors.extend(error)
            squares.append(np.sum((error / rows[found, 2]) ** 2) / (found.sum() - 1))
        # Without the common zero, six of seven degrees of freedom are left.
        rms = np.sqrt(np.mean(np.square(errors)) * 7 / 6)
        print(
            f"| {snr_db} | {100 * np.mean(heard):.1f} | {rms:.3f} | {bound_us(snr_db):.3f} | "
            f"{np.mean(squares):.2f} | {np.median(took_ms):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
