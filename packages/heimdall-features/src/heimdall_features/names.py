"""Text from outside: which characters a name may have, and how any text is shown.

A control character in a name moves a terminal's cursor, forges a line of a log or cannot be in XML;
a bidirectional control reorders what stands beside it; a zero-width character makes two names that
look the same. New names with such a character are refused. Names that are there already stay what
they are, since other systems look them up, and are escaped wherever they are shown.

Sources: The Unicode Standard, version 15.0, section 4.5, "General Category", and section 23.7,
"Noncharacters"; T. Bray et al., "Extensible Markup Language (XML) 1.0", fifth edition, section 2.2.
"""

import json
import unicodedata

_CONTROLS = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""General categories: control, format (bidirectional and zero-width among them), lone surrogate,
line separator, paragraph separator."""


def is_printable(text: str) -> bool:
    """Return True if every character can be shown as it is: the text is one line for its reader.

    Private and unassigned characters count as printable: newer versions of Unicode assign some.
    """
    return text.isprintable() or not any(map(_is_control, text))


def shown(text: str) -> str:
    r"""The text on one line, with what `is_printable` refuses escaped as in Python: `a\x1bb`."""
    if text.isprintable():
        return text
    return "".join(_escaped(each) if _is_control(each) else each for each in text)


def shown_lines(text: str) -> str:
    """`shown` of each line of a text of our own; names in it must not bring lines of theirs."""
    return "\n".join(map(shown, text.split("\n")))


def json_text(value: object, *, indent: int | None = None) -> str:
    """JSON for programs and people: names are what they were, and none shows a control character.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    if all(map(is_printable, text.split("\n"))):
        return text
    return json.dumps(value, allow_nan=False, indent=indent)


def _is_control(character: str) -> bool:
    code = ord(character)
    is_noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return is_noncharacter or unicodedata.category(character) in _CONTROLS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
