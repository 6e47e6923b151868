"""``redstreamd status`` on a terminal: bars, sparklines, widths, locales, and --watch over a restart."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from redstreamd.cli.terminal_graphics import cells_of
from tests.support import preloaded
from tests.support.daemon import PROGRAM, Daemon, clean_environment, hasty, home, running_daemon
from tests.support.servers import Server
from tests.support.terminal import Terminal

pytestmark = pytest.mark.limit(120)

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
UTF8 = {"LANG": "C.UTF-8", "TERM": "xterm-256color"}
#: With samples after tenths of a second.
HASTY = hasty("redstreamd.daemon.figures_for_people", "SAMPLE_SECONDS")


@pytest.fixture(scope="module")
def daemon(redis_server: Server) -> Iterator[Daemon]:
    """A daemon of which each part of the report says something."""
    redis_server.flush()
    with running_daemon(redis_server, program=HASTY, REDSTREAMD_TOOLS_PROFILE="operator") as running:
        running.call("stream_add", stream="größe:日本語:s", entries=[{"x": 1}] * 3)
        running.call("group_create", stream="größe:日本語:s", group="g", start="earliest")
        while True:
            report = json.loads(status(running, "--json").stdout)
            known = report["history"]["series"].get("p99_seconds", [])
            if any(value is not None for value in known) and report.get("attention", {}).get("groups"):
                break
        yield running


def words(daemon: Daemon | Path, *options: str) -> list[str]:
    path = daemon.path if isinstance(daemon, Daemon) else str(daemon / "redstreamd" / "mcp.sock")
    return [str(PROGRAM), "status", "--socket", path, *options]


def status(daemon: Daemon, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a pipe for its output."""
    return subprocess.run(
        words(daemon, *options),
        env=clean_environment(daemon.directory) | environ,
        capture_output=True,
        timeout=60,
        check=False,
        encoding="utf-8",
        errors="surrogateescape",
    )


def on_terminal(daemon: Daemon, columns: int, **environ: str) -> list[str]:
    """Return the lines that are shown on a terminal, with control sequences."""
    bare = {
        name: value
        for name, value in clean_environment(daemon.directory).items()
        if name[:2] not in ("LC", "LA")
    }
    with Terminal(words(daemon), bare | environ, columns=columns) as terminal:
        code, shown = terminal.end()
    assert code == 0, shown
    return shown.replace("\r\n", "\n").rstrip("\n").split("\n")


def without_colours(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


@pytest.mark.parametrize("columns", [40, 80, 132])
def test_lines_are_folded_to_the_width_and_say_the_same_without_colours(daemon, columns):
    lines = [without_colours(line) for line in on_terminal(daemon, columns, **UTF8)]
    assert max(map(cells_of, lines)) <= max(columns, 40)
    text = " ".join(" ".join(line.split()) for line in lines)
    for part in ("limits", "1 of 4,096", "calls", "at most", "loop lag", "attention", "no consumer"):
        assert part in text, part
    assert re.search("[▁▂▃▄▅▆▇█]", text)
    if columns >= 80:
        # Graphs stay in one piece, below each other.
        graphs = [line for line in lines if re.match(r"  (calls|memory|loop lag) ", line)]
        assert len(graphs) == 3
        assert {len(re.match(r".{18}.{30} (?=\S)", line)[0]) for line in graphs} == {49}


@pytest.mark.parametrize(
    "environ",
    [
        {"LC_ALL": "C", "TERM": "xterm"},
        # Python makes it UTF-8 for itself.
        {"TERM": "xterm"},
        {"LANG": "C.UTF-8", "TERM": "linux"},
    ],
    ids=["C", "none", "console"],
)
def test_without_utf8_graphs_are_ascii(daemon, environ):
    lines = [line for line in on_terminal(daemon, 80, **environ) if "größe" not in line]
    assert "".join(lines).isascii()
    assert any(re.search(r"#\.{19}", line) for line in lines)


def test_a_locale_without_the_characters_of_a_name_ends_nothing(daemon):
    done = status(daemon, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "gr\\xf6\\xdfe:\\u65e5" in done.stdout


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_declined(daemon, environ):
    assert "\x1b" not in "".join(on_terminal(daemon, 80, **(UTF8 | environ)))


def test_a_pipe_gets_neither_control_sequences_nor_folded_lines(daemon):
    done = status(daemon, **UTF8)
    assert "\x1b" not in done.stdout
    assert "größe:日本語:s / g: no consumer, 3 undelivered\n" in done.stdout


def frames(shown: str) -> list[list[str]]:
    """Return the lines of each frame that was drawn completely."""
    drawn = shown.split("\x1b[H")[1:]
    return [
        [without_colours(line).replace("\x1b[K", "") for line in frame.split("\x1b[J")[0].split("\r\n")]
        for frame in drawn
        if "\x1b[J" in frame
    ]


def test_watching_goes_on_over_a_restart_and_a_resize_and_leaves_the_screen_clean(redis):
    with home() as directory:
        environ = clean_environment(directory) | UTF8
        with (
            running_daemon(redis, directory=directory) as first,
            Terminal(words(directory, "--watch", "0.3"), environ, columns=100, lines=30) as terminal,
        ):
            shown = terminal.wait_for(f"process {first.process.pid}")
            assert shown.startswith(ENTER)
            first.stop()
            shown += terminal.wait_for("NO DAEMON")
            shown += terminal.wait_for("old")
            with running_daemon(redis, directory=directory) as second:
                shown += terminal.wait_for(f"process {second.process.pid}")
                shown += terminal.wait_for("the daemon was restarted")
                shown += terminal.wait_for("Ctrl-C ends")
                assert all(len(frame) <= 30 for frame in frames(shown))
                assert all(cells_of(line) <= 100 for frame in frames(shown) for line in frame)
                terminal.resize(60, 12)
                terminal.wait_for("more lines: enlarge the window")
                small = terminal.wait_for("Ctrl-C ends") + terminal.wait_for("\x1b[J")
                assert all(len(frame) <= 12 for frame in frames(small))
                assert not [line for frame in frames(small) for line in frame if cells_of(line) > 60]
                terminal.press("\x03")
                code, rest = terminal.end()
    assert code == 130
    assert rest.endswith(LEAVE)
    assert "Traceback" not in rest


def test_a_terminal_that_is_closed_or_a_stop_leaves_the_screen_clean(daemon):
    environ = clean_environment(daemon.directory) | UTF8
    with Terminal(words(daemon, "--watch"), environ) as terminal:
        terminal.wait_for("Ctrl-C ends")
        terminal.process.terminate()
        code, rest = terminal.end()
    assert (code, rest.endswith(LEAVE)) == (130, True)


@pytest.mark.parametrize("as_json", [False, True])
def test_through_a_pipe_reports_follow_each_other(daemon, as_json):
    options = ("--watch", "0.2", *(["--json"] if as_json else []))
    with subprocess.Popen(
        words(daemon, *options),
        env=clean_environment(daemon.directory) | UTF8,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        begun, read = time.monotonic(), ""
        while read.count("\n2" if not as_json else '{"at": "') < 2 and time.monotonic() < begun + 180:
            read += process.stdout.readline()
        process.terminate()
        process.stdout.close()
        assert process.wait() in (-15, 1)
    assert "\x1b" not in read
    if as_json:
        reports = [json.loads(line) for line in read.splitlines()]
        assert all(report["process"]["pid"] == daemon.process.pid for report in reports)
    else:
        assert f"process {daemon.process.pid}" in read


@pytest.mark.parametrize("seconds", ["0", "-1", "x", "nan", "1e9"])
def test_an_interval_that_is_none_is_refused(daemon, seconds):
    done = status(daemon, f"--watch={seconds}")
    assert done.returncode == 64
    assert "is not 0.2 to 86400 seconds" in done.stderr


def test_an_address_that_is_none_ends_watching(tmp_path):
    done = preloaded.run(
        [str(PROGRAM), "status", "--watch", "--socket", "tcp:nowhere"],
        env=clean_environment(tmp_path),
        text=True,
        timeout=60,
    )
    assert done.returncode == 78
    assert "does not name the daemon's socket" in done.stderr
