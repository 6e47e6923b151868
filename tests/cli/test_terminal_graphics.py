"""Bars, sparklines and folded lines."""

from __future__ import annotations

import pytest

from redstreamd.cli.status_graphs import attention_lines, history_lines, limit_lines
from redstreamd.cli.status_layout import Layout, Line, arranged
from redstreamd.cli.terminal_graphics import ASCII, UNICODE, bar, cells_of, folded, glyphs, sparkline


@pytest.mark.parametrize(
    ("share", "drawn"),
    [(0, "...."), (0.001, "#..."), (0.49, "#..."), (0.5, "##.."), (0.999, "###."), (1, "####"), (9, "####")],
)
def test_a_bar_is_empty_and_full_at_the_ends_only(share, drawn):
    assert bar(share, 4, ASCII) == drawn


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], "    "),
        ([1, 2], "  =#"),
        ([0, 0, 0, 0], "____"),
        ([None, 1, None, 2], " = #"),
        # A cell shows the larger of its two, and the last cell is complete.
        ([8, 1, 1, 8, 1, 1, 4], "#.#="),
    ],
)
def test_a_sparkline_goes_from_0_to_the_largest_and_ends_with_the_newest(values, drawn):
    assert sparkline(values, 4, ASCII) == drawn


def test_a_sparkline_may_begin_at_another_value():
    assert sparkline([90, 91, 98], 3, UNICODE, lowest=90) == "▁▂█"
    assert sparkline([90, 90], 2, UNICODE, lowest=90) == "▁▁"


@pytest.mark.parametrize(
    ("environ", "encoding", "is_terminal", "expected"),
    [
        ({"LANG": "de_DE.UTF-8", "TERM": "xterm"}, "utf-8", True, UNICODE),
        ({"LANG": "de_DE.utf8"}, "utf-8", False, UNICODE),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "C"}, "utf-8", False, ASCII),
        ({"LANG": "en_US.UTF-8", "LC_CTYPE": "de_DE.ISO-8859-1"}, "iso-8859-1", False, ASCII),
        ({"LC_ALL": "", "LANG": "C.UTF-8"}, "utf-8", False, UNICODE),
        ({}, "utf-8", False, ASCII),
        ({"LANG": "C.UTF-8", "TERM": "linux"}, "utf-8", True, ASCII),
    ],
)
def test_the_locale_and_the_terminal_decide_the_characters(environ, encoding, is_terminal, expected):
    assert glyphs(environ, encoding, is_terminal=is_terminal) is expected


@pytest.mark.parametrize(
    "text", ["a few words of text", "日本語 と 日本語", "x" * 45, "a " + "日" * 30, "", "e\u0301 " * 20]
)
@pytest.mark.parametrize("room", [2, 7, 20])
def test_folded_lines_fit_and_lose_nothing_but_spaces(text, room):
    lines = list(folded(text, room, room))
    assert all(cells_of(line) <= room for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_hidden_characters_of_others_do_not_reach_the_terminal():
    group = {"stream": "a\x1b[2J", "group": "\u202eg", "consumers": 0, "pending": 0, "lag": 1}
    lines = "\n".join(arranged(attention_lines({"groups": [group]}), Layout(UNICODE, 80, colour=False)))
    assert "\x1b" not in lines
    assert "\u202e" not in lines
    assert "a\\u001b[2J / \\u202eg: no consumer, 1 undelivered" in lines


def test_what_a_daemon_does_not_report_is_not_drawn():
    assert [*limit_lines({}, ASCII), *history_lines({}, ASCII), *attention_lines({})] == []
    # Nor is what a newer one reports and we do not know.
    assert list(limit_lines({"moons": {"used": 1, "limit": 2}}, ASCII)) == []
    series = {"sample_seconds": 5, "series": {"p99_seconds": [None, None], "moons": [1]}}
    assert list(history_lines(series, ASCII)) == []


def test_a_full_limit_is_an_alarm_in_words_too():
    (_, line) = limit_lines({"waits": {"used": 96, "limit": 100}}, ASCII)
    assert line == Line("  waits", "###################.  96%  96 of 100", "alarm")


def test_attention_names_the_groups_left_out_and_the_streams_not_seen():
    groups = [
        {"stream": "s", "group": "g", "consumers": 2, "pending": 310, "oldest_pending_seconds": 10_920.0}
    ]
    said = [line.text for line in attention_lines({"groups": groups, "more": 3, "streams_left_out": 1_200})]
    assert said == [
        "s / g: 310 pending (the oldest added 3 h 2 min ago)",
        """-> redstreamd call stream_health '{"stream": "s"}'""",
        "3 more groups need attention",
        "1,200 streams are beyond those that are looked at",
    ]
