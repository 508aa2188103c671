"""Text from outside: which characters a name may have, and how any text is shown.

A control character in a name moves a terminal's cursor, forges a line of a log or cannot be in XML;
a bidirectional control reorders what stands beside it; an invisible character makes two names that
look the same. New names with such a character are refused. Names that are there already stay what
they are, since other systems look them up, and are escaped wherever they are shown.

Two spellings of a name look the same: "ü" as one character, and as a "u" and a mark, which is how
macOS writes it into the names of files. Names are composed, in Unicode's normal form C, where they
come in, so that names that look the same are the same text.

Invisible is what Unicode lets a font ignore, and the blank of Braille. Three such characters are
part of ordinary writing, and allowed where they change what is seen: the joiner and the non-joiner
beside a virama (Hindi, Sinhala) or an Arabic letter (Persian), and the joiner and the selector of
the coloured form in emoji. Flags of regions, such as Scotland's, are spelt invisibly and refused.

Sources: The Unicode Standard, version 15.0, section 4.5, "General Category", section 23.2, "Layout
Controls", and section 23.7, "Noncharacters"; its Character Database, `DerivedCoreProperties.txt`,
`Default_Ignorable_Code_Point`; Unicode Technical Standard 51, "Unicode Emoji", section 1.4.
Unicode Standard Annex 15, "Unicode Normalization Forms".
RFC 5892, appendices A.1 and A.2, has the rule for joiners, here without the shapes of letters.
T. Bray et al., "Extensible Markup Language (XML) 1.0", fifth edition, section 2.2.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTROLS = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""General categories: control, format (bidirectional and zero-width among them), lone surrogate,
line separator, paragraph separator."""
_INVISIBLE = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    r"\U000e0000-\U000e0fff]"
)
"""Default_Ignorable_Code_Point without most of the format controls, and the blank of Braille."""
_NON_JOINER, _JOINER, _COLOURED, _KEYCAP = "\u200c\u200d\ufe0f\u20e3"
_VIRAMA = 9
"""Canonical combining class of the signs that take a consonant's vowel away."""


def composed(name: str) -> str:
    """The name as it is stored and compared: in normal form C."""
    return unicodedata.normalize("NFC", name)


def spellings(name: str) -> list[str]:
    """The name composed, decomposed and as it is, to look it up where others wrote it."""
    return list(dict.fromkeys([composed(name), unicodedata.normalize("NFD", name), name]))


def is_printable(text: str) -> bool:
    """Return True if every character can be shown as it is: the text is one line for its reader.

    Private and unassigned characters count as printable: newer versions of Unicode assign some.
    """
    return _is_plain(text) or not any(_refused(text))


def shown(text: str) -> str:
    r"""The text on one line, with what `is_printable` refuses escaped as in Python: `a\x1bb`."""
    if _is_plain(text):
        return text
    pairs = zip(text, _refused(text), strict=True)
    return "".join(_escaped(each) if refused else each for each, refused in pairs)


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


def _is_plain(text: str) -> bool:
    return text.isprintable() and not _INVISIBLE.search(text)


def _refused(text: str) -> Iterator[bool]:
    """Whether each character is refused where it stands.

    Only visible neighbours make one allowed, which are never escaped: so it stays allowed in what
    `shown` returns.
    """
    for first, before, character, after in zip(
        f"  {text}", f" {text}", text, f"{text[1:]} ", strict=False
    ):
        if _category(character) not in _CONTROLS:
            yield False
        elif character == _COLOURED:
            yield not (_is_emoji(before) or (before in "#*0123456789" and after == _KEYCAP))
        elif character == _JOINER and _is_emoji(after):
            yield not _is_emoji(first if before == _COLOURED else before)
        else:
            yield character not in (_JOINER, _NON_JOINER) or not _join(before, after)


def _join(before: str, after: str) -> bool:
    """Whether a joiner or non-joiner between two characters changes how they are written."""
    if unicodedata.combining(before) == _VIRAMA:
        return True
    are_written = all(_category(each)[0] in "LM" for each in (before, after))
    is_arabic = "AL" in (unicodedata.bidirectional(before), unicodedata.bidirectional(after))
    return are_written and (is_arabic or unicodedata.combining(after) == _VIRAMA)


def _is_emoji(character: str) -> bool:
    """Whether a symbol may be one: pictures, arrows and tones of skin."""
    return not character.isascii() and _category(character) in ("So", "Sm", "Sk")


def _category(character: str) -> str:
    """General category; that of controls for what is invisible and for noncharacters."""
    code = ord(character)
    is_noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    if is_noncharacter or _INVISIBLE.match(character):
        return "Cf"
    return unicodedata.category(character)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def user_name() -> str:
    """Name of this process's user, for a record of who did something."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may have no name for its user
        return f"user {os.getuid()}"
