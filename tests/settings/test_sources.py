"""Which source wins, and what is said of a source that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from redstreamd import settings
from redstreamd.errors import SettingsError
from redstreamd.settings import ListenAddress, Precedence, load


def test_without_any_source_every_setting_has_its_default(load_from):
    loaded = load_from()
    state = loaded.settings.daemon.state_directory
    assert loaded.settings == settings.Settings(daemon=settings.DaemonSettings(state_directory=state))
    assert {source.precedence for source in loaded.sources.values()} == {Precedence.DEFAULT}
    assert {str(source) for source in loaded.sources.values()} == {"default"}


def test_environment_wins_over_the_file_and_the_command_line_over_both(load_from, tmp_path):
    toml = "[limits]\nmax_waits = 1\nmax_nesting = 11\nmax_connections = 111\n"
    environ = {"REDSTREAMD_LIMITS_MAX_WAITS": "2", "REDSTREAMD_LIMITS_MAX_NESTING": "22"}
    loaded = load_from(toml, environ, assignments=["limits.max_waits=3"])
    limits = loaded.settings.limits
    assert (limits.max_waits, limits.max_nesting, limits.max_connections) == (3, 22, 111)
    assert str(loaded.sources["limits.max_waits"]) == "command line (--set limits.max_waits)"
    assert str(loaded.sources["limits.max_nesting"]) == "environment variable REDSTREAMD_LIMITS_MAX_NESTING"
    assert str(loaded.sources["limits.max_connections"]) == f"file {tmp_path / 'redstreamd.toml'}"


def test_a_missing_default_file_is_fine_and_a_missing_named_one_is_an_error(tmp_path):
    absent = tmp_path / "absent.toml"
    assert load(default_file=absent, environ={}).settings.redis.host == "localhost"
    with pytest.raises(SettingsError, match=r"settings file .*absent\.toml .*no such file.*--config"):
        load(config=absent, environ={})


def test_the_default_file_is_read_when_it_exists(tmp_path):
    file = tmp_path / "redstreamd.toml"
    file.write_text('[redis]\nhost = "from-the-default-file"\n')
    assert load(default_file=file, environ={}).settings.redis.host == "from-the-default-file"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"[redis\n", "at line 1"), (b"\xff\xfe", "not UTF-8"), (None, "Is a directory")],
)
def test_a_file_that_is_no_toml_is_an_error_that_says_why(tmp_path, content, reason):
    file = tmp_path / "redstreamd.toml"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as raised:
        load(config=file, environ={})
    assert raised.value.key == str(file)
    assert reason in str(raised.value.value)
    assert str(raised.value).startswith(f"settings file {file} cannot be used: ")
    assert reason in str(raised.value)


def test_a_default_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(SettingsError, match="Is a directory"):
        load(default_file=tmp_path, environ={})


@pytest.mark.parametrize(
    ("toml", "key", "nearest"),
    [
        ("[redis]\nhots = 'x'", "redis.hots", "redis.host"),
        ("[tools]\nmax_wait_second = 5", "tools.max_wait_second", "tools.max_wait_seconds"),
        ("[redsi]\nhost = 'x'", "redsi", "redis"),
        ("[leasse]", "leasse", "leases"),
        ("limit = 5", "limit", "limits"),
        ("host = 'x'", "host", "redis.host"),
        ("profile = 'operator'", "profile", "tools.profile"),
        ("[redis.prot]\nnumber = 5", "redis.prot", "redis.port"),
    ],
)
def test_an_unknown_name_in_the_file_is_an_error_that_names_the_nearest(refusal, toml, key, nearest):
    error = refusal(toml)
    assert error.key == key
    assert error.allowed.endswith(f"such as {nearest}")
    # It is not the value that is wrong.
    assert "is not valid" not in str(error)
    assert str(error).endswith(f" {key}; the nearest is {nearest}")


def test_a_group_that_is_no_table_is_an_error(refusal):
    assert refusal("redis = 'localhost'").allowed == "a table, [redis]"


def test_an_unknown_variable_of_ours_is_an_error_and_others_are_none_of_our_business(load_from, refusal):
    error = refusal(environ={"REDSTREAMD_TOOL_PROFILE": "worker"})
    assert error.key == "REDSTREAMD_TOOL_PROFILE"
    assert error.allowed.endswith("such as REDSTREAMD_TOOLS_PROFILE")
    assert refusal(environ={"REDSTREAMD_SOKET": "/run/x.sock"}).allowed.endswith("such as REDSTREAMD_SOCKET")
    load_from(environ={"REDIS_SERVICE_HOST": "10.0.0.1", "PATH": "/bin", "REDSTREAMD_SOCKET": "/run/x.sock"})


def test_the_value_of_an_unknown_name_is_not_shown(refusal):
    for error in (
        refusal("[redis]\npasword = 'hunter2'"),
        refusal("redis_password = 'hunter2'"),
        refusal("redis = 'hunter2'"),
        refusal(environ={"REDSTREAMD_PASSWORD": "hunter2"}),
        refusal(assignments=["redis.pasword=hunter2"]),
        refusal(assignments=["hunter2"]),
    ):
        assert "hunter2" not in str(error)


def test_our_own_variable_wins_over_the_common_one(load_from):
    loaded = load_from(environ={"REDSTREAMD_REDIS_HOST": "ours", "REDIS_HOST": "common"})
    assert loaded.settings.redis.host == "ours"


def test_every_redis_variable_reaches_its_setting(load_from):
    environ = {
        "REDIS_HOST": "h",
        "REDIS_PORT": "1234",
        "REDIS_USERNAME": "u",
        "REDIS_PASSWORD": "p",
        "REDIS_DB": "5",
    }
    redis = load_from(environ=environ).settings.redis
    assert (redis.host, redis.port, redis.username, redis.password, redis.database) == (
        "h",
        1234,
        "u",
        "p",
        5,
    )


def test_an_empty_text_on_the_command_line_ends_what_earlier_sources_say(load_from):
    toml = "[redis]\npassword = 'old'\nport = 7000\n[tools]\nprofile = 'operator'"
    empty = ["redis.password=", "redis.port=", "tools.profile="]
    settings = load_from(toml, {"REDIS_PASSWORD": "older"}, assignments=empty).settings
    assert (settings.redis.password, settings.redis.port, settings.tools.profile) == (None, 6379, ("worker",))


def test_a_kubernetes_service_link_in_redis_port_is_explained(refusal):
    error = refusal(environ={"REDIS_PORT": "tcp://10.0.0.1:6379"})
    assert (error.key, error.value) == ("redis.port", "tcp://10.0.0.1:6379")
    assert error.source == "environment variable REDIS_PORT"
    assert "Kubernetes" in error.allowed
    assert "enableServiceLinks: false" in error.allowed


def test_listen_and_embedded_options_win_over_set(load_from):
    loaded = load_from(
        environ={"REDSTREAMD_DAEMON_LISTEN": "tcp:127.0.0.1:1, tcp:127.0.0.1:2"},
        assignments=["daemon.listen=tcp:127.0.0.1:3", "daemon.embedded=no"],
        listen=["unix:/run/a,b.sock", "tcp:[::1]:4"],
        embedded=True,
    )
    daemon = loaded.settings.daemon
    assert daemon.listen == (
        ListenAddress.parse("unix:/run/a,b.sock"),
        ListenAddress.parse("tcp:[::1]:4"),
    )
    assert daemon.embedded is True
    assert str(loaded.sources["daemon.listen"]) == "command line (--listen)"
    assert str(loaded.sources["daemon.embedded"]) == "command line (--embedded)"


def test_an_assignment_may_hold_further_equals_signs(load_from):
    assert load_from(assignments=["redis.password=a=b="]).settings.redis.password == "a=b="


def test_of_two_assignments_the_last_wins(load_from):
    loaded = load_from(assignments=["redis.host=a", "redis.host=b"])
    assert loaded.settings.redis.host == "b"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/redstreamd:/var/lib/other", "HOME": "/h"}, "/var/lib/redstreamd"),
        ({"XDG_STATE_HOME": "/h/state", "HOME": "/h"}, "/h/state/redstreamd"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/redstreamd"),
        ({"HOME": "/h"}, "/h/.local/state/redstreamd"),
    ],
)
def test_state_goes_where_systemd_or_the_desktop_says(load_from, environ, expected):
    loaded = load_from(environ=environ)
    assert loaded.settings.daemon.state_directory == Path(expected)
    assert str(loaded.sources["daemon.state_directory"]) == "default"
