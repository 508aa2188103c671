"""Names and other text from outside: what is refused, and how it is shown."""

import json
from xml.etree import ElementTree
from xml.sax import saxutils

import pytest
from heimdall_features.names import is_printable, json_text, shown, shown_lines
from heimdall_features.testing import HOSTILE, hostile_names
from hypothesis import given
from hypothesis import strategies as st


@given(hostile_names())
def test_a_name_with_a_control_character_is_not_printable(name):
    """Control, bidirectional, zero-width, separators of lines, surrogates, noncharacters."""
    assert not is_printable(name)


@given(st.text(st.characters()))
def test_what_is_shown_is_printable_and_on_one_line(text):
    """A raw escape sequence clears a terminal; a raw line forges an entry of a log."""
    assert is_printable(shown(text))
    assert len(shown(text).splitlines()) <= 1
    assert shown(shown(text)) == shown(text)
    shown(text).encode("utf-8")
    ElementTree.fromstring(f"<a>{saxutils.escape(shown(text))}</a>")


@given(st.text(st.characters()))
def test_printable_text_is_shown_as_it_is(text):
    """Most names are ordinary, in any script, and must stay what operators know."""
    assert (shown(text) == text) == is_printable(text)


@pytest.mark.parametrize(
    "name", ["São Paulo", "Łódź 2", "東京", "65\xa0%", "مشهد", "हिन्दी", "📡", "e\u0301"]
)
def test_ordinary_names_are_printable(name):
    """Spaces of any width, marks and emoji are no control characters."""
    assert is_printable(name)


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("Tor\x1b[2Jino", r"Tor\x1b[2Jino"),
        ("a\r\nwarning: b", r"a\r\nwarning: b"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u200bb", r"a\u200bb"),
        ("a\udc80b", r"a\udc80b"),
        ("a\uffffb", r"a\uffffb"),
    ],
)
def test_a_control_character_is_shown_as_python_writes_it(name, seen):
    """So that names in quotes and names without look the same in messages."""
    assert shown(name) == seen


@given(st.lists(st.text(st.characters(exclude_characters="\n"))))
def test_lines_of_ours_stay_lines(lines):
    """A table of the run keeps its rows."""
    assert shown_lines("\n".join(lines)) == "\n".join(map(shown, lines))


@given(st.text(), st.none() | st.integers(0, 2))
def test_json_keeps_a_name_and_shows_no_control_character(name, indent):
    """Programs look a receiver up by its name; people open the file in a terminal."""
    text = json_text({"name": name}, indent=indent)
    assert json.loads(text) == {"name": name}
    assert all(map(is_printable, text.split("\n")))


def test_json_of_ordinary_names_is_readable():
    """Escapes in a city's name are hard to read."""
    assert json_text(["Malmö"]) == '["Malmö"]'


def test_the_alphabet_of_hostile_names_holds_every_kind():
    """The laws elsewhere are only as strong as this list."""
    assert {"\0", "\x1b", "\x07", "\r", "\n", "\x7f", "\x85", "\u2028", "\u202e", "\u2066"} <= {
        *HOSTILE
    }
