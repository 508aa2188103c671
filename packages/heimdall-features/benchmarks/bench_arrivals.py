"""Precision of arrival times compared with theory, and their time: a markdown table.

    python benchmarks/bench_arrivals.py [sessions]

Seven receivers, 0.7 s at 48 kHz, a waveform of Gaussian noise 12 kHz wide, delays within 300 us,
carriers within 100 Hz. The bound is Hahn and Tretter's (IEEE Trans. IT 19, 1973) for delays of
one unknown waveform. "chi-square" is of the errors in the claimed sigmas, over its six degrees of
freedom: 1 if the sigmas are right.
"""

import sys
import time

import numpy as np
from heimdall_features import ArrivalConfig, ArrivalExtractor, ClockedRecording
from heimdall_features.testing import delayed, noise

RATE_HZ = 48_000.0
N_SAMPLES = 33_600
WIDTH_HZ = 12e3
NAMES = tuple("ABCDEFG")
EXTRACT = ArrivalExtractor(ArrivalConfig(receivers=NAMES, baseline_m=180e3, bandwidth_hz=20e3))


def session(rng, snr_db):
    """Recordings by receiver, and their true delays in microseconds."""
    waveform = noise(rng, N_SAMPLES, WIDTH_HZ / RATE_HZ)
    delays_us, offsets_hz = rng.uniform(-300, 300, 7), rng.uniform(-100, 100, 7)
    time_s, heard = np.arange(N_SAMPLES) / RATE_HZ, {}
    for name, delay_us, offset_hz in zip(NAMES, delays_us, offsets_hz, strict=True):
        turn = np.exp(2j * np.pi * (offset_hz * time_s + rng.uniform()))
        iq = delayed(waveform, delay_us * 1e-6, RATE_HZ) * turn
        iq += 10 ** (-snr_db / 20) * noise(rng, N_SAMPLES)
        heard[name] = ClockedRecording(iq.astype(np.complex64), RATE_HZ)
    return heard, delays_us


def bound_us(snr_db):
    """One sigma of each of seven receivers with equal SNR, for a known time of emission."""
    snr = 10 ** (snr_db / 10) * RATE_HZ / WIDTH_HZ
    n_bins, total = N_SAMPLES * WIDTH_HZ / RATE_HZ, 7 * snr
    information = 2 * n_bins * (2 * np.pi) ** 2 * WIDTH_HZ**2 / 12 * snr * total / (1 + total)
    return 1e6 / np.sqrt(information)


def main():
    """Print the table."""
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
