"""What launchers hand over: empty variables, placeholders, quotes, service links, addresses in any form."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from redstreamd.addresses import default_paths
from redstreamd.daemon import sockets
from redstreamd.doctor import invalid_settings
from redstreamd.errors import SettingsError
from redstreamd.settings import ListenAddress, describe, load
from redstreamd.settings.definitions import DEFINITIONS
from redstreamd.settings.sources import ENVIRONMENT

VARIABLES = sorted(ENVIRONMENT)
SECRETS = {name for name, key in ENVIRONMENT.items() if DEFINITIONS[key].secret}

#: A valid value for each setting, as text and as TOML, other than its default.
OTHER = {
    "redis.topology": "cluster",
    "redis.nodes": "other:7000",
    "redis.node_addresses": "10.0.0.1:6379=other:7000",
    "redis.sentinel_tls": "true",
    "redis.sentinel_password_file": "/password",
    "redis.url": "redis://other:7000",
    "redis.host": "other",
    "redis.port": "7000",
    "redis.path": "/other.sock",
    "redis.tls": "true",
    "redis.tls_min_version": "1.3",
    "redis.password_file": "/password",
    "daemon.listen": "tcp:127.0.0.1:1",
    "daemon.state_directory": "/other",
    "daemon.embedded": "true",
    "daemon.log_level": "debug",
    "daemon.log_format": "json",
    "daemon.access_log": "true",
    "daemon.audit_chain": "true",
    "listeners.peer_uids": "true",
    "listeners.tls_min_version": "1.3",
    "listeners.allow_unprotected_tcp": "true",
    "http.path": "/other",
    "http.allowed_origins": "https://other",
    "http.oauth_issuer": "https://other",
    "http.oauth_jwks_url": "https://other/jwks",
    "http.resource_url": "https://other/mcp",
    "limits.rates": "stream_add=5/s",
    "policy.rules": "agents may read on *",
    "policy.quotas": "agents have waits=5",
    "policy.read_only": "true",
    "records.plain_hashes": "true",
    "encryption.writing_key": "2026-11",
    "encryption.streams": "jobs:* are encrypted",
    "tools.profile": "operator",
    "streams.naming": "off",
}
NEEDS = {
    "redis.ca_file": "redis.tls=true",
    "redis.certificate_file": "redis.tls=true",
    "redis.server_name": "redis.tls=true",
    "redis.key_file": "redis.certificate_file=/c",
    "redis.topology": "redis.url=redis://h",
    "redis.nodes": "redis.url=redis+sentinel://h",
    "redis.node_addresses": "redis.url=redis+cluster://h",
    "redis.sentinel_primary": "redis.url=redis+sentinel://h",
    "redis.sentinel_username": "redis.url=redis+sentinel://h",
    "redis.sentinel_password": "redis.url=redis+sentinel://h",
    "redis.sentinel_password_file": "redis.url=redis+sentinel://h",
    "redis.sentinel_tls": "redis.url=redis+sentinel://h",
    "redis.sentinel_ca_file": "redis.url=rediss+sentinel://h",
    "redis.sentinel_server_name": "redis.url=rediss+sentinel://h",
    "encryption.writing_key": "encryption.keys=/keys",
    "encryption.streams": "encryption.writing_key=a",
    "listeners.key_file": "listeners.certificate_file=/c",
    "listeners.client_ca_file": "listeners.certificate_file=/c",
    "http.oauth_issuer": "http.resource_url=https://r/mcp",
    "http.oauth_audience": "http.oauth_issuer=https://i",
    "http.oauth_jwks_url": "http.oauth_issuer=https://i",
    "leases.max_lease_seconds": "leases.lease_seconds=1",
    "tools.max_wait_seconds": "tools.default_wait_seconds=0",
}


def other(key: str) -> str:
    leaf = DEFINITIONS[key]
    if key in OTHER:
        return OTHER[key]
    if leaf.kind is Path:
        return "/other"
    return str(leaf.meta.ge + 1) if leaf.kind in (int, float) else "other"


def needs(key: str) -> str:
    """Return a file with what the setting needs."""
    if key not in NEEDS:
        return ""
    needed, _, text = NEEDS[key].partition("=")
    value = text if text in ("true", "0", "1") else f"'{text}'"
    return f"{needed} = {value}\n{needs(needed)}"


@pytest.mark.parametrize("empty", ["", " ", "\n", '""', "''"])
def test_an_empty_variable_is_one_that_is_not_there(load_from, empty):
    toml = "[redis]\nhost = 'h'\npassword = 'p'\nport = 7000\n[tools]\nprofile = 'operator'\n"
    environ = dict.fromkeys(VARIABLES, empty) | {"REDSTREAMD_NO_SETTING": empty}
    loaded = load_from(toml, environ, listen=[empty])
    assert loaded.settings == load_from(toml).settings
    assert loaded.sources == load_from(toml).sources


@pytest.mark.parametrize("name", VARIABLES)
def test_spaces_line_breaks_and_quotes_around_a_value_are_not_part_of_it(load_from, name):
    key = ENVIRONMENT[name]
    plain = load_from(needs(key), {name: other(key)}).value(key)
    if name in SECRETS:
        assert load_from(needs(key), {name: "other\r\n"}).value(key) == "other"
        assert load_from(needs(key), {name: '"o" '}).value(key) == '"o" '
        return
    for form in (" {} ", "{}\n", "{}\r\n", '"{}"', "'{}'", '" {} "\n'):
        text = form.format(other(key))
        assert load_from(needs(key), {name: text}).value(key) == plain
        assert load_from(needs(key), assignments=[f"{key}={text}"]).value(key) == plain


PLACEHOLDERS = {
    "${MY_HOST}": "${MY_HOST}",
    "$MY_HOST": "$MY_HOST",
    "%MY_HOST%": "%MY_HOST%",
    "${MY_HOST:-hunter2}": "${MY_HOST}",
    "${MY_HOST?hunter2}": "${MY_HOST}",
    "${env:MY_HOST}": "${env:MY_HOST}",
    "${input:my-host}": "${input:my}",
    "$env:MY_HOST": "$env:MY_HOST",
    "$(MY_HOST)": "$(MY_HOST)",
    "{{ my_host }}": "{{ my_host }}",
    "{{ .Values.host | default `hunter2` }}": "{{ Values.host }}",
}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_placeholder_that_nobody_expanded_is_named_with_the_remedy(refusal, name):
    key = ENVIRONMENT[name]
    group, _, leaf = key.partition(".")
    for text, named in PLACEHOLDERS.items():
        for error, source in (
            (refusal(environ={name: text}), f"environment variable {name}"),
            (refusal(assignments=[f"{key}={text}"]), f"command line (--set {key})"),
            (refusal(f"[{group}]\n{leaf} = '{text}'"), "file "),
        ):
            assert error.key == key
            assert error.source.startswith(source)
            assert repr(named) in str(error)
            assert "hunter2" not in str(error)
            remedy = "nothing is expanded in the settings file" if source == "file " else "leave"
            assert remedy in str(error)
        assert name in refusal(environ={name: text}).allowed


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("REDIS_URL", "redis://${REDIS_HOST}:6379", "${REDIS_HOST}"),
        ("REDIS_URL", "redis://$REDIS_HOST:6379/0", "$REDIS_HOST"),
        ("REDIS_URL", "redis://%REDIS_HOST%:6379", "%REDIS_HOST%"),
        ("REDIS_URL", "redis://%DB_HOST%:6379", "%DB_HOST%"),
        ("REDIS_URL", "redis://h:${REDIS_PORT}/0", "${REDIS_PORT}"),
        ("REDIS_URL", "redis://h:6379/$DB", "$DB"),
        ("REDIS_URL", "redis://:${REDIS_PASSWORD}@h", "${REDIS_PASSWORD}"),
        ("REDIS_URL", "redis://:$REDIS_PASSWORD@h", "$REDIS_PASSWORD"),
        ("REDIS_URL", "redis://u:%DB_PASSWORD%@h", "%DB_PASSWORD%"),
        ("REDIS_URL", "redis://${REDIS_USER}:hunter2@h", "${REDIS_USER}"),
        ("REDIS_URL", "redis://u:hunter2@${REDIS_HOST}", "${REDIS_HOST}"),
        ("REDIS_URL", "${SCHEME}://u:hunter2@h", "${SCHEME}"),
        ("REDIS_HOST", "redis-${ENVIRONMENT}.example", "${ENVIRONMENT}"),
        ("REDIS_HOST", "u:hunter2@$REDIS_HOST", "$REDIS_HOST"),
        ("REDSTREAMD_REDIS_PATH", "/run/$USER/redis.sock", "$USER"),
        ("REDSTREAMD_DAEMON_LISTEN", "tcp:127.0.0.1:1, unix:${XDG_RUNTIME_DIR}/m.sock", "${XDG_RUNTIME_DIR}"),
    ],
)
def test_a_placeholder_inside_of_an_address_is_named(refusal, name, text, named):
    error = refusal(environ={name: text})
    assert repr(named) in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    "password",
    ["$abc", "$Secret1", "$ABC123", "%abc%", "pa$$word", "a${B}", "{{", "$", "%41%42", "$$HOME_DIR"],
)
def test_a_password_that_only_resembles_a_placeholder_is_a_password(load_from, password):
    assert load_from(environ={"REDIS_PASSWORD": password}).settings.redis.password == password
    encoded = password.replace("%", "%25")
    if "{" not in password:
        loaded = load_from(environ={"REDIS_URL": f"redis://:{encoded}@h"})
        assert loaded.settings.redis.password == password


LINK = "tcp://10.0.0.1:6379"
LINKS = {
    "REDIS_SERVICE_HOST": "10.0.0.1",
    "REDIS_PORT_6379_TCP": LINK,
    "REDSTREAMD_SERVICE_HOST": "10.0.0.2",
    "REDSTREAMD_SERVICE_PORT": "7077",
    "REDSTREAMD_SERVICE_PORT_MCP": "7077",
    "REDSTREAMD_PORT": "tcp://10.0.0.2:7077",
    "REDSTREAMD_PORT_7077_TCP": "tcp://10.0.0.2:7077",
    "REDSTREAMD_PORT_7077_TCP_PROTO": "tcp",
    "REDSTREAMD_PORT_7077_TCP_PORT": "7077",
    "REDSTREAMD_PORT_7077_TCP_ADDR": "10.0.0.2",
    "REDSTREAMD_REDIS_MASTER_SERVICE_HOST": "10.0.0.3",
    "REDSTREAMD_REDIS_MASTER_PORT": "tcp://10.0.0.3:6379",
    "REDSTREAMD_REDIS_SERVICE_PORT_TCP_REDIS": "6379",
}


def test_the_variables_of_kubernetes_services_stop_nobody(load_from, refusal):
    loaded = load_from(environ=LINKS)
    assert loaded.settings == load_from().settings
    # A value set by hand under such a name may mean something unknown.
    assert refusal(environ={"REDSTREAMD_PORT": "7077"}).key == "REDSTREAMD_PORT"


@pytest.mark.parametrize("name", ["REDIS_PORT", "REDSTREAMD_REDIS_PORT"])
@pytest.mark.parametrize(
    ("toml", "environ", "options"),
    [
        ("", {"REDIS_URL": "redis://h"}, {}),
        ("", {"REDIS_URL": "redis://h:7000"}, {}),
        ("", {"REDIS_HOST": "h:7000"}, {}),
        ("", {"REDIS_HOST": "redis://h"}, {}),
        ("", {"REDSTREAMD_REDIS_PATH": "/r.sock"}, {}),
        ("", {"REDSTREAMD_DAEMON_EMBEDDED": "true"}, {}),
        ("", {}, {"embedded": True}),
        ("", {}, {"assignments": ["redis.port=7000"]}),
        ("[redis]\nport = 7000", {}, {}),
        ("[redis]\nurl = 'redis://h'", {}, {}),
        ("[redis]\npath = '/r.sock'", {}, {}),
    ],
)
def test_a_service_link_in_place_of_the_port_matters_only_where_the_port_is_used(
    load_from, refusal, name, toml, environ, options
):
    loaded = load_from(toml, environ | {name: LINK}, **options)
    assert loaded.settings == load_from(toml, environ, **options).settings
    for used in ({}, {"REDIS_HOST": "h"}):
        error = refusal(environ=used | {name: LINK})
        assert (error.key, error.source) == ("redis.port", f"environment variable {name}")
        assert "enableServiceLinks: false" in error.allowed
    assert refusal(f"[redis]\nport = '{LINK}'").key == "redis.port"


def address(loaded) -> tuple[Any, ...]:
    redis = loaded.settings.redis
    place = (redis.host, redis.port) if redis.path is None else str(redis.path)
    return (place, redis.tls, redis.username, redis.password, redis.database)


H, S = ("h", 6379), "/run/r.sock"
FORMS = {
    "redis://h": (H, False, None, None, 0),
    "redis://h/": (H, False, None, None, 0),
    "redis://h:7000/0": (("h", 7000), False, None, None, 0),
    "valkey://h:7000/3": (("h", 7000), False, None, None, 3),
    "valkeys://h": (H, True, None, None, 0),
    "rediss://h:7000": (("h", 7000), True, None, None, 0),
    "redis://u:p%40@h/2": (H, False, "u", "p@", 2),
    "valkey://:p@[::1]:7000": (("::1", 7000), False, None, "p", 0),
    "unix:///run/r.sock": (S, False, None, None, 0),
    "unix:/run/r.sock": (S, False, None, None, 0),
    "unix://u:p@/run/r.sock?db=2": (S, False, "u", "p", 2),
    "/run/r.sock": (S, False, None, None, 0),
    "tcp://h:7000": (("h", 7000), False, None, None, 0),
    "tcp:h:7000": (("h", 7000), False, None, None, 0),
    "h:7000": (("h", 7000), False, None, None, 0),
    "h:7000/": (("h", 7000), False, None, None, 0),
    "h:7000/3": (("h", 7000), False, None, None, 3),
    "127.0.0.1:7000": (("127.0.0.1", 7000), False, None, None, 0),
    "[::1]:7000": (("::1", 7000), False, None, None, 0),
    "u:p@h:7000": (("h", 7000), False, "u", "p", 0),
    ":p@h": (H, False, None, "p", 0),
}
NAMES = {
    "localhost": (("localhost", 6379), False, None, None, 0),
    "h": (H, False, None, None, 0),
    "h/": (H, False, None, None, 0),
    "my_redis-1.example.": (("my_redis-1.example.", 6379), False, None, None, 0),
    "::1": (("::1", 6379), False, None, None, 0),
    "[::1]": (("::1", 6379), False, None, None, 0),
    "fe80::1%eth0": (("fe80::1%eth0", 6379), False, None, None, 0),
    "[fd00::10:7000]": (("fd00::10:7000", 6379), False, None, None, 0),
}
ADDRESSES = [("redis.url", "redis.host", "redis.path"), FORMS], [("redis.url", "redis.host"), NAMES]


PLACES = [
    (key, text, expected)
    for keys, forms in ADDRESSES
    for key, (text, expected) in itertools.product(keys, forms.items())
]


@pytest.mark.parametrize(("key", "text", "expected"), PLACES)
def test_each_form_of_an_address_works_wherever_one_is_asked_for(load_from, key, text, expected):
    group, _, leaf = key.partition(".")
    for loaded in (
        load_from(f"[{group}]\n{leaf} = '{text}'"),
        *(load_from(environ={name: text}) for name, meant in ENVIRONMENT.items() if meant == key),
        load_from(assignments=[f"{key}={text}"]),
    ):
        assert address(loaded) == expected
        shown = " ".join(str(loaded.shown(each)) for each in loaded.sources)
        assert "p@" not in shown
        assert "p%40" not in shown


def test_a_host_with_its_port_and_another_port_contradict_each_other_in_one_source_only(load_from, refusal):
    error = refusal(environ={"REDIS_HOST": "h:7000", "REDIS_PORT": "6379"})
    assert error.key == "redis.host"
    assert "redis.port (from environment variable REDIS_PORT)" in error.allowed
    same = load_from(environ={"REDIS_HOST": "h:7000", "REDIS_PORT": "7000"})
    assert address(same)[0] == ("h", 7000)
    assert address(load_from("[redis]\nport = 1", {"REDIS_HOST": "h:7000"}))[0] == ("h", 7000)
    assert address(load_from("[redis]\nhost = 'h:7000'", {"REDIS_PORT": "1"}))[0] == ("h", 1)
    assert refusal(environ={"REDIS_HOST": "redis://a", "REDIS_URL": "redis://b"}).key == "redis.host"
    both = load_from(environ={"REDIS_HOST": "redis://a", "REDIS_URL": "valkey://a"})
    assert address(both)[0] == ("a", 6379)


def test_a_whole_address_under_another_setting_replaces_what_earlier_sources_say(load_from):
    toml = "[redis]\nhost = 'old'\npassword = 'old'\n"
    assert address(load_from(toml, {"REDIS_HOST": "redis://new"})) == (("new", 6379), False, None, None, 0)
    assert address(load_from(toml, {"REDIS_HOST": "new"})) == (("new", 6379), False, None, "old", 0)


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("REDIS_HOST", "fd00::1:6379", "[ADDRESS]:PORT"),
        ("REDIS_HOST", "hunter2@h", "redis.password (REDIS_PASSWORD)"),
        ("REDIS_URL", "hunter2@h", "redis.password (REDIS_PASSWORD)"),
        ("REDIS_HOST", "memcached://h", "redis://"),
        ("REDIS_HOST", "h:7000,i:7000", "redis.nodes (REDIS_NODES)"),
        ("REDIS_URL", "redis://h,i", "redis+cluster://"),
        ("REDIS_HOST", "h:port", "a port is a number"),
        ("REDIS_HOST", "two words", "without spaces"),
        ("REDSTREAMD_REDIS_PATH", "localhost", "redis.host"),
        ("REDIS_PORT", "localhost:6379", "an integer from 1"),
    ],
)
def test_what_is_not_unambiguous_is_refused_with_the_setting_to_use(refusal, name, text, hint):
    error = refusal(environ={name: text})
    assert error.key == ENVIRONMENT[name]
    assert hint in error.allowed


LOGINS = [
    "redis://user:hunter2@h:6379",
    "redis://:hunter2@h",
    "rediss://user:hun/ter2@h",
    "user:hunter2@h:6379",
    "tcp:user:hunter2@127.0.0.1:1",
    "tcp://user:hunter2@127.0.0.1:1",
    "unix:hunter2@/run/x.sock",
    "hunter2@h",
    "http://h/?password=hunter2",
    "http://user:hunter2@h",
]


@pytest.mark.parametrize("name", VARIABLES)
def test_a_login_in_the_wrong_place_is_never_shown(load_from, name):
    key = ENVIRONMENT[name]
    group, _, leaf = key.partition(".")
    for text, (toml, environ, assignments) in itertools.product(
        LOGINS,
        (
            ("", {name: "{}"}, []),
            ("", {}, [f"{key}={{}}"]),
            (f"[{group}]\n{leaf} = '{{}}'", {}, []),
            (f"[{group}]\n{leaf} = ['{{}}']", {}, []),
            (f"[{group}]\n{leaf} = [['{{}}']]", {}, []),
            (f"[{group}.{leaf}]\nurl = '{{}}'", {}, []),
        ),
    ):
        if key in ("redis.username", "redis.sentinel_username") and text == "hunter2@h":
            continue  # A user can be called that.
        environ = {each: form.format(text) for each, form in environ.items()}
        toml, assignments = toml.format(text), [form.format(text) for form in assignments]
        try:
            loaded = load_from(toml, environ, assignments=assignments)
        except SettingsError as refused:
            shown = [str(refused), repr(refused.value), *(check.seen for check in invalid_settings(refused))]
        else:
            shown = [
                repr(loaded),
                str(loaded.settings),
                *(str(loaded.shown(each)) for each in loaded.sources),
            ]
        assert not any("hun" in line.replace("[", "") and "ter2" in line for line in shown), shown


@pytest.mark.parametrize("text", LOGINS)
def test_a_login_given_to_listen_or_as_an_assignment_or_a_file_is_never_shown(refusal, text):
    for error in (refusal(listen=[text]), refusal(assignments=[text]), refusal(assignments=[f"{text}=1"])):
        assert "ter2" not in str(error)
    if "@" in text:
        with pytest.raises(SettingsError) as raised:
            load(config=Path(text), environ={})
        assert "ter2" not in str(raised.value)


LISTEN = {
    "unix:/run/x.sock": "unix:/run/x.sock",
    "unix:///run/x.sock": "unix:/run/x.sock",
    "UNIX:/run/x.sock": "unix:/run/x.sock",
    "/run/x.sock": "unix:/run/x.sock",
    "tcp:localhost:7077": "tcp:localhost:7077",
    "tcp://localhost:7077": "tcp:localhost:7077",
    "tcp://[::1]:7077/": "tcp:[::1]:7077",
    "localhost:7077": "tcp:localhost:7077",
    "127.0.0.1:0": "tcp:127.0.0.1:0",
    "[::1]:7077": "tcp:[::1]:7077",
}


@pytest.mark.parametrize(("text", "meant"), LISTEN.items())
def test_each_form_of_an_address_of_the_daemon_works_in_each_place(load_from, text, meant):
    for loaded in (
        load_from(listen=[text]),
        load_from(environ={"REDSTREAMD_DAEMON_LISTEN": text}),
        load_from(assignments=[f"daemon.listen={text}"]),
        load_from(f"[daemon]\nlisten = '{text}'"),
        load_from(f"[daemon]\nlisten = ['{text}']"),
    ):
        assert [str(each) for each in loaded.settings.daemon.listen] == [meant]
    assert str(ListenAddress.parse(meant)) == meant


def test_every_default_passes_the_check_that_given_values_pass(load_from, tmp_path):
    for setting in describe():
        if setting.default.startswith(("(not set)", "$")):
            continue
        group, _, leaf = setting.key.partition(".")
        loaded = load_from(f"[{group}]\n{leaf} = {setting.default}", {"HOME": str(tmp_path)})
        assert loaded.value(setting.key) == load_from(environ={"HOME": str(tmp_path)}).value(setting.key)


@pytest.mark.parametrize(
    "environ",
    [{"STATE_DIRECTORY": "relative"}, {"STATE_DIRECTORY": "${STATE_DIRECTORY}"}, {"HOME": "$HOME"}, {}],
)
def test_a_default_state_directory_that_is_no_path_is_refused(load_from, refusal, monkeypatch, environ):
    # A user that exists in a container by number only.
    monkeypatch.setattr(default_paths, "_home", lambda: "~")
    error = refusal(environ=environ)
    assert (error.key, error.source) == ("daemon.state_directory", "default")
    assert "STATE_DIRECTORY, XDG_STATE_HOME and HOME" in error.allowed
    load_from(environ=environ | {"REDSTREAMD_DAEMON_STATE_DIRECTORY": "/state"})


def test_a_home_that_is_no_path_gives_way_to_that_of_the_user(monkeypatch):
    monkeypatch.setenv("HOME", "$HOME")
    assert default_paths.default_state_directory({"HOME": "$HOME"}).startswith("/")
    assert "$HOME" not in default_paths.default_state_directory({"HOME": "$HOME"})


@pytest.mark.parametrize("directory", ["/" + "d" * 100, "relative", "${RUNTIME_DIRECTORY}"])
async def test_a_default_socket_that_cannot_be_one_is_refused_like_a_given_one(monkeypatch, directory):
    monkeypatch.setenv("RUNTIME_DIRECTORY", directory)
    with pytest.raises(SettingsError) as raised:
        await sockets.open_listeners(sockets.Settings(), sockets.Activated())
    assert (raised.value.key, raised.value.source) == ("daemon.listen", "default")
    assert "unix:PATH" in raised.value.allowed
    assert "RUNTIME_DIRECTORY" in raised.value.allowed
