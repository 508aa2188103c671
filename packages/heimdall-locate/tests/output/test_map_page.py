"""The map's page as text: what is in it, and that nothing breaks out of it."""

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from heimdall_features.names import composed, shown
from heimdall_features.testing import hostile_names
from heimdall_locate import Candidate, ReceiverResult, Site, from_gaussians, map_html
from heimdall_locate.map.heat import N_PIXELS, heat_pictures
from heimdall_locate.map.page import locator
from hypothesis import given, settings
from hypothesis import strategies as st


class Page(HTMLParser):
    """Elements, texts by tag, and data of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Remember the element."""
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        """Text that follows is of no element."""
        self.open.append(None)

    def handle_data(self, data):
        """Remember the text."""
        self.texts.append((self.open[-1] if self.open else None, data))

    def count(self, tag):
        """Elements of that name."""
        return sum(one == tag for one, _ in self.tags)


def data_of(page):
    """What the page's script draws."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


@settings(max_examples=25)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | hostile_names())
def test_any_name_stays_text(name):
    """A receiver's name comes from the network; it must not become part of the page."""
    position = from_gaussians([Candidate(1.0, 1.0, 2.0, ((1e6, 0.0), (0.0, 1e6)))])
    plain, named = (
        map_html(
            dataclasses.replace(
                position, receivers=(ReceiverResult(one, used=True, reason=one),), propagation=one
            ),
            [Site(one, 1.0, 2.1)],
        )
        for one in ("x", name)
    )
    assert [tag for tag, _ in Page(named).tags] == [tag for tag, _ in Page(plain).tags]
    assert data_of(named)["receivers"][0]["name"] == shown(composed(name))


def test_the_page_holds_everything_and_fetches_nothing(position, sites):
    """It is opened from a memory stick, offline."""
    page = Page(map_html(position, sites))
    assert not {"link", "img", "iframe", "base"} & {tag for tag, _ in page.tags}
    assert page.count("script") == 3
    assert not any("src" in attributes or "href" in attributes for _, attributes in page.tags)
    cells = [text for tag, text in page.texts if tag in ("th", "td", "b")]
    assert sites[-1].name in cells
    assert "no GNSS lock" in cells
    assert "G7UAK" in cells


def test_a_position_without_receivers_has_no_table_of_them():
    """A model file's answer may not say which receivers it used."""
    candidate = Candidate(1.0, 1.0, 2.0, ((1e6, 0.0), (0.0, 1e6)))
    page = Page(map_html(from_gaussians([candidate]), []))
    sections = {one["id"]: "hidden" in one for tag, one in page.tags if tag == "section"}
    assert sections == {"candidates": True, "receivers": True}


def test_buttons_and_the_map_have_names(position, sites):
    """A screen reader says them."""
    page = Page(map_html(position, sites))
    for tag, attributes in page.tags:
        if tag in ("button", "canvas"):
            assert attributes["aria-label"]
    canvas = next(attributes for tag, attributes in page.tags if tag == "canvas")
    assert "50.01" in canvas["aria-label"]


def test_the_page_is_small(position, sites):
    """It is sent by mail."""
    assert len(map_html(position, sites).encode()) < 1_000_000


@given(st.floats(-89.9, 89.9), st.floats(-179.9, 179.9))
def test_a_locator_is_a_square_around_the_place(latitude, longitude):
    """Its letters are degrees: two and a half minutes of latitude, five of longitude."""
    text = locator(latitude, longitude)
    values = [ord(letter) - ord("A0a"[k // 2]) for k, letter in enumerate(text)]
    west = -180 + 20 * values[0] + 2 * values[2] + values[4] / 12
    south = -90 + 10 * values[1] + values[3] + values[5] / 24
    assert west - 1e-9 <= longitude <= west + 1 / 12 + 1e-9
    assert south - 1e-9 <= latitude <= south + 1 / 24 + 1e-9


@pytest.mark.parametrize(
    ("place", "expected"),
    [((41.714775, -72.727260), "FN31pr"), ((48.14666, 11.60833), "JN58td"), ((90, 180), "RR99xx")],
)
def test_locators_of_known_places(place, expected):
    """The ARRL's station W1AW, Munich, and the last one of all."""
    assert locator(*place) == expected


@settings(max_examples=50)
@given(
    st.floats(-85, 85),
    st.floats(-180, 180),
    st.floats(10, 1e5),
    st.floats(0.1, 1),
    st.floats(-0.8, 0.8),
)
def test_heat_is_greatest_at_a_single_candidate(latitude, longitude, sigma, share, correlation):
    """The picture must lie where the candidate is, at any place and size."""
    covariance = correlation * share * sigma**2
    square = ((sigma**2, covariance), (covariance, (share * sigma) ** 2))
    ((*_, narrowest),) = heat_pictures(
        from_gaussians([Candidate(1.0, latitude, longitude, square)])
    )
    pixels = np.frombuffer(base64.b64decode(narrowest["pixels"]), np.uint8)
    pixels = pixels.reshape(N_PIXELS, N_PIXELS)
    row, column = np.unravel_index(pixels.argmax(), pixels.shape)
    (west, east), (south, north) = narrowest["extents"]
    assert west < 0 < east
    assert south < 0 < north
    expected = -west / (east - west), -south / (north - south)
    found = column / (N_PIXELS - 1), row / (N_PIXELS - 1)
    assert found == pytest.approx(expected, abs=0.08)
    assert pixels.max() > 245
    assert max(pixels[0].max(), pixels[:, 0].max()) < 80
