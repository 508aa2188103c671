"""Simulated sessions per second and core: a markdown table.

    OMP_NUM_THREADS=1 python benchmarks/bench_simulate.py [sessions]

Processor time, which does not include other processes on the core.
"""

import sys
import time
from collections import deque
from dataclasses import replace

from heimdall_simulation import (
    MODULATIONS,
    NORTHWEST_ITALY,
    Channel,
    Interference,
    simulate_sessions,
    simulate_truths,
)

REPEATS = 3


def rate(make, n_sessions):
    """Sessions per second of processor time, the best of a few runs."""
    best = 0.0
    for repeat in range(REPEATS):
        begin = time.process_time()
        deque(make(n_sessions, repeat), maxlen=0)
        best = max(best, n_sessions / (time.process_time() - begin))
    return best


def main():
    """Print the table."""
    n_sessions = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    second = replace(NORTHWEST_ITALY, n_samples=48_000)
    everything = replace(
        second,
        modulations=MODULATIONS,
        channel=Channel(rician_k_db=6.0, doppler_hz=10.0, n_echoes=3),
        interference=Interference(n_interferers=2, offset_hz=12_500.0),
    )
    faded = replace(second, channel=Channel(rician_k_db=6.0, doppler_hz=10.0))
    echoing = replace(second, channel=Channel(n_echoes=3))
    crowded = replace(second, interference=Interference(n_interferers=1))
    cases = {
        "1 s at 48 kHz (target: 20)": lambda n, seed: simulate_sessions(n, seed, second),
        "the same, all modulations": lambda n, seed: simulate_sessions(
            n, seed, replace(second, modulations=MODULATIONS)
        ),
        "the same, Rician fading": lambda n, seed: simulate_sessions(n, seed, faded),
        "the same, 3 echoes": lambda n, seed: simulate_sessions(n, seed, echoing),
        "the same, 1 interferer": lambda n, seed: simulate_sessions(n, seed, crowded),
        "all of these with 2 interferers": lambda n, seed: simulate_sessions(n, seed, everything),
        "0.5 s at 48 kHz, the default": lambda n, seed: simulate_sessions(n, seed),
        "truths alone": lambda n, seed: simulate_truths(n, seed, NORTHWEST_ITALY),
    }
    print("| 7 receivers | sessions / (s core) |")
    print("|---|---|")
    for name, make in cases.items():
        rate(make, 2)
        print(f"| {name} | {rate(make, n_sessions):.1f} |")


if __name__ == "__main__":
    main()
