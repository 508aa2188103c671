"""Which stations become channels."""

import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from heimdall_data.catalogue.session import Measurement, Session
from heimdall_data.errors import DataError
from heimdall_data.receivers import choose_receivers
from hypothesis import given
from hypothesis import strategies as st


def session(number, stations, position=(45.0, 7.0)):
    """A session that these stations recorded."""
    measurements = tuple(
        Measurement(
            station=name, station_deg=position, bucket="b", key="k", format=None, sample_rate_hz=1.0
        )
        for name in stations
    )
    return Session(
        id=str(number),
        session_name="",
        source_id="s",
        source_name="s",
        position_deg=(45.0, 7.0),
        start=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number),
        measurements=measurements,
    )


SESSIONS = [session(0, "AB"), session(1, "BC"), session(2, "BCD", (46.0, 8.0)), session(3, "A")]


def test_a_receiver_is_named_in_either_spelling():
    """What is stored may come from a Mac's file, and what is typed from a keyboard."""
    stored, typed = (unicodedata.normalize(form, "Zürich") for form in ("NFD", "NFC"))
    for name in (stored, typed):
        (station,) = choose_receivers([session(0, [stored])], 1, [name])
        assert station.name == typed


@given(st.permutations(SESSIONS))
def test_the_choice_depends_on_no_order(sessions):
    """Channel order is stored with the model; a re-run of the query must not change it."""
    assert [s.name for s in choose_receivers(sessions, 3)] == ["B", "A", "C"]


@given(st.permutations("ABCD"), st.integers(1, 4))
def test_named_receivers_keep_their_order_and_latest_place(names, n):
    """Whoever names them has a model to continue; a station that moved is where it is now."""
    chosen = choose_receivers(SESSIONS, n, names[:n])
    assert [s.name for s in chosen] == names[:n]
    moved = {s.name: s.position_deg for s in choose_receivers(SESSIONS, 4)}
    assert moved == {"A": (45.0, 7.0), "B": (46.0, 8.0), "C": (46.0, 8.0), "D": (46.0, 8.0)}
    assert all(s.position_deg == moved[s.name] for s in chosen)


@pytest.mark.parametrize(
    ("n", "names", "message"),
    [
        (5, None, r"asked for: 5; .*: 4 \(B, A, C, D\); set --n_receivers"),
        (0, None, "asked for: 0;"),
        (1, ["Torino"], "'Torino'; there are B, A"),
        (1, ["AA"], r"'AA'; did you mean 'A'\?"),
        (2, ["A", "A"], r"\['A', 'A'\]"),
        (3, ["A", "B"], "2 .* and 3 asked for"),
    ],
)
def test_an_impossible_choice_says_what_there_is(n, names, message):
    """A misspelt station must not become an always empty channel."""
    with pytest.raises(DataError, match=message):
        choose_receivers(SESSIONS, n, names)


def test_without_a_recording_no_number_of_receivers_is_advised():
    """Advice such as "set --n_receivers to 1..0" helps nobody."""
    with pytest.raises(DataError, match="no session has a recording of a station with a position"):
        choose_receivers([], 3)
