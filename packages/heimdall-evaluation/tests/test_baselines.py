"""The report's baselines: all of them, on the sessions that the model is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from heimdall_evaluation.baselines import level_baselines
from heimdall_evaluation.coverage import shares_inside
from heimdall_evaluation.dataset import RecordedSession
from heimdall_export.serving.metadata import Receiver
from heimdall_models import Region
from heimdall_models.baselines import LEVEL_BASELINES

RECEIVERS = (
    Receiver("Torino", 45.044, 7.672),
    Receiver("Genova", 44.395, 8.956),
    Receiver("Milano-Baggio", 45.478, 9.123),
)
REGION = Region(44.95, 8.2, 95_000.0)


@dataclass
class Levels:
    """A dataset whose features are a carrier in noise, fainter with distance."""

    sessions: tuple[RecordedSession, ...]
    arrivals = None

    def __len__(self):
        return len(self.sessions)

    def __getitem__(self, index):
        session = self.sessions[index]
        rng = np.random.default_rng(index)
        features = rng.normal(-120, 1, (3, 32, 8))
        for channel, receiver in enumerate(RECEIVERS):
            place = (receiver.latitude_deg, receiver.longitude_deg)
            away = np.hypot(*np.subtract(session.position_deg, place))
            features[channel, 14:18] = -60 - 30 * np.log10(0.1 + away) + rng.normal(0, 3)
        return {
            "features": features.astype(np.float32),
            "position_deg": np.array(session.position_deg),
            "present": np.ones(3, bool),
        }


def levels(n, seed):
    """Sessions at random places of the region."""
    places = np.random.default_rng(seed).uniform([44.35, 7.2], [45.55, 9.25], (n, 2))
    return Levels(
        tuple(
            RecordedSession(id=str(k), source_name=str(k), position_deg=tuple(p), recordings={})
            for k, p in enumerate(places)
        )
    )


@pytest.mark.filterwarnings("ignore:lbfgs")
def test_every_level_baseline_is_in_the_report():
    """A user must see when the network is not worth it, whichever simple method says so."""
    found = level_baselines(levels(60, 1), levels(12, 2), RECEIVERS, REGION)
    assert [baseline.name for baseline in found] == list(LEVEL_BASELINES)
    for baseline in found:
        assert baseline.error_m.shape == (12,)
        assert np.isfinite(baseline.error_m).all()
        assert (baseline.sigma_m > 0).all()
        assert (np.abs(baseline.correlation) < 1).all()
        assert baseline.explanation.endswith(".")
    prior, *others = (np.median(baseline.error_m) for baseline in found)
    assert min(others) < prior


def test_two_sessions_to_train_on_leave_the_report_without_baselines():
    """Nothing can be fitted to two places; the report is written all the same."""
    assert level_baselines(levels(2, 1), levels(12, 2), RECEIVERS, REGION) == ()


@pytest.mark.filterwarnings("ignore:lbfgs")
def test_ellipses_are_calibrated_on_the_validation_sessions_alone():
    """One factor a method on all ellipses; judged sessions have no say, and positions stay."""
    training, judged = levels(60, 1), levels(12, 2)
    plain = level_baselines(training, judged, RECEIVERS, REGION)
    held_out = levels(200, 3)
    calibrated = level_baselines(training, judged, RECEIVERS, REGION, held_out)
    alone = level_baselines(training, held_out, RECEIVERS, REGION, held_out)
    for before, after, there in zip(plain, calibrated, alone, strict=True):
        assert np.array_equal(before.position_deg, after.position_deg)
        wider = after.sigma_m / before.sigma_m
        assert wider == pytest.approx(np.full((12, 2), wider[0, 0]))
        assert f"{wider[0, 0]:.2f} times" in after.explanation
        low, high = shares_inside(there, np.array([s.position_deg for s in held_out.sessions]))
        assert f"they hold {100 * low:.0f} / {100 * high:.0f} %" in after.explanation
