"""How many samples a second a DataLoader gives, for several of them in turn."""

import statistics
import time

import torch
from torch.utils.data import DataLoader

N_WORKERS = 2
BATCH_SIZE = 32


class InMemory:
    """The same samples as tensors in memory: what no reading can beat."""

    def __init__(self, samples):
        self.samples = [
            {
                name: value if isinstance(value, str) else torch.as_tensor(value)
                for name, value in sample.items()
            }
            for sample in samples
        ]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def loader(dataset):
    """As training reads, but with workers that stay, so that their start is not measured."""
    return DataLoader(
        dataset,
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=N_WORKERS,
        persistent_workers=True,
    )


def epoch_s(batches, n_samples):
    """Seconds of one epoch, which must give every sample once."""
    begin = time.perf_counter()
    n_seen = sum(len(batch["features"]) for batch in batches)
    took_s = time.perf_counter() - begin
    if n_seen != n_samples:
        raise SystemExit(f"an epoch gave {n_seen} samples of {n_samples}")
    return took_s


def rates(loaders, n_samples, n_rounds):
    """Samples per second of each loader, by name, in rounds that take each in turn.

    Every epoch counts but each loader's first.
    """
    took_s = {name: [] for name in loaders}
    for number in range(n_rounds + 1):
        for name, batches in loaders.items():
            one_s = epoch_s(batches, n_samples)
            if number:
                took_s[name].append(one_s)
    return {name: [n_samples / one_s for one_s in values] for name, values in took_s.items()}


def table(found, reference):
    """Lines of a table: median and best rate, and the median over rounds of the ratio."""
    lines = ["| | samples/s, median (best) | to the same in memory |", "|---|---|---|"]
    for name, values in found.items():
        ratio = statistics.median(v / r for v, r in zip(values, found[reference], strict=True))
        lines.append(
            f"| {name} | {statistics.median(values):.0f} ({max(values):.0f}) | {ratio:.2f} |"
        )
    return "\n".join(lines)
