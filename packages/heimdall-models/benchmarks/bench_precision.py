"""What precision and memory layout are worth: milliseconds of a training step, side by side.

    OMP_NUM_THREADS=1 python benchmarks/bench_precision.py [--backbone convnext_atto]
        [--receivers 3] [--batch 32] [--steps 15] [--device cpu] [--compile] [--profile]
        [--plain]

Every way takes one step in turn, so that a busy machine is busy for all of them; medians count.
On a CPU the time is what the process got of it, not what went by.
`--plain` has torch's own convolutions in place of ours (in bfloat16 some of them are wrong).
`--profile` prints instead which operators a step of the fastest layout spends its time in, for
float32 and for bfloat16.
"""

import argparse
import statistics
import sys
import time

import numpy as np
import torch
from heimdall_models import LocalizationConfig, LocalizationModule, Region
from heimdall_models.execution import SpareConv2d
from heimdall_models.losses import gaussian_nll
from heimdall_models.optimizer import adamw
from lightning.pytorch import seed_everything
from torch.profiler import ProfilerActivity, profile

REGION = Region(45.0, 8.2, 1e5)
WAYS = {
    "float32": (False, False),
    "float32, channels last": (False, True),
    "bfloat16": (True, False),
    "bfloat16, channels last": (True, True),
}


class Steps:
    """A network in training, one step at a time on the same batch."""

    def __init__(self, given, *, half, channels_last):
        seed_everything(1, verbose=False)
        config = LocalizationConfig(
            backbone=given.backbone,
            n_receivers=given.receivers,
            channels_last=channels_last,
            compile=given.compile,
        )
        shape = (given.receivers, 128, 1)
        statistics_db = np.full(shape, -80.0), np.full(shape, 10.0)
        self.module = LocalizationModule(config, REGION, *statistics_db).train().to(given.device)
        if given.plain:
            for layer in self.module.modules():
                if isinstance(layer, SpareConv2d):
                    layer.__class__ = torch.nn.Conv2d
        self.optimizer = adamw([(self.module.net, 1e-3)], 0.05)
        self.half, self.device = half, given.device
        self.features = torch.randn(given.batch, given.receivers, 128, 32, device=given.device)
        self.features = self.features * 10 - 80
        self.target = torch.rand(given.batch, 2, device=given.device) * 2 - 1

    def step(self):
        """Forward, loss, backward, clip, optimiser."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            position, sigma = self.module(self.features)
        loss = gaussian_nll(position, sigma, torch.zeros(len(sigma)), self.target)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()  # Waits for a GPU.

    def milliseconds(self):
        """Of one step."""
        clock = time.process_time if self.device == "cpu" else time.perf_counter
        started = clock()
        self.step()
        return 1000 * (clock() - started)


def compare(given):
    """One line a way."""
    ways = {
        name: Steps(given, half=half, channels_last=last) for name, (half, last) in WAYS.items()
    }
    for steps in ways.values():
        for _ in range(3):
            steps.step()
    taken = {name: [] for name in ways}
    for _ in range(given.steps):
        for name, steps in ways.items():
            taken[name].append(steps.milliseconds())
    plain = statistics.median(taken["float32"])
    sys.stdout.write(
        f"{given.backbone}, {given.batch} x {given.receivers} x 128 x 32, {given.device}, "
        f"{torch.get_num_threads()} threads, "
        f"{'torch' if given.plain else 'our'} convolutions, median of {given.steps}\n"
    )
    for name, values in taken.items():
        median = statistics.median(values)
        sys.stdout.write(f"{name:26s}{median:9.1f} ms{plain / median:7.2f} x\n")


def operators(given):
    """Where the time goes: torch's own table."""
    for half in (False, True):
        steps = Steps(given, half=half, channels_last=True)
        for _ in range(3):
            steps.step()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(5):
                steps.step()
        total = sum(event.self_cpu_time_total for event in seen.key_averages())
        sys.stdout.write(f"{'bfloat16' if half else 'float32'}, {total / 5000:.0f} ms a step\n")
        by_time = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
        for event in by_time[:10]:
            each = event.self_cpu_time_total / 5000
            share = 100 * event.self_cpu_time_total / total
            sys.stdout.write(f"  {event.key:44s}{each:8.1f} ms{share:5.0f} %\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="convnext_atto")
    parser.add_argument("--receivers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--plain", action="store_true")
    given = parser.parse_args()
    (operators if given.profile else compare)(given)


if __name__ == "__main__":
    main()
