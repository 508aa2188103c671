"""Arrival times are measured as the chosen receivers need it, and only where there are clocks."""

from dataclasses import replace

import pytest
from heimdall_data import Catalogue, ObjectStore, Station
from heimdall_data.ingest.ingest import ingest
from heimdall_simulation import simulate_sessions
from heimdall_trainer.cli.ingest import SimulationFlags
from heimdall_trainer.connections import Connections
from heimdall_trainer.data import (
    arrival_config,
    choose_sessions,
    clocks_warning,
    load_training_data,
)
from heimdall_trainer.errors import TrainerError

LONDON, PARIS = Station("London", 51.5, -0.1), Station("Paris", 48.85, 2.35)


def test_two_receivers_are_too_few():
    """One time difference is a line on the map."""
    with pytest.raises(TrainerError, match=r"takes 3 receivers or more, and 2 are chosen \(London"):
        arrival_config([LONDON, PARIS], 48_000.0)


@pytest.mark.parametrize(
    ("sessions_by_clocks", "said"),
    [
        ({}, None),
        ({3: 5, 7: 5}, None),
        ({2: 4, 3: 4}, None),
        ({0: 2, 2: 3, 3: 4}, "4 of 9 sessions have the 3 receivers with a locked clock"),
    ],
)
def test_most_sessions_without_clocks_are_told_of(sessions_by_clocks, said):
    """A timing model of levels alone would surprise whoever trained it."""
    found = clocks_warning(sessions_by_clocks)
    assert found is said is None or said in found


def test_no_session_with_clocks_is_an_error():
    """There is nothing to learn timing from."""
    with pytest.raises(TrainerError, match="0 of 7 sessions have the 3 receivers"):
        clocks_warning({0: 3, 2: 4})


def test_numpy_files_have_no_clocks_to_train_on(connections, quick):
    """The demo's default recordings: one clear sentence instead of a model without timing."""
    with pytest.raises(TrainerError, match=r"0 of .* sessions .* NumPy files never do"):
        load_training_data(replace(quick, features="mel+timing"), connections)


def test_timing_is_asked_for_and_not_given_unasked(
    stack, s3_settings, database_url, quick, tmp_path
):
    """The same command with and without the flag, on recordings with clocks."""
    there = replace(
        Connections.to_stack(stack),
        state_dir=tmp_path,
        database_url=database_url,
        raw_iq_bucket=s3_settings.raw_iq_bucket,
    )
    scenario = SimulationFlags(recording_format="kiwi_wav").scenario()
    made = (session.new_session for session in simulate_sessions(6, 3, scenario))
    with Catalogue(database_url) as catalogue:
        ingest(catalogue, ObjectStore(s3_settings, s3_settings.raw_iq_bucket), made, progress=False)
    timing = choose_sessions(replace(quick, features="mel+timing"), there)
    usable, _ = timing.dataset.prepare(progress=False)
    assert timing.dataset.arrivals == arrival_config(timing.receivers, 48_000.0)
    assert sum(sample["arrivals"][:, 0].sum() for sample in usable) >= 2 * len(usable)
    assert clocks_warning(usable.sessions_by_clocks) is None
    assert "arrivals" not in choose_sessions(quick, there).dataset[0]
