"""Ranges from the plane to receivers, against PROJ."""

import numpy as np
import pytest
import torch
from heimdall_models import ModelError, Region
from heimdall_models.timing.receivers import ReceiverRanges, ReceiverSite
from hypothesis import given
from hypothesis import strategies as st
from timing_cases import REGION, SITES, earth_centred_m


@given(
    st.floats(-60, 60),
    st.floats(-180, 179),
    st.floats(1e4, 3e5),
    st.floats(-1, 1),
    st.floats(-1, 1),
)
def test_ranges_are_straight_lines_anywhere_on_earth(latitude, longitude, scale_m, east, north):
    """A plane's own distances are 40 m off at 150 km; its north leans away from the centre."""
    region = Region(latitude, longitude, scale_m)
    place = region.to_degrees(np.array([[0.5, -0.4]]))[0]
    site = ReceiverSite("A", float(place[0]), float(place[1]), 800.0)
    point = region.to_degrees(np.array([[east, north]]))[0]
    found, _ = ReceiverRanges(region, [site])(torch.tensor([[east, north]], dtype=torch.float32))
    apart = earth_centred_m(point[0], point[1], 0.0) - earth_centred_m(
        site.latitude_deg, site.longitude_deg, site.altitude_m
    )
    # In float32: 2 cm in 300 km.
    assert found.item() * scale_m == pytest.approx(np.linalg.norm(apart), abs=0.2)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=3))
def test_directions_are_the_ranges_slopes(places):
    """The solver's steps follow them; autograd is the oracle."""
    ranges = ReceiverRanges(REGION, SITES).double()
    at = torch.tensor(places, dtype=torch.float64, requires_grad=True)
    distance, direction = ranges(at)
    slopes = torch.stack(
        [torch.autograd.grad(distance[:, n].sum(), at, retain_graph=True)[0] for n in range(7)],
        dim=1,
    )
    # That the ground falls away as one moves is left out of the steps.
    near = distance < 0.05
    assert ((slopes - direction).abs().amax(dim=-1)[~near] < 0.02).all()


def test_a_transmitter_at_a_receiver_has_a_finite_slope():
    """Operators test with a handheld beside the antenna."""
    site = ReceiverSite("A", 44.95, 8.2, 0.0)
    at = torch.zeros(1, 2, requires_grad=True)
    distance, direction = ReceiverRanges(REGION, [site])(at)
    distance.sum().backward()
    assert torch.isfinite(at.grad).all()
    assert torch.isfinite(direction).all()


@given(
    st.tuples(st.floats(90.001), st.floats(-180, 180), st.just(0.0))
    | st.tuples(st.floats(-90, 90), st.floats(180.001), st.just(0.0))
    | st.tuples(st.floats(-90, 90), st.floats(-180, 180), st.floats(9001))
)
def test_a_receiver_nowhere_on_earth_is_refused(place):
    """Latitude and longitude are soon swapped, and feet taken for metres."""
    with pytest.raises(ModelError, match="receiver 'A'"):
        ReceiverSite("A", *place)


def test_a_receiver_on_another_continent_is_refused():
    """One plane does not reach so far."""
    with pytest.raises(ModelError, match="one plane"):
        ReceiverRanges(REGION, [ReceiverSite("Tokyo", 35.7, 139.7)])
