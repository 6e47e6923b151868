"""What is hidden and is made visible: one rule, compared with Unicode's own tables."""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from redstreamd.errors import BusError, Code, SettingsError
from redstreamd.errors.remedies import shortened
from redstreamd.redisio.redis_errors import Problem, ProblemKind
from redstreamd.visible_text import visible

#: Format characters (Cf) that are drawn: number signs and the like of Arabic, Syriac and Kaithi.
DRAWN: Final = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
#: Default_Ignorable_Code_Point (DerivedCoreProperties.txt of Unicode 16), which Python has no table of.
IGNORABLE: Final = {
    0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), *range(0x200B, 0x2010),
    *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164, *range(0xFE00, 0xFE10), 0xFEFF, 0xFFA0,
    *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000),
}  # fmt: skip
#: Format characters that join hieroglyphs; a table of Unicode 14 lacks some.
EGYPTIAN: Final = set(range(0x13430, 0x13440))
#: They choose between two pictures of the character before them.
PICTURES: Final = {0xFE0E, 0xFE0F}


def test_exactly_what_unicode_hides_is_made_visible() -> None:
    hidden = {
        code
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }
    expected = (hidden - DRAWN) | (IGNORABLE - PICTURES) | EGYPTIAN
    shown = {code for code in range(sys.maxunicode + 1) if visible(chr(code)) != chr(code)}
    assert {hex(code) for code in shown ^ expected} == set()


@given(st.text(st.characters()))
def test_json_keeps_its_value_and_nothing_hidden_is_left(text: str) -> None:
    document = json.dumps({text: [text]}, ensure_ascii=False)
    shown = visible(document)
    assert json.loads(shown) == {text: [text]}
    assert visible(shown) == shown
    assert all(visible(character) == character for character in shown)


def test_text_without_hidden_characters_is_itself() -> None:
    for text in ("", "orders", "größe \u2764\ufe0f 一 \U0001f600", "a\u00a0b\u3000c"):
        assert visible(text) is text


def test_errors_and_problems_show_what_is_hidden_in_names_and_replies() -> None:
    hostile = "a\u202eb\n\u2028\U000e0041"
    shown = r"a\u202eb\u000a\u2028\udb40\udc41"
    error = BusError(Code.INTERNAL, hostile, cause=hostile, next_step=hostile)
    assert (error.message, error.cause, error.next_step) == (shown, shown, shown)
    assert str(error) == f"INTERNAL: {shown} ({shown})"
    assert str(SettingsError("a", value=1, source="b", allowed="c", text=hostile)) == shown
    problem = Problem(ProblemKind.UNREACHABLE, hostile, hostile)
    assert (problem.cause, problem.effect, problem.next_step) == (shown, shown, shown)
    assert shortened(hostile, 1) == "a…"
    assert shortened(hostile) == shown
