"""The server's clock, by whose milliseconds things come due and deliveries are told apart."""

from __future__ import annotations

from tests.support.servers import Server


def milliseconds(server: Server) -> int:
    """Return what it shows, since the epoch."""
    seconds, micros = server.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def next_millisecond(server: Server) -> None:
    """Return once it shows another one: what is released comes due half a millisecond later."""
    began = milliseconds(server)
    while milliseconds(server) <= began:
        pass
