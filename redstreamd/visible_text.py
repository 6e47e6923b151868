r"""Characters that nobody sees, made visible: for every text that a person or a model reads.

Names, values and error texts of others may hold characters that a reader does not see, but a terminal or a
model acts on: control characters, marks that reorder what is shown, zero-width characters, tags and variation
selectors that spell a second text. They are written as JSON writes them, ``\u202e``. So JSON text keeps its
meaning, and what a program reads from it is what was written, byte for byte.

Spaces are no such characters, nor are U+FE0E and U+FE0F, which choose one of two pictures of the character
before them.
"""

from __future__ import annotations

import re
from json.encoder import encode_basestring_ascii
from typing import Final

#: Unicode's controls (Cc), format characters (Cf) but for those with a shape of their own, line and paragraph
#: separators, surrogates, and whatever else has Default_Ignorable_Code_Point. tests/test_visible_text.py
#: compares this with Python's tables.
_HIDDEN: Final = re.compile(
    "[\x80-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
_HIDDEN_ASCII: Final = re.compile("[\x00-\x1f\x7f]")


def visible(text: str) -> str:
    r"""Return `text` with hidden characters as ``\uXXXX``; beyond U+FFFF as two of these, a surrogate pair.

    Newlines and tabs are hidden, too: whoever writes several lines passes them one by one. The result of JSON
    text that is on one line is JSON text of the same value.

    It takes about 0.05 µs for each character of a text that is not ASCII, and up to 0.5 µs for each that is
    hidden.
    """
    if text.isascii():
        return text if text.isprintable() else _HIDDEN_ASCII.sub(_escaped_ascii, text)
    return _HIDDEN_ASCII.sub(_escaped_ascii, _HIDDEN.sub(_escaped, text))


def _escaped(found: re.Match[str]) -> str:
    return encode_basestring_ascii(found[0])[1:-1]


def _escaped_ascii(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
