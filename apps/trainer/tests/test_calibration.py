"""Delays of receivers as the network of times takes them."""

import pytest
from heimdall_data.catalogue.session import Station
from heimdall_locate import Calibration, ReceiverDelay
from heimdall_trainer.calibration import delays_of_channels
from hypothesis import given
from hypothesis import strategies as st

seconds = st.floats(1e-9, 1e-4)
delays = st.lists(
    st.builds(
        ReceiverDelay,
        name=st.text(min_size=1),
        delay_s=st.floats(-1e-4, 1e-4),
        delay_sigma_s=seconds,
        spread_s=seconds,
        n_sessions=st.just(5),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda one: one.name,
)


def stations(*names):
    """Channels of these receivers; where they stand does not matter."""
    return [Station(name, 45.0, 7.0) for name in names]


@given(delays, st.randoms(use_true_random=False))
def test_delays_follow_the_order_of_the_channels(known, order):
    """A delay that is given to its neighbour's channel makes two receivers wrong."""
    calibration = Calibration(tuple(known), 5)
    order.shuffle(known)
    delays_s, _ = delays_of_channels(calibration, stations(*(one.name for one in known)))
    assert delays_s == [one.delay_s for one in known]


@given(delays)
def test_the_networks_usual_spread_is_not_counted_twice(known):
    """The network of times learns what most receivers do; half of them must add nothing."""
    names = [one.name for one in known]
    _, spreads_s = delays_of_channels(Calibration(tuple(known), 5), stations(*names))
    beyond = [
        spread_s > one.delay_sigma_s * (1 + 1e-9)
        for one, spread_s in zip(known, spreads_s, strict=True)
    ]
    assert sum(beyond) <= len(known) / 2
    assert min(s / one.delay_sigma_s for one, s in zip(known, spreads_s, strict=True)) >= 1


def test_a_receiver_that_varies_more_than_others_is_trusted_less():
    """Worked by hand: 3, 3 and 5 us leave 4 us beyond the usual; a stranger has no delay."""
    known = [
        ReceiverDelay(
            name=name, delay_s=delay_s, delay_sigma_s=3e-6, spread_s=spread_s, n_sessions=5
        )
        for name, delay_s, spread_s in (("a", 1e-6, 3e-6), ("b", -1e-6, 3e-6), ("c", 2e-6, 5e-6))
    ]
    delays_s, spreads_s = delays_of_channels(
        Calibration(tuple(known), 5), stations("c", "new", "a", "b")
    )
    assert delays_s == [2e-6, 0.0, 1e-6, -1e-6]
    assert spreads_s == pytest.approx([5e-6, 0.0, 3e-6, 3e-6])
