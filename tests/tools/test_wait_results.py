"""The answer of a wait that is told one entry is, byte for byte, what its class would be encoded to."""

from __future__ import annotations

import pytest

from redstreamd.presentation.entries import views
from redstreamd.presentation.truncation import encode_page
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.next_entries import Waited
from redstreamd.tools import reading
from redstreamd.tools.reading import StreamWaited
from redstreamd.tools.results import Result, success


def waited(value: str, *more: str) -> Waited:
    entries = [RawEntry(f"{number}-0", ["k", each]) for number, each in enumerate((value, *more), 1)]
    return Waited([("s", entry) for entry in entries], {"s": "0-0"}, {"s": entries[-1].id}, [])


@pytest.mark.parametrize("value", ["x", "é \u202e \x7f", 'a "b" \\', "x" * 5_000])
@pytest.mark.parametrize("most", [200, 10_000])
def test_one_entry_is_answered_as_any_page(value: str, most: int) -> None:
    found = waited(value)
    shown, count = encode_page(views("s", [found.entries[0][1]]), most)
    result = success(reading._waited(most)(found))
    assert result == success(StreamWaited(shown, found.cursor_after(count), timed_out=not count))
    assert count


def test_only_one_entry_is_put_together_without_its_class() -> None:
    convert = reading._waited(10_000)
    assert isinstance(convert(waited("x")), Result)
    assert isinstance(convert(waited("x", "y")), StreamWaited)
    nothing = Waited([], {"s": "0-0"}, {"s": "0-0"}, ["s"])
    assert success(convert(nothing)) == success(StreamWaited([], "0-0", timed_out=True, absent=["s"]))
