"""What sentinels say of a primary, as values, and which server follows from what several of them say.

Owns reading their replies and the choice. It does no I/O, and is told the time. Asking is done in
``sentinel_watch``, trying a server out in ``sentinel``.

A sentinel counts failovers by its configuration epoch (https://redis.io/docs/latest/operate/oss_and_stack/
management/sentinel/). The first one to know of a failover names the new primary with a higher epoch than
before; the others follow within about a second. One that was cut off goes on naming the old one, with the
old epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs

from redstreamd.redisio.announced_address import Address, announced_address

#: Sentinels of one primary that are asked. Sites have three or five; a reply that lists more is not followed.
MAX_SENTINELS: Final = 16

#: Seconds that more than half must have gone on naming a server with a lower epoch than was seen, before it
#: is used. Sentinels tell each other of a failover at once, and every two seconds.
BEHIND_SECONDS: Final = 5.0


class UnreadableAnswerError(Exception):
    """A sentinel answered something that no sentinel answers; its text says what."""


@attrs.frozen
class NamedPrimary:
    """What one sentinel says of the primary.

    Attributes:
        address: As it announces it.
        epoch: The configuration epoch: how many failovers that sentinel knows of, at least.
        flags: What it thinks of it, such as "s_down" (it does not answer) or "failover_in_progress".
    """

    address: Address
    epoch: int
    flags: frozenset[str] = frozenset()


@attrs.frozen
class KnownSentinel:
    """A sentinel that another one knows.

    Attributes:
        address: As it announces it.
        run_id: What SENTINEL MYID replies there: two addresses with the same are one sentinel.
    """

    address: Address
    run_id: str


@attrs.frozen
class Candidate:
    """A server that may be the primary.

    Attributes:
        address: As the sentinels announce it.
        epoch: The highest with which it is named.
        votes: How many sentinels name it.
        is_by_most: Whether these are more than half of all.
    """

    address: Address
    epoch: int
    votes: int
    is_by_most: bool


def named_primary(master: Any, address: Any) -> NamedPrimary:
    """Read the replies to SENTINEL MASTER and SENTINEL GET-MASTER-ADDR-BY-NAME, asked in this order.

    While a failover is under way, the first one has its epoch already, and still the address of the former
    primary; the second one has the new address from the moment on that the replica is promoted.

    Raises:
        UnreadableAnswerError: They make no sense.
    """
    fields = _fields(master)
    if not isinstance(address, list) or len(address) != 2:
        raise UnreadableAnswerError("no address of the primary")
    flags = _text(fields.get(b"flags", b"")).split(",")
    return NamedPrimary(
        _address(address[0], address[1]),
        _number(fields.get(b"config-epoch"), "config-epoch"),
        frozenset(flag for flag in flags if flag),
    )


def known_sentinels(reply: Any) -> list[KnownSentinel]:
    """Read the reply to SENTINEL SENTINELS.

    Raises:
        UnreadableAnswerError: It makes no sense.
    """
    if not isinstance(reply, list):
        raise UnreadableAnswerError("no list of sentinels")
    found = []
    for line in reply[:MAX_SENTINELS]:
        fields = _fields(line)
        address = _address(fields.get(b"ip"), fields.get(b"port"))
        found.append(KnownSentinel(address, _text(fields.get(b"runid", b""))))
    return found


def is_switch(message: list[Any], name: str) -> bool:
    """Return whether a message of the channel +switch-master is about the primary `name`."""
    # message, channel, "name old-host old-port new-host new-port"
    told = message[2] if len(message) == 3 and message[0] == b"message" else None
    return isinstance(told, bytes) and told.split(b" ")[0] == name.encode()


def candidates(answers: Iterable[NamedPrimary], *, total: int, current: Address | None) -> list[Candidate]:
    """Return which servers are named: those with the highest epoch first, and of these the most named.

    Args:
        answers: What each sentinel that answers says.
        total: How many sentinels there are, those that do not answer included.
        current: The server that is used; it wins a tie.
    """
    voters: dict[Address, list[int]] = {}
    for answer in answers:
        voters.setdefault(answer.address, []).append(answer.epoch)
    found = [
        Candidate(address, max(epochs), len(epochs), len(epochs) * 2 > total)
        for address, epochs in voters.items()
    ]
    # Addresses last, so that the order of the answers does not count.
    return sorted(found, key=lambda each: (-each.epoch, -each.votes, each.address != current, each.address))


class Choice:
    """Which of the servers that are named may be used, after those that were.

    A server that is named with a lower epoch than was seen is not: those who name it do not know of the last
    failover yet, or were cut off. Unless they are more than half of all, and stay so for longer than
    sentinels need to tell each other, as after they were set up anew.

    Attributes:
        current: The server that is used.
        epoch: The highest with which it was named.
    """

    def __init__(self) -> None:
        """Begin without a server."""
        self.current: Address | None = None
        self.epoch = 0
        self._behind_since: float | None = None
        # What fewer went on naming when more than half led back to a lower epoch.
        self._overruled: set[tuple[Address, int]] = set()

    def forget(self) -> None:
        """Take any epoch for as good: other sentinels are asked from now on."""
        self.epoch = 0
        self._behind_since = None
        self._overruled.clear()

    def among(self, found: list[Candidate], now: float) -> list[Candidate]:
        """Return those that may be used, the most likely one first."""
        most = next((each for each in found if each.is_by_most and each.epoch < self.epoch), None)
        if most is None:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since >= BEHIND_SECONDS:
            self._overruled = {(each.address, each.epoch) for each in found if not each.is_by_most}
            return [most]
        return [
            each
            for each in found
            if each.epoch >= self.epoch
            and (each.is_by_most or (each.address, each.epoch) not in self._overruled)
        ]

    def use(self, candidate: Candidate) -> None:
        """Take note that one of them is used."""
        self.current = candidate.address
        if candidate.epoch > self.epoch or candidate.is_by_most:
            self.epoch = candidate.epoch


def _fields(reply: Any) -> dict[Any, Any]:
    if isinstance(reply, dict):
        return reply
    # RESP2, as something in between may make of it.
    if isinstance(reply, list) and len(reply) % 2 == 0:
        try:
            return dict(zip(reply[::2], reply[1::2], strict=True))
        except TypeError:
            pass
    raise UnreadableAnswerError("no fields")


def _address(host: Any, port: Any) -> Address:
    try:
        return announced_address(host, _number(port, "port"))
    except ValueError as wrong:
        raise UnreadableAnswerError(str(wrong)) from None


def _text(value: Any) -> str:
    if not isinstance(value, bytes):
        raise UnreadableAnswerError("a value that is no text")
    return value.decode("utf-8", "backslashreplace")


def _number(value: Any, what: str) -> int:
    text = _text(value)
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise UnreadableAnswerError(f"{what} is no number")
    return int(text)
