"""What each type of setting takes: checked as it is from TOML, read by its type from text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from redstreamd.addresses.address_syntax import unquoted
from redstreamd.settings import ListenAddress, Rate, as_toml, load
from redstreamd.settings.definitions import DEFINITIONS

NUMBERS = [key for key, leaf in DEFINITIONS.items() if leaf.kind in (int, float)]


@pytest.mark.parametrize(
    "toml",
    [
        "[redis]\nport = '6379'",
        "[redis]\nport = 6379.0",
        "[redis]\nport = true",
        "[redis]\nport = [6379]",
        "[redis]\nhost = 5",
        "[redis]\nhost = ''",
        "[redis]\npath = 'relative.sock'",
        "[redis]\npath = 5",
        "[redis]\nurl = 5",
        "[redis]\ncommand_timeout_seconds = '5'",
        "[redis]\ncommand_timeout_seconds = nan",
        "[redis]\ncommand_timeout_seconds = inf",
        "[daemon]\nembedded = 1",
        "[daemon]\nembedded = 'true'",
        "[daemon]\nlog_level = 'verbose'",
        "[daemon]\nlog_level = 'INFO'",
        "[daemon]\nlisten = [5]",
        "[daemon]\nstate_directory = 'state'",
        "[tools]\nprofile = ['worker', 'root']",
        "[tools]\nprofile = []",
        "[tools]\nprofile = ''",
        "[streams]\nnaming = true",
        "[redis]\nhost = 2026-07-28",
    ],
)
def test_a_value_of_another_type_or_range_is_refused_from_the_file(refusal, toml, tmp_path):
    error = refusal(toml)
    group, _, rest = toml.removeprefix("[").partition("]\n")
    assert error.key == f"{group}.{rest.partition(' ')[0]}"
    assert error.source == f"file {tmp_path / 'redstreamd.toml'}"
    assert error.allowed


def test_an_integer_is_a_number_of_seconds(load_from):
    seconds = load_from("[tools]\nmax_wait_seconds = 60").settings.tools.max_wait_seconds
    assert seconds == 60.0
    assert isinstance(seconds, float)


def test_one_profile_needs_no_list(load_from):
    assert load_from("[tools]\nprofile = 'operator'").settings.tools.profile == ("operator",)
    assert load_from("[tools]\nprofile = ['worker', 'red-stream']").settings.tools.profile == (
        "worker",
        "red-stream",
    )
    environ = {"REDSTREAMD_TOOLS_PROFILE": "worker, red-stream"}
    assert load_from(environ=environ).settings.tools.profile == ("worker", "red-stream")


@pytest.mark.parametrize("key", NUMBERS)
def test_both_ends_of_a_range_are_allowed_and_nothing_beyond(load_from, refusal, key):
    leaf = DEFINITIONS[key]
    step = 1 if leaf.kind is int else 0.001
    # Some settings bound each other; only what the range itself says is of interest here.
    widest = {
        "tools.default_wait_seconds": "tools.max_wait_seconds=86400",
        "tools.max_wait_seconds": "tools.default_wait_seconds=0",
        "leases.lease_seconds": "leases.max_lease_seconds=2592000",
        "leases.max_lease_seconds": "leases.lease_seconds=1",
        "tools.max_result_bytes": "limits.max_message_bytes=268435456",
        "limits.max_message_bytes": "tools.max_result_bytes=1024",
        "limits.max_connections_per_principal": "limits.max_connections=1000000",
        "limits.max_waits_per_principal": "limits.max_waits=1000000",
    }
    others = [widest[key]] if key in widest else []
    for bound in (leaf.meta.ge, leaf.meta.le):
        assert load_from(assignments=[f"{key}={bound}", *others]).value(key) == bound
    for beyond in (leaf.meta.ge - step, leaf.meta.le + step):
        error = refusal(assignments=[f"{key}={beyond}", *others])
        assert error.key == key
        assert f"from {as_toml(leaf.meta.ge)} to {as_toml(leaf.meta.le)}" in error.allowed


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("redis.port", "0x18eb"),
        ("redis.port", "6_379"),
        ("redis.port", "6379.0"),
        ("redis.port", "\u0666"),
        ("redis.port", "9" * 5000),
        ("redis.command_timeout_seconds", "1e3"),
        ("redis.command_timeout_seconds", "nan"),
        ("redis.command_timeout_seconds", "inf"),
        ("redis.command_timeout_seconds", "5s"),
        ("daemon.embedded", "2"),
        ("tools.profile", ","),
    ],
)
def test_text_that_does_not_fit_is_refused(refusal, key, text):
    error = refusal(assignments=[f"{key}={text}"])
    assert error.key == key
    assert len(str(error)) < 600


@pytest.mark.parametrize(("text", "meant"), [("true", True), ("Yes", True), ("1", True), ("OFF", False)])
def test_a_switch_is_read_from_the_usual_words(load_from, text, meant):
    assert load_from(environ={"REDSTREAMD_DAEMON_EMBEDDED": text}).settings.daemon.embedded is meant


@pytest.mark.parametrize(
    "text",
    [
        *("unix:/run/x.sock", "unix:/with:colon", "tcp:localhost:7000", "tcp:127.0.0.1:0", "tcp:[::1]:65535"),
        *("http:127.0.0.1:0", "http:[::1]:80", "http:/run/h.sock", "metrics:/run/m.sock"),
    ],
)
def test_an_address_reads_back_as_it_was_written(load_from, text):
    assert str(ListenAddress.parse(text)) == text
    assert [str(address) for address in load_from(listen=[text]).settings.daemon.listen] == [text]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "relative/x.sock",
            "@abstract",
            "unix",
            "unix:",
            "unix:relative",
            "unix:/" + "x" * 107,
            "unix:/a\0b",
        ),
        *("tcp:", "tcp:7000", "tcp::7000", "tcp:host", "tcp:host:", "tcp:host:65536", "tcp:host:-1"),
        *("tcp:::1:7000", "tcp:[]:7000", "tcp:host:\u0661", "udp:host:1", "http:host"),
        *("7000", "::1:7000", "[::1", "redis://host:1", "u:p@host:1", "tcp:ho st:1", "tcp://host:1/0"),
    ],
)
def test_what_is_no_address_is_refused(refusal, text):
    error = refusal(listen=[text])
    assert error.key == "daemon.listen"
    assert ":" in error.allowed


@pytest.mark.parametrize("text", ["htpp:127.0.0.1:9720", "ws://127.0.0.1:9720/mcp", "unx:/run/x.sock"])
def test_a_kind_of_listener_that_there_is_not_is_refused_with_those_that_there_are(refusal, text):
    assert refusal(listen=[text]).allowed.startswith("unix:PATH, tcp:HOST:PORT, http:HOST:PORT or metrics:")


def test_a_default_above_its_maximum_blames_the_setting_that_was_given(refusal):
    error = refusal("[tools]\nmax_wait_seconds = 10")
    assert (error.key, error.value) == ("tools.max_wait_seconds", 10)
    assert error.allowed == "at least tools.default_wait_seconds (20, from default)"
    error = refusal("[leases]\nmax_lease_seconds = 100", {"REDSTREAMD_LEASES_LEASE_SECONDS": "200"})
    assert error.key == "leases.lease_seconds"
    assert error.allowed.startswith("at most leases.max_lease_seconds (100, from file ")
    assert refusal(assignments=["tools.max_result_bytes=9000000"]).key == "tools.max_result_bytes"


def test_a_principals_part_is_at_most_the_limit_of_all(refusal):
    error = refusal("[limits]\nmax_waits_per_principal = 10", {"REDSTREAMD_LIMITS_MAX_WAITS": "9"})
    assert error.key == "limits.max_waits"
    assert error.allowed.startswith("at least limits.max_waits_per_principal (10, from file ")


@pytest.mark.parametrize(
    ("text", "rate", "per_second"),
    [
        ("stream_add=1000/s", Rate("stream_add", "*", "1000", "s"), 1000),
        (" stream_add = 0.5 / s ", Rate("stream_add", "*", "0.5", "s"), 0.5),
        ("group_create@agents=5/min burst 20", Rate("group_create", "agents", "5", "min", 20), 1 / 12),
        ("stream_list@role-*=7200/h", Rate("stream_list", "role-*", "7200", "h"), 2),
    ],
)
def test_a_rate_is_calls_per_time_of_a_tool_perhaps_for_some_principals(load_from, text, rate, per_second):
    for loaded in (
        load_from(f"[limits]\nrates = ['work_take=1/s', '{text}']"),
        load_from(f"[limits]\nrates = {as_toml((Rate.parse('work_take=1/s'), rate))}"),
        load_from(environ={"REDSTREAMD_LIMITS_RATES": f"work_take=1/s, {text}"}),
        load_from(assignments=[f"limits.rates=work_take=1/s,{text}"]),
    ):
        assert loaded.settings.limits.rates == (Rate("work_take", "*", "1", "s"), rate)
    assert rate.per_second == pytest.approx(per_second)


@pytest.mark.parametrize(
    "text",
    [
        "stream_add",
        "stream_add=",
        "=5/s",
        "stream_add=5",
        "stream_add=5/d",
        "stream_add=-5/s",
        "stream_add=1e3/s",
        "stream_add=0/s",
        "stream_add=0.0/s",
        "stream_add=5/s burst 0",
        "stream_add=5/s burst 2.5",
        "stream_add=5/s burst",
        "stream_add@=5/s",
        "stream add=5/s",
        "*=5/s",
        "stream_add=\u0665/s",
    ],
)
def test_a_rate_of_another_form_is_refused_with_the_form(refusal, text):
    for error in (
        refusal(f"[limits]\nrates = ['work_take=1/s', '{text}']"),
        refusal(assignments=[f"limits.rates=work_take=1/s,{text}"]),
    ):
        assert error.key == "limits.rates"
        assert "TOOL=NUMBER/UNIT" in error.allowed or "more than 0" in error.allowed
    assert refusal("[limits]\nrates = [5]").key == "limits.rates"


# Without what is not part of a text from the command line: placeholders, and what stands around it.
TEXT = st.text(
    st.characters(exclude_characters="\0$%{", exclude_categories=["Cs"]), min_size=1, max_size=50
).filter(lambda text: text == unquoted(text))
VALUES = {
    "redis.password": TEXT,
    "redis.port": st.integers(1, 65_535),
    "redis.command_timeout_seconds": st.integers(50, 300_000).map(lambda milliseconds: milliseconds / 1000),
    "redis.path": TEXT.map(lambda text: str(Path("/" + text))),
    "daemon.embedded": st.booleans(),
    "streams.naming": st.sampled_from(["warn", "error", "off"]),
}


@given(data=st.data(), key=st.sampled_from(sorted(VALUES)))
@hypothesis_settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_file_and_command_line_lead_to_the_same_value(tmp_path, data, key):
    value = data.draw(VALUES[key])
    group, _, name = key.partition(".")
    file = tmp_path / "redstreamd.toml"
    file.write_text(f"[{group}]\n{name} = {as_toml(value)}\n", encoding="utf-8", newline="")
    expected = Path(value) if key == "redis.path" else value
    assert load(config=file, environ={}).value(key) == expected
    file.write_text("")
    text = value if isinstance(value, str) else as_toml(value)
    assert load(config=file, environ={}, assignments=[f"{key}={text}"]).value(key) == expected
