"""What an export costs, and what the files answer in, beside PyTorch in one run.

Prints two Markdown tables for each timm backbone that is named, `convnext_atto` without any. The
first: seconds, seconds of CPU, and memory beyond that of the loaded network, of `export_onnx`, of
the same with `dynamo=True`, and of `torch.onnx.export` with the checker, each in a process of its
own, for they leave memory behind.
The second: milliseconds of PyTorch, of the files of several operator sets, and of their variants,
called in turns. Weights are random, so nothing is said here of positions; for that there
is `heimdall models benchmark`.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
from heimdall_export.benchmark import (
    BATCH_SIZES,
    THREADS,
    Contender,
    benchmark,
    file_contender,
    read_ms,
)
from heimdall_export.contract import METADATA_KEYS
from heimdall_export.graph.export import export_onnx
from heimdall_export.graph.quantize import KINDS, quantize_model
from heimdall_export.session import Sample
from torch import nn

METADATA = dict.fromkeys(METADATA_KEYS, "{}")
OPSETS = (14, 17, 20, 26)
SECONDS = 8.0
SCALE_M = 80_000.0


class Localizer(nn.Module):
    """A backbone with the contract's ends: dB in, degrees and metres out."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = timm.create_model(backbone, in_chans=3, num_classes=4)

    def forward(self, mel_spectrogram):
        """Positions and uncertainties, float32 `(batch, 2)` each."""
        out = self.backbone((mel_spectrogram + 100.0) / 40.0)
        return 45.0 + out[:, :2], out[:, 2:].sigmoid() * SCALE_M


def network(backbone):
    """The same weights every time."""
    torch.manual_seed(0)
    return Localizer(backbone).eval()


def by_export_onnx(net, path):
    """Ours."""
    export_onnx(net, path, metadata=METADATA)


def by_export_onnx_dynamo(net, path):
    """Ours, with the graph of `torch.export`."""
    export_onnx(net, path, metadata=METADATA, dynamo=True)


def by_torch(net, path):
    """What a plain export does: torch's own exporter, one file, the checker on it."""
    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, 3, 128, 32),)
    program = torch.onnx.export(
        net, example, dynamic_shapes=({0: batch},), opset_version=20, dynamo=True, verbose=False
    )
    onnx.save(program.model_proto, path)
    onnx.checker.check_model(path, full_check=True)


def peak_mb():
    """Most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def export_costs(way, backbone, path, answer):
    """Runs in a process of its own; puts what it cost into a queue.

    A small network goes first: libraries load on first use, which is not the export's.
    """
    # One thread: several that wait for each other spin, which counts as CPU time.
    torch.set_num_threads(1)
    way(network("test_convnext"), path)
    net = network(backbone)
    before = peak_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    way(net, path)
    answer.put((time.perf_counter() - wall, time.process_time() - cpu, peak_mb() - before))


def print_export_costs(backbone, folder):
    """One line a way of exporting."""
    weights_mb = sum(w.nbytes for w in network(backbone).state_dict().values()) / 1e6
    print(f"\n| {backbone} | seconds | CPU seconds | memory MB | of {weights_mb:.0f} MB weights |")
    print("|---|---|---|---|---|")
    fresh = multiprocessing.get_context("spawn")
    for way in (by_torch, by_export_onnx, by_export_onnx_dynamo):
        answer = fresh.Queue()
        path = folder / f"{way.__name__}.onnx"
        child = fresh.Process(target=export_costs, args=(way, backbone, path, answer))
        child.start()
        wall_s, cpu_s, memory_mb = answer.get()
        child.join()
        path.unlink()
        share = memory_mb / weights_mb
        print(f"| {way.__name__} | {wall_s:.2f} | {cpu_s:.2f} | {memory_mb:.0f} | {share:.2f} |")


def contenders(backbone, folder, sample):
    """PyTorch first, which the others are compared with."""
    net = network(backbone)

    def opened(n_threads):
        torch.set_num_threads(n_threads)
        return answer

    @torch.inference_mode()
    def answer(feed):
        return net(torch.from_numpy(feed["mel_spectrogram"]))

    yield Contender(name="PyTorch eager", open=opened)
    for opset in OPSETS:
        path = folder / f"{opset}.onnx"
        export_onnx(net, path, metadata=METADATA, opset=opset)
        yield file_contender(f"float32, opset {opset}", path)
    for kind in KINDS:
        path = folder / f"{kind}.onnx"
        quantize_model(folder / "20.onnx", path, kind, features=sample.features)
        yield file_contender(kind, path)


def print_latencies(backbone, folder, batch_sizes, threads):
    """One line a contender, batch size and number of threads."""
    values = np.random.default_rng(0).normal(-100, 30, (32, 3, 128, 32)).astype(np.float32)
    sample = Sample(values)
    found = list(contenders(backbone, folder, sample))
    print(
        f"\n| {backbone} | MB | load s | memory MB | threads | batch | median ms | p95 ms |", end=""
    )
    print(" times faster | reading it once ms |\n" + "|---" * 10 + "|")
    by_name = {one.name: one for one in found}
    for row in benchmark(found, sample, batch_sizes=batch_sizes, threads=threads, seconds=SECONDS):
        one = by_name[row.name]
        size, costs = "", " | "
        read = ""
        if one.size_bytes is not None:
            size, costs = f"{one.size_bytes / 1e6:.1f}", f"{one.load_s:.2f} | {one.memory_mb:.0f}"
            read = f"{read_ms(one.size_bytes, row.n_threads):.1f}"
        print(
            f"| {row.name} | {size} | {costs} | {row.n_threads} | {row.batch_size} | "
            f"{row.median_ms:.2f} | {row.p95_ms:.2f} | {row.times_faster:.2f} | {read} |",
            flush=True,
        )


def main():
    """Print both tables for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbones", nargs="*", default=["convnext_atto"])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[*BATCH_SIZES])
    parser.add_argument("--export_only", action="store_true", help="print the first table alone")
    parser.add_argument("--threads", nargs="+", type=int, default=[*THREADS])
    given = parser.parse_args()
    for backbone in given.backbones:
        with tempfile.TemporaryDirectory() as temporary:
            print_export_costs(backbone, Path(temporary))
            if not given.export_only:
                print_latencies(backbone, Path(temporary), given.batch_sizes, given.threads)


if __name__ == "__main__":
    main()
