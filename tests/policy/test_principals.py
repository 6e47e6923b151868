"""Principals: their names, and what is whose."""

from __future__ import annotations

from redstreamd.policy import Principal

SOCKET = Principal("mcp", "unix")
ANN, BOB = SOCKET.proved("uid:1000"), SOCKET.proved("uid:1001")


def test_a_socket_owns_what_it_made() -> None:
    assert SOCKET.owns("mcp")
    assert not SOCKET.owns("admin")
    assert not SOCKET.owns("")


def test_users_of_a_socket_own_what_they_made_and_what_the_socket_made_before() -> None:
    assert (ANN.name, ANN.transport) == ("mcp/uid:1000", "unix")
    assert ANN.owns("mcp/uid:1000")
    assert ANN.owns("mcp")
    assert not ANN.owns(BOB.name)
    assert not ANN.owns("admin")
    assert not ANN.owns("")


def test_what_a_user_made_does_not_belong_to_the_socket() -> None:
    assert not SOCKET.owns(ANN.name)
