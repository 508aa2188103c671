"""Time to import the package after NumPy, in fresh interpreters, alternating between the cases.

    python benchmarks/bench_import.py

Processor time is more reliable than wall time on a busy machine.
"""

import statistics
import subprocess
import sys

PROBE = """
import time
{before}
wall, cpu = time.perf_counter(), time.process_time()
import {name}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
CASES = {
    "numpy": ("", "numpy"),
    "heimdall_features, after numpy": ("import numpy", "heimdall_features"),
    "scipy.fft, after numpy": ("import numpy", "scipy.fft"),
    "scipy.signal, after numpy": ("import numpy", "scipy.signal"),
}
ROUNDS = 15


def seconds(before: str, name: str) -> list[float]:
    probe = [sys.executable, "-c", PROBE.format(before=before, name=name)]
    run = subprocess.run(probe, capture_output=True, text=True, check=True)
    return [float(found) for found in run.stdout.split()]


times = [{case: seconds(*probe) for case, probe in CASES.items()} for _ in range(ROUNDS + 1)]
print("| import | median ms, wall | median ms, processor |\n|---|---|---|")
for case in CASES:
    wall, cpu = (1e3 * statistics.median(round_[case][i] for round_ in times[1:]) for i in (0, 1))
    print(f"| {case} | {wall:.0f} | {cpu:.0f} |")
