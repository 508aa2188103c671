"""docs/accuracy-real.md."""

from __future__ import annotations

from accuracy_judged import LEVELS, cell

HEADINGS = {"median_m": "median", "p90_m": "90 %", "p95_m": "95 %"}


def write_page(path, powder, locards, dcf77):
    """Write the page and return its text; a part that is None is said to be left out."""
    text = PAGE.format(
        powder=_powder(powder) if powder else LEFT_OUT.format("--powder DIR"),
        locards=_locards(locards) if locards else LEFT_OUT.format("--locards DIR"),
        dcf77=_dcf77(dcf77) if dcf77 else LEFT_OUT.format("--dcf77 DIR"),
    )
    path.write_text(text, encoding="utf-8")
    return text


def _powder(found):
    tables = [
        f"### Part `{part}`: {len(found.blocks[part])} transmissions in "
        f"{len(set(found.blocks[part]))} squares\n\n"
        + _table(methods, found.blocks[part], ("median_m", "p95_m"))
        for part, methods in found.methods.items()
    ]
    rms_db, most_db = found.level_error_db
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in found.seconds.items())
    return POWDER.format(
        n_train=found.n_train,
        n_known=found.n_known,
        epochs=found.epochs,
        n_receivers=found.n_receivers,
        rms=rms_db,
        most=most_db,
        minutes=sum(found.seconds.values()) / 60,
        stages=stages,
        tables="\n\n".join(tables),
    )


def _locards(found):
    return LOCARDS.format(
        n=len(found.blocks),
        left=found.n_read - len(found.blocks),
        aircraft=len(set(found.blocks)),
        minutes=found.seconds / 60,
        table=_table(found.methods, found.blocks, ("median_m", "p90_m", "p95_m")),
    )


def _table(methods, blocks, distances):
    inside = " / ".join(map(str, LEVELS))
    titles = ["method", *(HEADINGS[name] for name in distances), "NLL", f"inside {inside}, %"]
    rows = []
    for name, judged in methods.items():
        found = judged.intervals(blocks, *distances)
        shares = [cell(found[f"inside_{p}"], scale=100) for p in LEVELS]
        rows.append(
            [
                name,
                *(cell(found[distance], unit=" m") for distance in distances),
                cell(found["nll_per_m2"], digits=1),
                " / ".join(shares),
            ]
        )
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _metres(length):
    return f"{length:.0f} m" if length < 2000 else f"{length / 1000:.1f} km"


def _dcf77(found):
    heard = ", ".join(
        f"{name} {row[1]:+.2f} +- {row[2]:.2f} us (misfit {row[4]:.1f} dB)"
        for name, row in zip(found.names, found.rows, strict=True)
    )
    rows = [
        f"| {name} | {_metres(each.error_m)} | {_metres(each.sigma_m[0])} x "
        f"{_metres(each.sigma_m[1])} | {100 * each.inside:.1f} % |"
        for name, each in found.found.items()
    ]
    return DCF77.format(heard=heard, rows="\n".join(rows))


LEFT_OUT = "Left out when this page was made: `{}` was not given, or is not there."

PAGE = """# Accuracy on real data

How accurate and how honest each method is on measurements that others made and published, for
those who wonder what the figures on simulated sessions ([Accuracy](accuracy.md)) are worth
outside. Everything below is the output of one command, with fixed seeds:

```
nox -s accuracy_real -- --powder DIR --locards DIR --json FILE
```

DIR are folders in the formats that `heimdall_data.public` reads
([heimdall-data](../packages/heimdall-data/README.md#public-data-sets)). FILE gets the figures
without intervals.

- **median**, **90 %**, **95 %**: quantiles of the distance from the answer to the truth.
- **NLL**: mean negative log-density of the truth in nats, per square metre. Of two methods, the
  one with the smaller one is better in all at once: near, and honest about how near.
- **inside**: percent of truths inside the smallest regions of 68, 90 and 95 %.
- **In parentheses**: the 95 % interval from resampling whole blocks, because neighbours in time
  and place are not independent; see each data set for its blocks. Intervals say how much chance of
  *these* blocks there is, and nothing of other seasons or cities.

## Levels: POWDER FRS

{powder}

## Times of arrival: LocaRDS

{locards}

## Times of arrival: DCF77 at three KiwiSDR receivers

{dcf77}

## What is not known

- **Other seasons.** Gains of POWDER's receivers change between months. One further season is here,
  and was looked at while the level model's idea of other seasons was made; what the model believes
  of its own is found on `train` alone. The data set's other published parts were not looked at.
- **Whether others do better.** There are no published baselines for these parts. Given with the
  data, for the whole `random_test`: a median of 49 m for five nearest neighbours, and 15.0 nats
  for always answering the mean position. Given for LocaRDS: half within 51 m and 90 % within 239 m
  for Gauss-Newton with the altitude given.
- **What recordings would add.** POWDER has no IQ: a network can learn nothing from it but levels.
  Nothing here shows whether it learns more from real spectrograms.
- **Places apart from training.** In `random_test`, most transmissions have others of `train`
  seconds away on the same track, so that it tells how well places are recognised that were visited
  before.
- **Automatic gain.** KiwiSDR recordings were made with it, so that there are no real IQ levels to
  compare.
- **Where aircraft were.** LocaRDS's truths are their own reports, up to 0.6 s old, and up to 140 m
  behind.
"""

POWDER = """Hand-held transmitters of 1 W at 462.7 MHz, walked, cycled and driven over a campus 2
km across, and the power that fixed receivers measured, in dB, each with an unknown offset. Source:
repository
[mhrafi66/wireless_localization_frs_uofu](https://github.com/mhrafi66/wireless_localization_frs_uofu),
commit 44ff592, MIT.

- **Recordings**: none are published. Each receiver gets IQ whose power is the reading: a signal of
  constant envelope in noise 20 dB below the faintest reading of the data set, 2,079 samples at
  12.5 kHz. A receiver without a reading has no recording. Levels that Heimdall reads from the IQ
  differ from the readings by {rms:.2f} dB (root mean square; 95 % by less than {most:.2f} dB),
  since it subtracts what it takes for noise.
- **Training**: {n_train} of {n_known} transmissions of part `train`, by the pipeline of
  `heimdall train --features mel --tilted --n_components 5 --backbone convnext_atto
  --epochs {epochs} --batch_size 64 --lr 0.0003 --split_by session --validation_split 0.15
  --test_split 0.05 --n_receivers {n_receivers}`: all receivers that heard anything in it. The
  method `model` is the exported file, asked for the other parts by `Predictor`; baselines are
  fitted to the same transmissions, and their ellipses calibrated on the same validation part.
  Receivers that the model does not know are left out for all.
- **Blocks**: squares of 200 m.
- **Time**: {minutes:.0f} minutes ({stages}).

{tables}"""

LOCARDS = """Messages of aircraft at 1090 MHz, each received by a few of many ground stations with
GPS clocks. The altitude is taken as given, and nothing is trained. Source: LocaRDS, M. Schaefer
and others, [doi 10.3390/s21165516](https://doi.org/10.3390/s21165516), CC BY-SA 4.0; selection of
the repository [lschoe/mpyc](https://github.com/lschoe/mpyc), commit 06d24ae.

- **{n} messages** of {aircraft} aircraft, all `set_*.csv` ({left} more lack a position, an
  altitude or a fourth receiver of known place), located in {minutes:.0f} minutes.
- **heimdall locate** is `heimdall_locate.locate` with `altitude_m` and `frequency_hz=1090e6`. Its
  density and smallest regions are those of its posterior; "ellipses" are what `position.json` has.
- **Gauss-Newton** solves for position and time of emission, every receiver alike. Its ellipses
  come from its residuals.
- **Blocks**: aircraft.

{table}"""

DCF77 = """One transmitter, 29 s, three receivers 490 to 1,000 km apart. Levels are not comparable
(automatic gain), so only times are used. With three receivers nothing is left over to detect a bad
clock or a detour, so the ellipse shows what training, or the priors of `heimdall locate`, expect
of them. Nothing was tuned to this recording. Source: repository
[hcab14/TDoA](https://github.com/hcab14/TDoA), commit 2bb9dc2, GPL-3.0.

Arrivals: {heard}.

| method | error | claimed sigma east x north | smallest region that holds the truth |
|---|---|---|---|
{rows}"""
