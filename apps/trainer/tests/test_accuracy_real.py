"""`nox -s accuracy_real`: its script on small folders in the formats of the public data sets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from heimdall_locate.sites import cartesian_m, moved_deg

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "accuracy_real.py"
RECEIVERS = {"a": (40.757, -111.850), "b": (40.772, -111.830), "c": (40.760, -111.826)}
AIRPORTS = ((46.0, 7.0), (46.1, 9.0), (47.9, 7.1), (48.0, 9.1), (47.0, 8.2))
FIGURES = {"median_m", "p95_m", "nll_per_m2", "inside_68", "inside_90", "inside_95", "n"}


def powder_folder(folder, n_train=80, n_other=12):
    """Transmissions anywhere among three receivers, heard by a path-loss law."""
    rng = np.random.default_rng(0)
    rows = ["timestamp,latitude,longitude,part,a,b,c,d"]
    for n in range(n_train + 2 * n_other):
        place = rng.uniform((40.757, -111.850), (40.772, -111.826))
        part = "train" if n < n_train else ("spring", "autumn")[n % 2]
        away_m = [np.hypot(*(np.subtract(place, at) * (111e3, 84e3))) for at in RECEIVERS.values()]
        levels = [f"{-20 - 30 * np.log10(m + 10) + rng.normal(0, 2):.2f}" for m in away_m]
        levels = [*levels, "-70" if part == "spring" else ""]  # a receiver unknown in training
        if n % 10 == 0:
            levels[n // 10 % 3] = ""
        if n == n_train:
            levels = [""] * 4  # nobody heard it
        minute, second = divmod(n, 60)
        cells = [f"2022-07-05 14:{minute:02}:{second:02}", *map(str, place), part, *levels]
        rows.append(",".join(cells))
    (folder / "sessions.csv").write_text("\n".join(rows) + "\n")
    places = [
        f"{name},{at[0]},{at[1]}" for name, at in (*RECEIVERS.items(), ("d", (40.76, -111.83)))
    ]
    (folder / "receivers.csv").write_text("\n".join(["name,latitude,longitude", *places]) + "\n")


def locards_folder(folder, n_messages=4):
    """Messages of aircraft among five sensors with clocks good to 50 ns."""
    rng = np.random.default_rng(0)
    sensors = [f"{n},{lat},{lon},400,Radarcape" for n, (lat, lon) in enumerate(AIRPORTS)]
    head = "serial,latitude,longitude,height,type"
    (folder / "sensors.csv").write_text("\n".join([head, *sensors]) + "\n")
    at_m = cartesian_m(*np.transpose(AIRPORTS), 400.0)
    rows = ["aircraft,latitude,longitude,geoAltitude,measurements"]
    for n in range(n_messages):
        east_m, north_m = rng.uniform(-40e3, 40e3, 2)
        place = [float(x) for x in moved_deg(47.0, 8.2, east_m, north_m)]
        range_m = np.linalg.norm(at_m - cartesian_m(*place, 10_000.0), axis=1)
        time_ns = 1e9 * (5 + range_m / 299_792_458 * 1.0003) + rng.normal(0, 50, 5)
        heard = [[k, int(each), 50] for k, each in enumerate(time_ns)]
        rows.append(f'{n % 2},{place[0]},{place[1]},10000,"{heard}"')
    rows.append(f'9,,,10000,"{heard}"')  # an aircraft that does not report where it is
    (folder / "set_1.csv").write_text("\n".join(rows) + "\n")


def run(folder, *words):
    """The script's process."""
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("HEIMDALL_", "MLFLOW_"))}
    there = (
        "--dcf77",
        folder / "nothing",
        "--output",
        folder / "page.md",
        "--json",
        folder / "f.json",
    )
    command = [sys.executable, str(SCRIPT), *map(str, there), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=bare, timeout=300)


def test_every_method_is_judged_on_every_part(tmp_path):
    """The figures' names are a contract; others read them by program."""
    powder, locards = tmp_path / "powder", tmp_path / "locards"
    powder.mkdir()
    locards.mkdir()
    powder_folder(powder)
    locards_folder(locards)
    done = run(tmp_path, "--powder", powder, "--locards", locards, "--epochs", "1")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "f.json").read_text())
    assert found.keys() == {"powder", "locards"}
    assert found["powder"].keys() == {"spring", "autumn"}
    page = (tmp_path / "page.md").read_text()
    for part, methods in found["powder"].items():
        assert {"model", "region prior", "level likelihood, kriged map"} <= methods.keys()
        assert f"Part `{part}`: 12 transmissions" in page
        for name, figures in methods.items():
            assert figures.keys() == FIGURES
            assert figures["n"] == 12
            assert np.isfinite(list(figures.values())).all()
            assert f"| {name} | {figures['median_m']:.0f} m" in page
        prior = methods["region prior"]["median_m"]
        assert methods["level likelihood, path-loss law"]["median_m"] < prior / 2
    assert {"heimdall locate", "Gauss-Newton"} <= found["locards"].keys()
    for figures in found["locards"].values():
        assert figures.keys() == FIGURES | {"p90_m"}
        assert figures["n"] == 4
        assert figures["median_m"] < 200
    assert "1 more lack a position" in page
    assert "`--dcf77 DIR` was not given" in page


def test_a_part_that_is_not_given_is_left_out(tmp_path):
    """Who downloaded one data set wants its figures."""
    locards_folder(tmp_path, n_messages=1)
    done = run(tmp_path, "--locards", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "f.json").read_text()).keys() == {"locards"}
    assert "`--powder DIR` was not given" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize("option", ["--powder", "--locards"])
def test_a_wrong_folder_is_one_line(tmp_path, option):
    """A wrong path is the most common mistake."""
    done = run(tmp_path, option, tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("accuracy_real: ")
    assert str(tmp_path) in line
