"""Figures as SVG: text stays text, and nothing else of the data gets in."""

from xml.etree import ElementTree

import pytest
from heimdall_evaluation.report import svg
from heimdall_features.names import shown
from heimdall_features.testing import hostile_names
from hypothesis import given, settings
from hypothesis import strategies as st

words = (st.text(st.characters(), min_size=1) | hostile_names()).filter(
    lambda text: shown(text).strip() == shown(text)
)


@given(words, words)
@settings(max_examples=30)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_text_is_escaped_and_not_read_as_tex(label, note):
    """Names of transmitters hold `<`, `&`, `$` and control characters, and come from strangers."""
    with svg.chart(2.0, (0.1, 0.1, 0.8, 0.8)) as (figure, axes):
        axes.text(0.5, 0.5, label, gid=svg.anchored(0.5, 0.5))
        drawn = svg.render(figure, "figure", note, notes={f"{svg.OUTLINED}@0.5000,0.5000": note})
    root = ElementTree.fromstring(drawn)
    (noted,) = [element for element in root.iter() if "data-at" in element.attrib]
    assert root.attrib["aria-label"] == shown(note)
    assert noted.find("title").text == shown(note)
    assert shown(label) in [element.text for element in noted.iter("text")]
    assert {element.tag for element in root.iter()} <= {
        *("svg", "g", "defs", "path", "use", "text", "title", "clipPath", "rect")
    }
