"""What the requests of a bridge need of the session that they belong to; `bridged_session` has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from redstreamd.client.request_table import RequestTable
    from redstreamd.client.subscription_memory import SubscriptionMemory


class Session(Protocol):
    """The session of one client.

    Attributes:
        now: A clock in seconds.
        to_daemon: Lines to be sent.
        to_client: The same for the client.
        notices: What a person should know.
        requests: Those that are not answered.
        subscriptions: Those of the handshake era.
        has_client_ended: Whether the client has sent all that it will.
    """

    now: Callable[[], float]
    to_daemon: list[bytes]
    to_client: list[bytes]
    notices: list[str]
    requests: RequestTable
    subscriptions: SubscriptionMemory
    has_client_ended: bool

    @property
    def is_open(self) -> bool:
        """Whether the present connection takes requests."""

    @property
    def has_handshake(self) -> bool:
        """Whether the client has shaken hands."""

    def remember_handshake(self, request_id: bytes, line: bytes, answer: bytes) -> None:
        """Keep a handshake for the next connections."""
