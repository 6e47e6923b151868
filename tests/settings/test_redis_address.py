"""A URL against the parts of an address: the later word wins, and the more particular of two."""

from __future__ import annotations

from pathlib import Path

import pytest

URL = "redis://user:pass@url-host:7000/3"


def address(loaded):
    redis = loaded.settings.redis
    return (redis.host, redis.port, redis.path, redis.username, redis.password, redis.database)


def test_a_url_is_taken_apart_and_is_the_source_of_its_parts(load_from):
    loaded = load_from(environ={"REDIS_URL": URL})
    assert address(loaded) == ("url-host", 7000, None, "user", "pass", 3)
    for part in ("url", "host", "port", "username", "password", "database"):
        assert str(loaded.sources[f"redis.{part}"]) == "environment variable REDIS_URL"
    assert str(loaded.sources["redis.path"]) == "default"


def test_a_part_in_the_same_or_a_later_source_replaces_that_part_of_the_url(load_from):
    same = load_from(environ={"REDIS_URL": URL, "REDIS_HOST": "part-host", "REDIS_DB": "9"})
    assert address(same) == ("part-host", 7000, None, "user", "pass", 9)
    assert str(same.sources["redis.host"]) == "environment variable REDIS_HOST"
    later = load_from(f"[redis]\nurl = '{URL}'", {"REDIS_PASSWORD": "new"})
    assert address(later) == ("url-host", 7000, None, "user", "new", 3)


def test_a_url_in_a_later_source_replaces_every_part_so_no_password_reaches_another_server(load_from):
    toml = "[redis]\nhost = 'old'\nport = 1\nusername = 'old'\npassword = 'old'\ndatabase = 1\n"
    assert address(load_from(toml, {"REDIS_URL": "redis://new"})) == ("new", 6379, None, None, None, 0)


def test_of_two_urls_the_later_wins_whole(load_from):
    loaded = load_from(f"[redis]\nurl = '{URL}'", {"REDIS_URL": "redis://other"})
    assert address(loaded) == ("other", 6379, None, None, None, 0)


def test_an_empty_url_on_the_command_line_unsets_an_earlier_one(load_from):
    toml = f"[redis]\nurl = '{URL}'"
    assert address(load_from(toml, assignments=["redis.url="]))[0] == "localhost"
    assert address(load_from(toml, {"REDIS_URL": ""}))[0] == "url-host"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", ("localhost", 6379, None, None, None, 0)),
        ("redis://h", ("h", 6379, None, None, None, 0)),
        ("redis://h/", ("h", 6379, None, None, None, 0)),
        ("redis://h/2/", ("h", 6379, None, None, None, 2)),
        ("REDIS://h:7000/0", ("h", 7000, None, None, None, 0)),
        ("redis://:7000", ("localhost", 7000, None, None, None, 0)),
        ("redis://u@h", ("h", 6379, None, "u", None, 0)),
        ("redis://[fe80::1%25eth0]:1", ("fe80::1%eth0", 1, None, None, None, 0)),
        ("redis://:p%40%2F%3A@h", ("h", 6379, None, None, "p@/:", 0)),
        ("redis://[::1]:7000?db=4", ("::1", 7000, None, None, None, 4)),
        ("unix:///run/r.sock", ("localhost", 6379, Path("/run/r.sock"), None, None, 0)),
        ("unix://u:p@/run/r.sock?db=2", ("localhost", 6379, Path("/run/r.sock"), "u", "p", 2)),
    ],
)
def test_the_forms_of_a_url(load_from, url, expected):
    assert address(load_from(assignments=[f"redis.url={url}"])) == expected


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("rediss://h?ssl_cert_reqs=none", "no other options"),
        ("http://h", "redis://"),
        ("h:port", "redis://"),
        ("redis://h 1", "without spaces"),
        ("redis://fd00::1:6379", "percent-encoded"),
        ("redis://h/one", "DATABASE is a number"),
        ("redis://h/0/1", "DATABASE is a number"),
        ("redis://h/?db=x", "percent-encoded"),
        ("redis://h:99999", "percent-encoded"),
        ("redis://h:port", "percent-encoded"),
        ("redis://h?ssl_cert_reqs=none", "no other options"),
        ("redis://h#fragment", "percent-encoded"),
        ("unix://relative/r.sock", "unix:///PATH"),
        ("unix://", "unix:///PATH"),
    ],
)
def test_a_url_that_would_be_misread_is_refused(refusal, url, hint):
    error = refusal(environ={"REDIS_URL": url})
    assert (error.key, error.source) == ("redis.url", "environment variable REDIS_URL")
    assert hint in error.allowed


def test_a_part_of_the_url_out_of_range_names_the_part_and_the_url(refusal):
    error = refusal(environ={"REDIS_URL": "redis://h/999999999"})
    assert (error.key, error.source) == ("redis.database", "environment variable REDIS_URL")


@pytest.mark.parametrize(
    "url",
    [
        "rediss://user:hunter2@h?ssl_ca_certs=x",
        "redis://user:hun/ter2@h",
        "redis://user:hun?ter2@h",
        "redis://user:hun#ter2@h",
        "redis://user:hunt@er2@h:x",
        "redis://:hunter2",
        "redis://h?password=hunter2",
        "hunter2@h",
        "redis://user:hunter2@h/x",
        "redis://user:hunter2@[h",
    ],
)
def test_no_error_shows_any_part_of_a_password(refusal, url):
    message = str(refusal(environ={"REDIS_URL": url}))
    assert "hun" not in message
    assert "ter2" not in message


def test_a_socket_and_a_host_the_later_one_decides(load_from):
    assert address(load_from("[redis]\npath = '/r.sock'"))[2] == Path("/r.sock")
    loaded = load_from("[redis]\npath = '/r.sock'", {"REDIS_HOST": "h"})
    assert address(loaded)[:3] == ("h", 6379, None)
    assert str(loaded.sources["redis.path"]) == "environment variable REDIS_HOST"
    assert address(load_from("[redis]\nhost = 'h'", {"REDSTREAMD_REDIS_PATH": "/r.sock"}))[2] == Path(
        "/r.sock"
    )
    assert address(load_from("[redis]\npath = '/r.sock'", {"REDIS_URL": "redis://h"}))[:3] == (
        "h",
        6379,
        None,
    )
    environ = {"REDIS_URL": "unix:///r.sock", "REDIS_HOST": "h"}
    assert address(load_from(environ=environ))[:3] == ("h", 6379, None)
    environ = {"REDIS_URL": "redis://h", "REDSTREAMD_REDIS_PATH": "/r.sock"}
    assert address(load_from(environ=environ))[2] == Path("/r.sock")


def test_a_socket_and_a_host_from_one_source_contradict_each_other(refusal):
    error = refusal("[redis]\npath = '/r.sock'\nhost = 'h'")
    assert error.key == "redis.path"
    assert "not both" in error.allowed
