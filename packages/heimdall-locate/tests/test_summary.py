"""Positions as people read them."""

import re
from dataclasses import replace

import pytest
from heimdall_locate import Candidate, ReceiverResult, from_gaussians
from heimdall_locate.summary import locator, minutes_text, place_text, summary
from hypothesis import given
from hypothesis import strategies as st

AREA = ((4e6, 1e6), (1e6, 9e6))
candidates = st.builds(
    Candidate, st.just(1.0), st.floats(-90, 90), st.floats(-180, 180), st.just(AREA)
)


@given(candidates)
def test_the_locator_is_the_square_around_the_place(one):
    """Decoded by the letters' own meaning, its middle is at most half a square away."""
    code = locator(one)
    assert re.fullmatch("[A-R]{2}[0-9]{2}[a-x]{2}", code)
    east, north = (
        10 * step * (ord(code[n]) - ord("A")) + step * int(code[n + 2])
        + step / 24 * (ord(code[n + 4]) - ord("a") + 0.5)
        for n, step in ((0, 2.0), (1, 1.0))
    )  # fmt: skip
    assert abs(east - 180 - one.longitude_deg) <= 1 / 24 + 1e-9
    assert abs(north - 90 - one.latitude_deg) <= 1 / 48 + 1e-9


@given(st.floats(-180, 180))
def test_minutes_are_the_same_place(degrees):
    """Sixty minutes, or a minus before a side, would be another one."""
    whole, minutes, side = re.fullmatch(
        r"(\d+)° (\d+\.\d\d)' ([EW])", minutes_text(degrees, "EW")
    ).groups()
    assert float(minutes) < 60
    value = (int(whole) + float(minutes) / 60) * (-1 if side == "W" else 1)
    assert value == pytest.approx(degrees, abs=1 / 12_000 + 1e-9)


@pytest.mark.parametrize(
    ("latitude_deg", "longitude_deg", "code"),
    [(48.14666, 11.60833, "JN58td"), (-34.91, -56.21166, "GF15vc"), (38.92, -77.065, "FM18lw")],
)
def test_locators_of_the_textbook(latitude_deg, longitude_deg, code):
    """Munich, Montevideo and Washington, as in E. Tyson's article (QST 1, 1989)."""
    assert locator(Candidate(1.0, latitude_deg, longitude_deg, AREA)) == code


def test_a_summary_tells_all_candidates_and_receivers():
    """Two mirror images are two places, and a receiver that was left out says why."""
    position = replace(
        from_gaussians([Candidate(0.7, 50.0, 9.0, AREA), Candidate(0.3, 48.0, 9.0, AREA)]),
        receivers=(
            ReceiverResult("A", used=True, residual_us=-1.5, sigma_us=3.0, snr_db=20.0),
            ReceiverResult("Long name", used=False, reason="no clock"),
        ),
        propagation="ground wave",
        termination="two places",
    )
    told = summary(position)
    first = place_text(position.candidates[0])
    assert re.search(rf"^position +{re.escape(first)} with 70\s%$", told, re.MULTILINE)
    assert re.search(r"^68 % of it +\d", told, re.MULTILINE)
    alone = summary(replace(position, candidates=position.candidates[:1]))
    assert re.search(r"^68 % +\d", alone, re.MULTILINE)
    assert re.search(r"^or +48\.\d+, 9\.\d+ .* with 30\s%$", told, re.MULTILINE)
    assert re.search(r"^A +\S1\.5\sµs +\S0\.5\s\S +20\sdB$", told, re.MULTILINE)
    assert re.search(r"^Long name +not used: no clock$", told, re.MULTILINE)
