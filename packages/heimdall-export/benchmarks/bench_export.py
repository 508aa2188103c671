"""PyTorch and ONNX Runtime side by side: latency of one call, and what the file costs.

Prints a Markdown table. Each figure is the median of rounds that alternate between the two, so
that a busy machine slows both. Arguments: timm backbones; `convnext_atto` without any.
"""

import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from heimdall_export.contract import METADATA_KEYS
from heimdall_export.onnx_file import export_onnx
from heimdall_export.onnx_session import open_session
from heimdall_export.parity import check_parity
from torch import nn

BATCH_SIZES = (1, 8, 32)
THREADS = (1, 2)
SECONDS = 4.0
CALLS = 5
"""In a row, before the other has its turn."""
PAUSE_S = 0.05
"""Before a turn: the threads of the one before spin for a while, on the same cores."""
SCALE_M = 80_000.0
COLUMNS = (
    "backbone",
    "threads",
    "batch",
    "PyTorch ms",
    "ONNX Runtime ms",
    "times faster",
    "file MB",
    "export s",
    "parity s",
    "mean difference",
    "worst m",
)


class Localizer(nn.Module):
    """A backbone with the contract's ends: dB in, degrees and metres out."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = timm.create_model(backbone, in_chans=3, num_classes=4)

    def forward(self, mel_spectrogram):
        """Positions and uncertainties, float32 `(batch, 2)` each."""
        out = self.backbone((mel_spectrogram + 100.0) / 40.0)
        return 45.0 + out[:, :2], out[:, 2:].sigmoid() * SCALE_M


def latencies_ms(calls):
    """The median time of each of some calls, in milliseconds."""
    times = [[] for _ in calls]
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times[0]) < CALLS:
        for call, taken in zip(calls, times, strict=True):
            time.sleep(PAUSE_S)
            call()
            for _ in range(CALLS):
                start = time.perf_counter()
                call()
                taken.append(time.perf_counter() - start)
    return [1000 * statistics.median(taken) for taken in times]


def rows(backbone, folder):
    """One row of the table for each batch size and number of threads."""
    torch.manual_seed(0)
    network = Localizer(backbone).eval()
    path = folder / f"{backbone}.onnx"
    start = time.perf_counter()
    export_onnx(network, path, metadata=dict.fromkeys(METADATA_KEYS, "{}"))
    export_s = time.perf_counter() - start
    features = np.random.default_rng(0).normal(-100, 30, (64, 3, 128, 32)).astype(np.float32)
    start = time.perf_counter()
    parity = check_parity(path, network, features, scale_m=SCALE_M)
    parity_s = time.perf_counter() - start
    for n_threads, batch_size in itertools.product(THREADS, BATCH_SIZES):
        torch_ms, onnx_ms = compared_ms(network, path, features[:batch_size], n_threads)
        yield (
            f"| {backbone} | {n_threads} | {batch_size} | {torch_ms:.1f} | {onnx_ms:.1f} | "
            f"{torch_ms / onnx_ms:.2f} | {path.stat().st_size / 1e6:.1f} | {export_s:.1f} | "
            f"{parity_s:.1f} | {parity.mean_difference:.1e} | {parity.worst_m:.2g} |"
        )


def compared_ms(network, path, batch, n_threads):
    """Milliseconds of one call of the network, and of its file."""
    torch.set_num_threads(n_threads)
    session = open_session(path, n_threads=n_threads)
    tensor = torch.from_numpy(batch)
    return latencies_ms(
        [lambda: network(tensor), lambda: session.run(None, {"mel_spectrogram": batch})]
    )


def main(backbones):
    """Print the table."""
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        for backbone in backbones:
            for row in rows(backbone, Path(temporary)):
                print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["convnext_atto"])
