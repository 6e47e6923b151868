"""The daemon's address in each form, and what errors show of an invalid one."""

from __future__ import annotations

import socket

import pytest

from redstreamd.addresses.address_syntax import Address
from redstreamd.cli import main
from redstreamd.client import discovery

FORMS = {
    "/run/x.sock": Address("unix", "/run/x.sock"),
    "x.sock": Address("unix", "x.sock"),
    "./x.sock": Address("unix", "./x.sock"),
    "unix:/run/x.sock": Address("unix", "/run/x.sock"),
    "unix:///run/x.sock": Address("unix", "/run/x.sock"),
    "unix:x.sock": Address("unix", "x.sock"),
    "tcp:localhost:7077": Address("tcp", host="localhost", port=7077),
    "tcp://localhost:7077": Address("tcp", host="localhost", port=7077),
    "tcp://localhost:7077/": Address("tcp", host="localhost", port=7077),
    "localhost:7077": Address("tcp", host="localhost", port=7077),
    "[::1]:7077": Address("tcp", host="::1", port=7077),
}


@pytest.mark.parametrize("text", ["x.sock", "./x.sock", "unix:x.sock"])
def test_a_daemon_that_restarts_is_waited_for_however_its_socket_is_named(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    times, slept = iter(range(100)), []
    with pytest.raises(discovery.UnreachableError):
        discovery.find_daemon(text, now=lambda: next(times), sleep=slept.append)
    assert len(slept) == discovery.RESTART_GRACE - 1


@pytest.mark.parametrize(("text", "meant"), FORMS.items())
def test_each_form_of_the_daemons_address_is_read(text, meant):
    assert discovery.parse_address(text, "--socket") == meant


def test_each_form_reaches_a_daemon_by_option_and_by_variable(place, monkeypatch):
    with socket.socket(socket.AF_UNIX) as local, socket.create_server(("127.0.0.1", 0)) as network:
        local.bind(str(place))
        local.listen()
        port = network.getsockname()[1]
        monkeypatch.chdir(place.parent)
        for text in (
            *(str(place), f"unix:{place}", f"unix://{place}", place.name, f"'{place}'"),
            *(f"tcp:127.0.0.1:{port}", f"tcp://127.0.0.1:{port}", f"127.0.0.1:{port}"),
        ):
            monkeypatch.delenv("REDSTREAMD_SOCKET", raising=False)
            with discovery.open_connection(text) as connection:
                assert connection.getpeername() in (str(place), place.name, ("127.0.0.1", port))
            monkeypatch.setenv("REDSTREAMD_SOCKET", text)
            with discovery.open_connection("") as connection:
                assert connection.getpeername() in (str(place), place.name, ("127.0.0.1", port))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("redis://user:hunter2@h:6379", "redis.url (REDIS_URL)"),
        ("tcp:user:hunter2@h:1", "redis.username and redis.password"),
        ("user:hunter2@h:1", "redis.username and redis.password"),
        ("hunter2@h", "redis.username and redis.password"),
        ("${SOCKET:-hunter2}", "${SOCKET} is a placeholder"),
        ("$XDG_RUNTIME_DIR/mcp.sock", "$XDG_RUNTIME_DIR is a placeholder"),
        ("%SOCKET%", "%SOCKET% is a placeholder"),
        ("${env:SOCKET}", "${env:SOCKET} is a placeholder"),
        ("::1:7077", "[ADDRESS]:PORT"),
        ("localhost:", "a port is a number"),
        ("http:h:1", "Streamable HTTP"),
        ("/" + "x" * 107, "at most 107 bytes"),
    ],
)
def test_what_is_no_address_of_the_daemon_is_refused_without_showing_a_login(monkeypatch, capsys, text, why):
    for command in (["call", "stream_list"], ["status"]):
        monkeypatch.delenv("REDSTREAMD_SOCKET", raising=False)
        assert main([command[0], "--socket", text, *command[1:]]) == 78
        monkeypatch.setenv("REDSTREAMD_SOCKET", text)
        assert main(command) == 78
    by_option, by_variable = capsys.readouterr().err.splitlines()[:2]
    assert by_option.startswith("redstreamd: --socket does not name")
    assert by_variable.startswith("redstreamd: REDSTREAMD_SOCKET does not name")
    for line in (by_option, by_variable):
        assert why in line
        assert "hunter2" not in line


@pytest.mark.parametrize(
    "words",
    [
        ["redis://user:hunter2@h"],
        ["serve", "redis://user:hunter2@h"],
        ["serve", "--redis=hunter2"],
        ["serve", "--set", "redis.password", "hunter2"],
        ["status", "--socket", "/x", "hunter2"],
        ["check-config", "--set", "redis://user:hunter2@h"],
        ["check-config", "--set", "redis://user:hunter2@h?x=1"],
        ["check-config", "--config", "redis://user:hunter2@h"],
        ["check-config", "--listen", "tcp:user:hunter2@h:1"],
        ["doctor", "--listen", "redis://:hunter2@h"],
    ],
)
def test_a_secret_in_the_wrong_place_of_a_command_line_is_not_shown(capsys, words):
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code
    assert status in (64, 78)
    shown = capsys.readouterr()
    assert "hunter2" not in shown.out + shown.err
