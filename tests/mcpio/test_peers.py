"""Who is at the other end, and who holds most connections."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.mcpio.listeners import open_tcp_listeners
from redstreamd.mcpio.peers import (
    UNKNOWN,
    described,
    peer_of,
    peer_text,
    process_name,
    top_holders,
    user_principal,
    users_are_hidden,
)
from redstreamd.policy import Principal
from tests.mcpio.serving import socket_pair


async def test_a_unix_client_is_its_process_and_a_tcp_client_its_address() -> None:
    ours, theirs = socket_pair()
    async with ours, theirs:
        assert peer_of(ours) == Peer(uid=os.getuid(), pid=os.getpid())
    (listener,) = await open_tcp_listeners("127.0.0.1", 0)
    async with listener, await trio.testing.open_stream_to_socket_listener(listener) as client:
        async with await listener.accept() as accepted:
            assert peer_of(accepted) == Peer(address="127.0.0.1")
        assert client.socket.family == socket.AF_INET


async def test_of_a_closed_connection_nothing_is_known() -> None:
    ours, theirs = socket_pair()
    await ours.aclose()
    await theirs.aclose()
    assert peer_of(ours) == UNKNOWN


def test_people_read_the_name_of_a_process_where_it_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    name = process_name(os.getpid())
    assert name
    assert peer_text(Peer(pid=os.getpid())) == f"process {os.getpid()} ({name})"
    # No process has this ID (pid_max in proc(5)); a hidden one looks the same.
    assert peer_text(Peer(pid=1 << 23)) == f"process {1 << 23}"
    assert (peer_text(UNKNOWN), peer_text(Peer(address="::1"))) == ("an unknown process", "::1")


FAR = Peer(address="10.0.0.1")


def pid(number: int) -> Peer:
    return Peer(uid=1000, pid=number)


def test_those_who_hold_most_come_first_whatever_sockets_they_use() -> None:
    accounts = Accounts()
    opened = [
        accounts.open(Principal(principal, "unix"), peer, f"{principal} {peer} {number}")
        for principal, peer, count in (
            ("agents", pid(11), 1),
            ("agents", pid(12), 2),
            ("admin", pid(12), 3),
            ("agents", FAR, 3),
            ("admin", pid(13), 2),
        )
        for number in range(count)
    ]
    assert top_holders(accounts) == ((pid(12), 5), (FAR, 3), (pid(13), 2))
    for account in opened:
        if account.peer == pid(12):
            accounts.close(account)
    assert [(each.address, each.pid, each.connections) for each in described(top_holders(accounts))] == [
        ("10.0.0.1", None, 3),
        (None, 13, 2),
        (None, 11, 1),
    ]


def test_a_user_is_a_principal_by_number_and_hidden_ones_are_one_together() -> None:
    mcp = Principal("mcp", "unix")
    names = {
        0: "uid:0",
        1000: "uid:1000",
        65533: "uid:65533",
        # Outside of our user namespace; no credentials; gone already.
        65534: "uid:unknown",
        -1: "uid:unknown",
        None: "uid:unknown",
    }
    for uid, name in names.items():
        assert user_principal(mcp, Peer(uid=uid, pid=1)) == Principal(f"mcp/{name}", "unix", "mcp")


@pytest.mark.parametrize(
    ("uid_map", "hidden"),
    [
        ("         0          0 4294967295\n", False),
        ("         0     100000      65536\n", False),
        # PrivateUsers=: root and the service's own user.
        ("         0          0          1\n     61184      61184          1\n", True),
        ("", True),
    ],
)
def test_a_user_namespace_with_few_users_hides_the_others(tmp_path: Path, uid_map: str, hidden: bool) -> None:
    file = tmp_path / "uid_map"
    file.write_text(uid_map)
    assert users_are_hidden(file) is hidden
    assert users_are_hidden(tmp_path / "none") is False
