"""Can sessions that have levels but no recordings be learned from? Tables in Markdown.

    python apps/trainer/benchmarks/levels_without_iq.py --powder DIR

POWDER FRS has such levels. Half of its part `train` stands for sessions with recordings, and the
other half for meters: with the same reference, with an offset of their own at each receiver, or in
S units. The other parts are judged by levels with the reference of the first half.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from accuracy_judged import gaussian
from heimdall_data import read_powder_frs
from heimdall_models import Region
from heimdall_models.baselines import LEVEL_BASELINES, TrainingLevels
from heimdall_models.metrics import offset_east_north_m

METHODS = ("nearest neighbours in level", "level likelihood, kriged map")
S_UNIT_DB = 6.0


def main():
    """Print a table for each part that is not trained on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--powder", type=Path, required=True)
    data = read_powder_frs(parser.parse_args().powder)
    train = data.only("train")
    rng = np.random.default_rng(0)
    metered = rng.permutation(len(train.part)) % 2 == 0
    known = np.isfinite(train.level_db).any(axis=0)
    readings = train.level_db[:, known]
    offsets_db = rng.normal(size=readings.shape[1])
    everyone = np.ones(len(metered), bool)
    kinds = {"half of the sessions": (readings, ~metered), "all": (readings, everyone)}
    for name, meters in {
        "half, and half from meters in S units": S_UNIT_DB * np.round(readings / S_UNIT_DB),
        "half, and half from meters with offsets of 3 dB": readings + 3 * offsets_db,
        "half, and half from meters with offsets of 10 dB": readings + 10 * offsets_db,
    }.items():
        kinds[name] = np.where(metered[:, None], meters, readings), everyone
    parts = {part: data.only(part) for part in sorted({*data.part.tolist()} - {"train"})}
    for part in parts:
        print(f"columns: {' and '.join(METHODS)} on {part}", flush=True)
    for kind, (levels_db, rows) in kinds.items():
        training = TrainingLevels(
            *_levels(levels_db[rows]),
            train.position_deg[rows],
            np.array([station.position_deg for station in data.receivers])[known],
            Region.around(*train.position_deg.T),
        )
        fitted = [LEVEL_BASELINES[name](training) for name in METHODS]
        cells = [_cell(estimate, asked, known) for asked in parts.values() for estimate in fitted]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


def _levels(level_db):
    return np.nan_to_num(level_db), np.isfinite(level_db)


def _cell(estimate, asked, known):
    found = estimate(*_levels(asked.level_db[:, known]))
    offset_m = offset_east_north_m(found.position_deg, asked.position_deg)
    judged = gaussian(offset_m, found.covariance_m2)
    return f"{np.median(judged.error_m):.0f} m, {judged.nll.mean():.1f}"


if __name__ == "__main__":
    main()
