"""Peak memory of an extraction without its input, which may be larger than memory.

    python benchmarks/bench_memory.py

Each row is a separate process. NumPy reports its arrays to tracemalloc; the peak is of all arrays
that exist at the same time during the extraction.
"""

import subprocess
import sys

PROBE = """
import time, tracemalloc, numpy as np, scipy.fft, scipy.signal
from heimdall_features import Blocks, FeatureConfig, FeatureExtractor

extract = FeatureExtractor(FeatureConfig(receivers=("A",), sample_rate_hz={wanted_hz}))
{make}
start = time.perf_counter()
tracemalloc.start()
extract({{"A": (iq, {rate_hz})}})
print(tracemalloc.get_traced_memory()[1] / 1e6, time.perf_counter() - start)
"""
TEN_SECONDS = "iq = np.full({n}, 0.1 + 0j, np.complex64)"
BLOCKS = (
    "iq = Blocks((np.full(100_000, 0.1 + 0j, np.complex64) for _ in range({n} // 100_000)), {n})"
)
ENDLESS = "iq = np.broadcast_to(np.complex64(0.1), {n})"
CASES = [
    ("array, 10 s at 200 kHz", TEN_SECONDS, 2_000_000, 200_000, 200_000),
    ("array, 10 s at 200 kHz, resampled to 48 kHz", TEN_SECONDS, 2_000_000, 200_000, 48_000),
    ("array, 60 s at 12 kHz, resampled to 48 kHz", TEN_SECONDS, 720_000, 12_000, 48_000),
    ("blocks, 500 s at 200 kHz", BLOCKS, 100_000_000, 200_000, 200_000),
    ("10^9 samples, never in memory", ENDLESS, 1_000_000_000, 200_000, 200_000),
]

print("| input | size, MB | further peak, MB | seconds |\n|---|---|---|---|")
for name, make, n, rate_hz, wanted_hz in CASES:
    code = PROBE.format(make=make.format(n=n), rate_hz=rate_hz, wanted_hz=wanted_hz)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, seconds = map(float, run.stdout.split())
    print(f"| {name} | {8 * n / 1e6:.0f} | {peak:.1f} | {seconds:.2f} |")
