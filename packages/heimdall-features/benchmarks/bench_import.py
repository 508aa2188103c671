"""What importing the package costs beyond NumPy, in fresh interpreters, turn and turn about.

python benchmarks/bench_import.py
"""

import statistics
import subprocess
import sys

PROBE = """
import time
import numpy
start = time.perf_counter()
import {name}
print(time.perf_counter() - start)
"""
NAMES = ("heimdall_features", "scipy.fft", "scipy.signal")
ROUNDS = 15
times: dict[str, list[float]] = {name: [] for name in NAMES}
for _ in range(ROUNDS + 1):
    for name in NAMES:
        probe = [sys.executable, "-c", PROBE.format(name=name)]
        times[name].append(float(subprocess.run(probe, capture_output=True, check=True).stdout))
print("| import, after numpy | median ms |\n|---|---|")
for name in NAMES:
    print(f"| {name} | {1e3 * statistics.median(times[name][1:]):.0f} |")
