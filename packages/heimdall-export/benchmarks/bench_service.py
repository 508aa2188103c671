"""Requests a second of `heimdall-serve`, beside the Predictor alone.

    python packages/heimdall-export/benchmarks/bench_service.py [SECONDS]

Each request holds three receivers of 0.5 s at 12 kHz, for a network with random weights. The first
table is one session's answer in the Predictor and its parts. The first line of the second is
`Predictor.predict_many` of 32 sessions at once, in as many threads as there are
processors, without a body to decode. A client waits for its answer before it asks again. All
clients are threads of one process on the same machine, whose processor time the service cannot
have: compare the processor time of one answer, which the column "ms of processors" tells.
"""

import base64
import concurrent.futures
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from heimdall_export import Predictor, export_onnx
from heimdall_features import FeatureConfig, FeatureExtractor
from torch import nn

RECEIVERS, RATE_HZ, N_SAMPLES = ("Genova", "Milano", "Torino"), 12_000.0, 6_000
CLIENTS = (1, 8, 64)


class Localizer(nn.Module):
    """convnext_atto with the contract's ends: dB in, degrees and metres out."""

    def __init__(self):
        super().__init__()
        self.backbone = timm.create_model("convnext_atto", in_chans=3, num_classes=4)

    def forward(self, mel_spectrogram):
        """Positions and uncertainties, float32 `(batch, 2)` each."""
        out = self.backbone((mel_spectrogram + 100.0) / 40.0)
        return 45.0 + out[:, :2], 1.0 + out[:, 2:].sigmoid() * 80_000.0


def model_file(folder):
    """A network of this size, with the metadata of a model of ours."""
    config = FeatureConfig(receivers=RECEIVERS, sample_rate_hz=RATE_HZ)
    places = [{"name": name, "latitude": 45.0, "longitude": 8.0} for name in RECEIVERS]
    metadata = FeatureExtractor(config).metadata() | {
        "heimdall.receivers": json.dumps(places),
        "heimdall.region": json.dumps({"latitude_deg": 45.0, "longitude_deg": 8.0}),
        "heimdall.run_id": "bench",
        "heimdall.created_at": "2026-01-01T00:00:00+00:00",
    }
    return export_onnx(Localizer().eval(), folder / "model.onnx", metadata=metadata)


def recordings(seed):
    """One session."""
    noise = np.random.default_rng(seed).normal(scale=0.1, size=(3, N_SAMPLES, 2))
    iq = noise.astype(np.float32).view(np.complex64)[..., 0]
    return {name: (one, RATE_HZ) for name, one in zip(RECEIVERS, iq, strict=True)}


def body(session):
    """A session as a request."""
    return json.dumps(
        {
            name: {"iq": base64.b64encode(iq.tobytes()).decode(), "sample_rate_hz": rate_hz}
            for name, (iq, rate_hz) in session.items()
        }
    ).encode()


def alone(path, seconds):
    """Sessions a second of the Predictor in all processors, and its processor time of one."""
    n_threads = os.cpu_count() or 1
    predictor = Predictor(path, n_threads=1)
    sessions = [recordings(seed) for seed in range(32)]
    with concurrent.futures.ThreadPoolExecutor(n_threads) as pool:
        n_done, started, before_s = 0, time.perf_counter(), time.process_time()
        while (took_s := time.perf_counter() - started) < seconds:
            n_done += sum(map(len, pool.map(predictor.predict_many, [sessions] * n_threads)))
    return n_done / took_s, (time.process_time() - before_s) / n_done


def print_latency(path):
    """Medians of one session's answer and of its parts, in one thread and in all processors."""
    session = recordings(0)
    predictors = {n: Predictor(path, n_threads=n) for n in (1, os.cpu_count() or 1)}
    inputs = predictors[1].prepare(session)
    parts = {
        "features": lambda each: each.prepare(session),
        "network": lambda each: each.answer_each([inputs]),
        "predict": lambda each: each.predict(session),
    }
    took_ms = {(part, n): [] for part in parts for n in predictors}
    for _ in range(400):
        for part, call in parts.items():
            for n, predictor in predictors.items():
                started = time.perf_counter()
                call(predictor)
                took_ms[part, n].append(1e3 * (time.perf_counter() - started))
    print(f"| ms, one session | {' | '.join(f'{n} threads' for n in predictors)} |\n|---|---|---|")
    for part in parts:
        medians = [f"{statistics.median(took_ms[part, n]):.2f}" for n in predictors]
        print(f"| {part} | {' | '.join(medians)} |", flush=True)


def ask(port, bodies, until):
    """Ask again and again; seconds that each answer took."""
    took_s = []
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while time.perf_counter() < until:
        started = time.perf_counter()
        connection.request("POST", "/locate", bodies[len(took_s) % len(bodies)])
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"the service answers {answer.status}")
        took_s.append(time.perf_counter() - started)
    connection.close()
    return took_s


def served(path, folder):
    """`heimdall-serve` in a process, and its port."""
    log = folder / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("heimdall-serve"), path, "--port=0"],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    while "is loaded" not in log.read_text():
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.1)
    return process, int(re.search(r"listening on http://127.0.0.1:(\d+)", log.read_text())[1])


def used_s(process):
    """Processor time of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def main():
    """Print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        path = model_file(Path(temporary))
        print_latency(path)
        rate, alone_s = alone(path, seconds)
        print("\n| | a second | median ms | p95 ms | ms of processors | predict_many's share |")
        print("|---|---|---|---|---|---|")
        print(f"| predict_many | {rate:.0f} | | | {1e3 * alone_s:.2f} | 100% |", flush=True)
        bodies = [body(recordings(seed)) for seed in range(16)]
        process, port = served(path, Path(temporary))
        try:
            ask(port, bodies, time.perf_counter() + 1.0)
            for n_clients in CLIENTS:
                with concurrent.futures.ThreadPoolExecutor(n_clients) as pool:
                    started, before_s = time.perf_counter(), used_s(process)
                    asking = [
                        pool.submit(ask, port, bodies, started + seconds) for _ in range(n_clients)
                    ]
                    took_s = [each for one in asking for each in one.result()]
                wall_s = time.perf_counter() - started
                one_s = (used_s(process) - before_s) / len(took_s)
                p95_ms = 1e3 * statistics.quantiles(took_s, n=20)[-1]
                print(
                    f"| {n_clients} clients | {len(took_s) / wall_s:.0f} | "
                    f"{1e3 * statistics.median(took_s):.1f} | {p95_ms:.1f} | "
                    f"{1e3 * one_s:.2f} | {alone_s / one_s:.0%} |",
                    flush=True,
                )
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
