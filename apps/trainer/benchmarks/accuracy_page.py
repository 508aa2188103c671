"""docs/accuracy.md and its pictures."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from accuracy_methods import SITES, region_of
from accuracy_sessions import CONDITIONS
from matplotlib.patches import Ellipse

DOCS = Path(__file__).parents[3] / "docs"
LEAST_SQUARES = "time differences, least squares"
TIMED = ("network, mel+timing", "heimdall locate --model")
SHOWN = ("network, mel", LEAST_SQUARES, *TIMED)
MOST_OFF = 4
"""Points of coverage that an honest method may be off."""
MOST_OFF_MIXTURE = 2
"""The same of the regions of a mixture."""
LEVELS = np.arange(1, 20) / 20
N_MAPPED = 60


def write_page(options, n_learn, seconds, tests, answers, results):
    """Write the page and its two pictures."""
    folder = options.page or DOCS
    (folder / "accuracy").mkdir(exist_ok=True, parents=True)
    _reliability(tests, answers, folder / "accuracy")
    _map(tests["clean"], answers, folder / "accuracy")
    tables = "\n\n".join(_table(condition, results) for condition in CONDITIONS)
    text = PAGE.format(
        train=options.train,
        test=options.test,
        backbone=options.backbone,
        epochs=options.epochs,
        rate=options.learning_rate,
        learn=n_learn,
        made=_made(seconds),
        known_68=100 * (0.68 * 0.32 / options.test) ** 0.5,
        known_95=100 * (0.95 * 0.05 / options.test) ** 0.5,
        levels=seconds["spectrograms"] / 60,
        times=seconds["times"] / 60,
        tables=tables,
        targets=_targets(results),
    )
    (folder / "accuracy.md").write_text(text)
    print(text)


def _made(seconds):
    minutes, simulated = seconds["all"] / 60, seconds["simulation"] / 60
    if simulated < 1:
        return f"in {minutes:.0f} minutes with sessions that `--keep` kept from an earlier run"
    return f"in {minutes:.0f} minutes, {simulated:.0f} of them simulating"


def _table(condition, results):
    head = (
        f"### {condition[0].upper()}{condition[1:]}\n\n"
        "| method | median | 95 % | over bound | inside 68 / 95 | NLL | in region 68 / 95 | "
        "NLL mixture | sharpness |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {name} | {_length(r['error_m_median'])} | {_length(r['error_m_p95'])} | "
        f"{r['over_bound']:.2f} | {100 * r['coverage_68']:.1f} / {100 * r['coverage_95']:.1f} | "
        f"{r['nll']:.2f} | {100 * r['coverage_hdr_68']:.1f} / {100 * r['coverage_hdr_95']:.1f} | "
        f"{r['nll_mixture']:.2f} | {r['sharpness']:.2f} |"
        for (under, name), r in results.items()
        if under == condition
    ]
    return "\n".join([head, *rows])


def _length(metres):
    return f"{metres:.0f} m" if metres < 2000 else f"{metres / 1000:.1f} km"


def _targets(results):
    """Each target of the project with what was reached."""
    clean = {name: r for (under, name), r in results.items() if under == "clean"}
    mel = clean["network, mel"]
    levels = [clean[name] for name in clean if name not in SHOWN]
    lines = [
        _line(
            f"spectrograms alone, {what}: better than every level baseline",
            f"{mel[key] * scale:.2f}, the best of them {min(r[key] for r in levels) * scale:.2f}",
            mel[key] < min(r[key] for r in levels),
        )
        for what, key, scale in (
            ("median, km", "error_m_median", 1e-3),
            ("95 %, km", "error_m_p95", 1e-3),
            ("NLL", "nll", 1.0),
        )
    ]
    gain = mel["nll"] - mel["nll_mixture"]
    off = [100 * abs(mel[f"coverage_hdr_{n}"] - n / 100) for n in (68, 95)]
    lines += [
        _line(
            "spectrograms alone, clean: mixture's NLL 1 nat below the ellipse's",
            f"{mel['nll_mixture']:.2f} against {mel['nll']:.2f}",
            gain >= 1,
        ),
        _line(
            f"spectrograms alone, clean: in regions 68 / 95 within {MOST_OFF_MIXTURE} points",
            f"{off[0]:.1f} and {off[1]:.1f} off",
            max(off) <= MOST_OFF_MIXTURE,
        ),
    ]
    for condition in CONDITIONS:
        plain = results[condition, LEAST_SQUARES]
        for method in TIMED:
            ours = results[condition, method]
            for what, key in (("median", "error_m_median"), ("95 %", "error_m_p95")):
                lines.append(
                    _line(
                        f"{method}, {condition}, {what}: no worse than least squares",
                        f"{_length(ours[key])} against {_length(plain[key])}",
                        ours[key] <= plain[key],
                    )
                )
            off = [100 * abs(ours[f"coverage_{n}"] - n / 100) for n in (68, 95)]
            lines.append(
                _line(
                    f"{method}, {condition}: inside 68 / 95 within {MOST_OFF} points",
                    f"{off[0]:.1f} and {off[1]:.1f} off",
                    max(off) <= MOST_OFF,
                )
            )
    detour = "1 us non-line-of-sight"
    plain = results[detour, LEAST_SQUARES]
    for method in TIMED:
        ours = results[detour, method]
        gain = 1 - ours["error_m_median"] / plain["error_m_median"]
        ratio = clean[method]["over_bound"]
        lines += [
            _line(
                f"{method}, non-line-of-sight: 15 % better than least squares",
                f"{gain:.0%}",
                gain >= 0.15,
            ),
            _line(f"{method}, clean: median over bound at most 0.80", f"{ratio:.3f}", ratio <= 0.8),
            _line(
                f"{method}, non-line-of-sight: at most 1.5 x the bound without it",
                f"{ours['over_bound']:.2f} (least squares {plain['over_bound']:.2f})",
                ours["over_bound"] <= 1.5,
            ),
        ]
    return "\n".join(lines)


def _line(target, reached, holds):
    return f"| {target} | {reached} | {'yes' if holds else '**no**'} |"


def _reliability(tests, answers, folder):
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(12, 3.4), sharey=True, layout="tight")
    for axis, name in zip(axes, SHOWN, strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for condition, sessions in tests.items():
            region = answers[condition, name].smallest_region(sessions.truth_deg)
            axis.plot(LEVELS, [(region <= p).mean() for p in LEVELS], label=condition)
        axis.set_title(name, fontsize=10)
        axis.set(xlabel="region's nominal share", aspect="equal")
    axes[0].set_ylabel("share of truths inside")
    axes[-1].legend(fontsize=7)
    figure.savefig(folder / "reliability.svg", metadata={"Date": None})
    plt.close(figure)


def _map(sessions, answers, folder):
    region = region_of(sessions)
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="tight")
    for axis, name in zip(axes, (SHOWN[0], TIMED[1]), strict=True):
        _draw(axis, region, sessions.truth_deg, answers["clean", name])
        sites = region.to_plane([(s.latitude_deg, s.longitude_deg) for s in SITES])
        axis.plot(*(sites.T * region.scale_m / 1e3), "^", color="black", markersize=5)
        axis.set(title=name, xlabel="east, km", ylabel="north, km", aspect="equal")
    figure.savefig(folder / "map.svg", metadata={"Date": None})
    plt.close(figure)


def _draw(axis, region, truth_deg, answer):
    """Errors as lines, 95 % ellipses, truths as dots, of some sessions."""
    places = [
        region.to_plane(p[:N_MAPPED]) * region.scale_m / 1e3
        for p in (truth_deg, answer.position_deg)
    ]
    for truth, place, sigma, tilt in zip(
        *places, answer.sigma_m[:N_MAPPED] / 1e3, answer.correlation[:N_MAPPED], strict=True
    ):
        cross = tilt * sigma.prod()
        values, vectors = np.linalg.eigh([[sigma[0] ** 2, cross], [cross, sigma[1] ** 2]])
        width, height = 2 * np.sqrt(values * -2 * np.log(0.05))
        angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
        axis.add_patch(
            Ellipse(place, width, height, angle=angle, fill=False, color="C0", alpha=0.4)
        )
        axis.plot(*zip(truth, place, strict=True), color="C3", linewidth=0.8)
    axis.plot(*places[0].T, ".", color="C3", markersize=3)


PAGE = """# Accuracy

How accurate each method is, and how honest its ellipses are, for those who choose one.
Everything below is the output of `nox -s accuracy -- --train {train} --test {test}`, made {made},
with fixed seeds.

- **Data**: {train} simulated sessions of seed 1, {learn} to learn from and the rest to calibrate
  and to choose the epoch; {test} of seed 2, on sites of their own, to evaluate under each of five
  conditions. Seven receivers, 0.7 s at 48 kHz, 3 dB of fading, clocks good to 0.1 us.
- **Training** is that of `heimdall train --features mel+timing --tilted --n_components 5
  --backbone {backbone} --epochs {epochs} --batch_size 64 --learning_rate {rate:g}`,
  with its arrival times (`heimdall_trainer.data.arrival_config`). It sees only clean sessions; the
  network of times disturbs them itself (`TimingNuisances`). {levels:.1f} minutes for
  spectrograms, {times:.1f} for times.
- **`heimdall locate --model`** is `heimdall_locate.locate` on the same arrival times, with the
  answer of "network, mel" as its prior and nothing learned about times. Its density and its regions
  are those of its posterior, whatever their shape.
- **Precision**: a share of {test} sessions is known to {known_68:.1f} points at 68 % and to
  {known_95:.1f} at 95 %, one standard deviation.

Columns and conditions:

- **over bound**: median error divided by the median root of the trace of the Cramér-Rao bound of
  time differences, without detours (`heimdall_simulation.cramer_rao`). An efficient estimator
  scores about 0.77 on this geometry.
- **inside**: share of truths inside the 68 % and the 95 % ellipse; for `heimdall locate --model`,
  inside the smallest region.
- **NLL**: mean negative log-density of the truth in nats, positions in kilometres.
- **in region**, **NLL mixture**: the same of the smallest regions and of the density of all the
  Gaussians of an answer (`--n_components`); of the one ellipse where there is no more.
- **sharpness**: median of the claimed root trace divided by the bound's. It exposes ellipses that
  are honest only by being huge.
- **1 us non-line-of-sight**: one path in five has a detour, exponentially distributed, 1 us in the
  mean.
- **SNR below 10 dB**: transmitters of 6 to 320 mW; half of all receptions are below 0 dB.

{tables}

![Share of truths inside regions of each nominal share](accuracy/reliability.svg)

![Sixty clean sessions: truths, errors and 95 % ellipses](accuracy/map.svg)

## Targets

| target | reached | met |
|---|---|---|
{targets}

How the methods do on measurements of others is in [Accuracy on real data](accuracy-real.md).
"""
