"""Entry IDs, positions and cursors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.errors import BusError, Code
from redstreamd.streams import entry_ids

PARTS = st.integers(0, entry_ids.MAX_PART)
IDS = st.builds("{}-{}".format, PARTS, PARTS)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("earliest", "-"),
        ("latest", "+"),
        ("1526919030474-55", "1526919030474-55"),
        ("1526919030474", "1526919030474"),
        ("2026-01-31T12:00:00Z", "1769860800000"),
        ("2026-01-31T13:00:00.5+01:00", "1769860800500"),
        ("2026-01-31T12:00:00", "1769860800000"),
        ("2026-01-31", "1769817600000"),
        ("1960-01-01", "0"),
        ("2026-1", "2026-1"),
        ("2026-13", "2026-13"),
        ("1969", "1969"),
        ("3000", "3000"),
        ("20260101", "20260101"),
        ("0", "0"),
    ],
)
def test_a_position_is_a_word_a_time_or_an_entry_id(text: str, position: str) -> None:
    assert entry_ids.position(text, argument="start") == position


@pytest.mark.parametrize(
    "text",
    [
        *("", "$", "-", "now", "1-2-3", "1-", "-1", "\uff12\uff10", "18446744073709551616", "W10"),
        # These would be entry IDs, but are hardly meant as such.
        *("2026", "1970", "2999", "2026-01", "2026-12"),
    ],
)
def test_anything_else_is_refused_naming_the_argument(text: str) -> None:
    with pytest.raises(BusError) as refused:
        entry_ids.position(text, argument="end")
    assert refused.value.code is Code.INVALID_START
    assert "end=" in refused.value.message


@given(IDS)
def test_before_and_after_are_neighbours(entry_id: str) -> None:
    if entry_id != entry_ids.ZERO:
        assert entry_ids.after(entry_ids.before(entry_id)) == entry_id
    if entry_id != entry_ids.LAST:
        assert entry_ids.before(entry_ids.after(entry_id)) == entry_id
    assert entry_ids.parse(entry_ids.before(entry_id)) <= entry_ids.parse(entry_id)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=5, unique=True), st.data())
def test_a_cursor_gives_back_its_positions_for_the_same_streams_only(
    streams: list[str], data: st.DataObject
) -> None:
    ids = [data.draw(IDS) for _ in streams]
    cursor = entry_ids.join_cursor(streams, ids)
    assert entry_ids.split_cursor(streams, cursor) == ids
    if len(streams) > 1:
        for others in (streams[:-1], streams[::-1], [*streams, "one more"]):
            with pytest.raises(BusError):
                entry_ids.split_cursor(others, cursor)


def test_the_cursor_of_one_stream_is_an_entry_id() -> None:
    assert entry_ids.join_cursor(["s"], ["5-1"]) == "5-1"


@pytest.mark.parametrize("cursor", ["earliest", "", "e4ea792b:1-1,0-0"])
def test_who_waits_from_the_beginning_of_a_stream_is_told_how(cursor: str) -> None:
    """To leave the cursor out, which is what a model would do, waits for what comes later."""
    with pytest.raises(BusError) as told:
        entry_ids.split_cursor(["s"], cursor)
    assert "'0-0' for the beginning" in told.value.next_step
    assert entry_ids.split_cursor(["s"], "0-0") == ["0-0"]


def test_times_beyond_what_a_calendar_can_say_do_not_fail() -> None:
    assert entry_ids.time_of("1769860800500-3") == "2026-01-31T12:00:00.500Z"
    assert entry_ids.time_of(entry_ids.LAST).startswith("9999-12-31T")
