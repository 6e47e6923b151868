"""Quotas of a real daemon: two principals that may have different amounts of the same."""

from __future__ import annotations

import json
import socket

from tests.daemon.test_rates import Client, refused, two_sockets
from tests.support.servers import Server


def test_each_principal_has_what_its_quota_says(redis: Server) -> None:
    quotas = "tcp have waits=1 connections=2 result_bytes=1024 stream_list=1/h,* have stream_list=3/h burst 3"
    with two_sockets(redis, "--set", f"policy.quotas={quotas}") as (unix, tcp):
        entries = [{"text": "x" * 300} for _ in range(6)]
        unix.send("stream_add", stream="s:t:u", entries=entries)
        assert len(unix.answers(1)[0]["ids"]) == 6
        results_are_cut_to_the_quota(unix, tcp)
        a_take_ends_within_the_quota(unix, tcp)
        for client, passing in ((unix, 3), (tcp, 1)):
            for _ in range(5):
                client.send("stream_list")
            errors = refused(client.answers(5))
            assert len(errors) == 5 - passing
            assert "policy.quotas" in errors[0]["cause"]
        waits_are_refused(unix, tcp)
        connections_are_refused(tcp)


def results_are_cut_to_the_quota(unix: Client, tcp: Client) -> None:
    """The pages of who may have less are smaller, and lead to the same entries."""
    unix.send("stream_read", stream="s:t:u", count=10)
    (whole,) = unix.answers(1)
    assert len(whole["entries"]) == 6
    found, cursor = [], {}
    while True:
        tcp.send("stream_read", stream="s:t:u", count=10, **cursor)
        (page,) = tcp.answers(1)
        assert 1 <= len(page["entries"]) <= 2
        assert len(json.dumps(page["entries"], separators=(",", ":"))) <= 1024
        found += page["entries"]
        if not page["has_more"]:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == whole["entries"]
    # Both wait at the same place, and get what each may have of it.
    waiting = {"streams": ["s:t:u"], "cursor": "0-0", "count": 10}
    for client, most in ((unix, 6), (tcp, 2)):
        client.send("stream_wait", **waiting)
        (answer,) = client.answers(1)
        assert len(answer["entries"]) == most


def a_take_ends_within_the_quota(unix: Client, tcp: Client) -> None:
    """What others would get stays for the next take."""
    for client, most in ((tcp, 4), (unix, 6)):
        client.send("work_take", stream="s:t:u", group=f"g{most}", consumer="c", count=10)
        (taken,) = client.answers(1)
        assert len(taken["entries"]) == most
        assert (len(json.dumps(taken["entries"], separators=(",", ":"))) <= 1024) == (client is tcp)


def waits_are_refused(unix: Client, tcp: Client) -> None:
    """At the quota nobody else's wait ends."""
    for client in (unix, unix, tcp, tcp):
        client.send("stream_wait", streams=["s:t:u"], timeout_seconds=30)
    (error,) = refused(tcp.answers(1))
    assert "policy.quotas" in error["next_step"]
    unix.send("stream_add", stream="s:t:u", entries=[{"n": 1}])
    assert not refused(unix.answers(3))
    assert tcp.answers(1)[0]["entries"]


def connections_are_refused(tcp: Client) -> None:
    """One beyond the quota is told so."""
    address = tcp.connection.getpeername()
    second = Client(socket.create_connection(address, timeout=60))
    second.send("stream_read", stream="s:t:u", count=1)
    assert second.answers(1)[0]["entries"]
    with second.connection, socket.create_connection(address, timeout=60) as third:
        third.sendall(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        told = third.makefile().readline()
        assert "policy.quotas" in told
        assert "2 connections of tcp" in told
