"""Accuracy of positions from simulated levels alone: a markdown table of errors.

    python benchmarks/learnability.py [sessions to train on] [sessions to test on]

Levels are the true ones in the sampled band, with noise, as in a long recording; without features
and network. Test sources are at sites that are not in the training data.
"""

import sys
from dataclasses import replace

import numpy as np
from heimdall_simulation import NO_MISHAPS, NORTHWEST_ITALY, simulate_truths
from heimdall_simulation.geometry import east_north_m

THREE = ("Torino", "Genova", "Milano-Baggio")
MIDDLE_DEG = (44.95, 8.2)


def levels_and_places(n_sessions, seed, scenario, stations):
    """Levels in dB of full scale, `(n, stations)`, and places in km, `(n, 2)`."""
    levels, places = [], []
    for truth in simulate_truths(n_sessions, seed, scenario):
        powers = {
            reception.station.name: 10 ** (reception.signal_dbfs / 10)
            + 10 ** (reception.noise_dbfs / 10)
            for reception in truth.receptions
        }
        levels.append([10 * np.log10(powers[station]) for station in stations])
        places.append(east_north_m(truth.source.position_deg, MIDDLE_DEG) / 1e3)
    return np.array(levels), np.array(places)


def nearest(train_levels, train_places, levels, k):
    """Mean place of the k training sessions with the nearest levels, without common power."""
    train = train_levels - 0.8 * train_levels.mean(axis=1, keepdims=True)
    test = levels - 0.8 * levels.mean(axis=1, keepdims=True)
    far = (test**2).sum(1)[:, None] - 2 * test @ train.T + (train**2).sum(1)
    chosen = np.argpartition(far, k, axis=1)[:, :k]
    return train_places[chosen].mean(axis=1)


def centroid(levels, stations_km):
    """Mean place of the stations, weighted by received amplitude."""
    weights = 10 ** ((levels - levels.max(axis=1, keepdims=True)) / 20)
    return weights @ stations_km / weights.sum(axis=1, keepdims=True)


def errors(n_train, n_test, scenario, names):
    """Errors in km of each method."""
    stations = {station.name: station for station in scenario.stations}
    stations_km = np.array(
        [east_north_m(stations[name].position_deg, MIDDLE_DEG) / 1e3 for name in names]
    )
    train = levels_and_places(n_train, 1, scenario, names)
    test_levels, places = levels_and_places(n_test, 2, scenario, names)
    estimates = {
        "mean of the training places": np.broadcast_to(train[1].mean(axis=0), places.shape),
        "power-weighted centroid": centroid(test_levels, stations_km),
        "nearest session in level": nearest(*train, test_levels, 1),
        "20 nearest sessions in level": nearest(*train, test_levels, 20),
    }
    return {name: np.linalg.norm(at - places, axis=1) for name, at in estimates.items()}


def main():
    """Print the table."""
    n_train, n_test = (int(a) for a in (*sys.argv[1:], "800", "1000")[:2])
    print(f"{n_train} sessions to train on, {n_test} to test on; median / 95 % in km\n")
    print("| method | 3 receivers | 7 receivers | 7 receivers, no fading |")
    print("|---|---|---|---|")
    everyone = tuple(station.name for station in NORTHWEST_ITALY.stations)
    sound = replace(NORTHWEST_ITALY, mishaps=NO_MISHAPS)
    clean = replace(sound, fading_sigma_db=0.0)
    cases = [(sound, THREE), (sound, everyone), (clean, everyone)]
    columns = [errors(n_train, n_test, scenario, names) for scenario, names in cases]
    for method in columns[0]:
        cells = (np.percentile(column[method], (50, 95)) for column in columns)
        print(f"| {method} | " + " | ".join(f"{m:.1f} / {w:.1f}" for m, w in cells) + " |")


if __name__ == "__main__":
    main()
