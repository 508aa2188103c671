"""Names and other text from outside: what is refused, and how it is shown."""

import json
import unicodedata
from xml.etree import ElementTree
from xml.sax import saxutils

import pytest
from heimdall_features.names import composed, is_printable, json_text, shown, shown_lines, spellings
from heimdall_features.testing import HOSTILE, hostile_names
from hypothesis import given
from hypothesis import strategies as st


@given(hostile_names())
def test_a_name_with_a_control_character_is_not_printable(name):
    """Control, bidirectional, invisible, separators of lines, surrogates, noncharacters."""
    assert not is_printable(name)


any_text = st.text(
    st.characters() | st.sampled_from("a7 ^+\u0301\u0645\u06cc\u064e\u0915\u094d↔☀📡🏽" + HOSTILE)
)


@given(any_text)
def test_what_is_shown_is_printable_and_on_one_line(text):
    """A raw escape sequence clears a terminal; a raw line forges an entry of a log."""
    assert is_printable(shown(text))
    assert len(shown(text).splitlines()) <= 1
    assert shown(shown(text)) == shown(text)
    shown(text).encode("utf-8")
    ElementTree.fromstring(f"<a>{saxutils.escape(shown(text))}</a>")


@given(any_text)
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
    "name",
    [
        "می\u200cروم",
        "مِ\u200cی",
        "क्\u200dष",
        "क्\u200cष",
        "ශ්\u200dරී ලංකා",
        "র\u200d্যাব",
        "കൊച്ചിന്\u200d 2",
        "👩\u200d🚒",
        "👨🏽\u200d🚒",
        "🏳\ufe0f\u200d🌈",
        "🧔\u200d♂\ufe0f",
        "🙂\u200d↔\ufe0f",
        "☀\ufe0f",
        "1\ufe0f\u20e3",
        "🇮🇹",
    ],
)
def test_invisible_characters_are_printable_where_writing_needs_them(name):
    """Persian, Hindi, Sinhala, Bengali, Malayalam and emoji: stations have names in them."""
    assert is_printable(name)
    assert shown(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            f"Torino{each}"
            for each in "\u034f\u115f\u1160\u2065\u2800\u3164\uffa0\ufff8\U000e0020\U000e0100"
        ),
        "하\u3164나",
        "ក\u17b4",
        "ᠠ\u180b",
        "葛\U000e0100",
        "a\u200db",
        "東\u200c京",
        "\u200dम",
        "می\u200c",
        "می\u200c\u200cخ",
        "م\u200c\u034f",
        "क्\u200d\u200dष",
        "1\u200d📡",
        "📡\u200d",
        "📡\u200d\u2800",
        "a\ufe0f",
        "a\ufe0f\u20e3",
        "1\ufe0f",
        "+\ufe0f",
        "\ufe0f",
        "☀\ufe0f\ufe0f",
        "☀\ufe0e",
        "a\ufe0f\u200d📡",
    ],
)
def test_invisible_characters_are_refused_where_they_change_nothing(name):
    """Two stations would have names that no one can tell apart."""
    assert not is_printable(name)
    assert is_printable(shown(name))


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


@given(any_text, st.sampled_from(["NFC", "NFD"]))
def test_spellings_that_look_the_same_are_one_name(text, form):
    """A Mac writes them decomposed, a keyboard composed: "Zürich" must not be two stations."""
    spelt = unicodedata.normalize(form, text)
    assert composed(spelt) == composed(text) == composed(composed(text))
    assert spelt in spellings(text)
    assert spellings(text)[0] == composed(text)
    assert not is_printable(text) or is_printable(composed(text))


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
