"""What happens to the connections of a manager, as values for the journal and the metrics.

One event is one change: of a hundred failed attempts for the same reason only the first is told.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

import attrs

from redstreamd.redisio.connect_errors import Failure


class Role(enum.Enum):
    """What a connection is for; each is opened when it is first needed."""

    COMMAND = "command"
    """Everything short."""
    WATCH = "watch"
    """Key tracking; its push notifications wake those who wait."""
    BULK = "bulk"
    """Large reads, which would hold up short commands behind them."""
    DURABLE = "durable"
    """Writes that are to be confirmed, with the WAIT that confirms them and holds up the connection."""


#: The same in the words of records, the status line and errors.
ROLE_WORDS: Final = {
    Role.COMMAND: "short commands",
    Role.WATCH: "waiting calls",
    Role.BULK: "large reads",
    Role.DURABLE: "confirmed writes",
}


def roles_in_words(roles: Iterable[Role]) -> str:
    """Return what connections are for, such as "short commands, large reads"."""
    return ", ".join(ROLE_WORDS[role] for role in roles)


@attrs.frozen
class Connected:
    """A lane is usable.

    Attributes:
        role: Which.
        label: The server's address.
        server: What it calls itself, such as "redis 7.0.15".
        attempts: How many attempts failed before this one.
        down_seconds: How long the lane was without a connection.
    """

    role: Role
    label: str
    server: str
    attempts: int
    down_seconds: float


@attrs.frozen
class ConnectionLost:
    """A lane was usable and is not any more.

    Attributes:
        role: Which.
        label: The server's address.
        failure: Why.
        up_seconds: How long it had been usable.
    """

    role: Role
    label: str
    failure: Failure
    up_seconds: float


@attrs.frozen
class ConnectFailed:
    """A lane cannot be made usable, for a reason not told before.

    Attributes:
        role: Which.
        label: The server's address.
        failure: Why.
    """

    role: Role
    label: str
    failure: Failure


@attrs.frozen
class LoginRenewed:
    """A live connection has logged in again, with renewed credentials.

    Attributes:
        role: Which.
        label: The server's address.
    """

    role: Role
    label: str


@attrs.frozen
class RenewalFailed:
    """Credentials could not be renewed; connections go on with the old ones while Redis lets them.

    Attributes:
        label: The server's address.
        cause: Why, without secrets.
    """

    label: str
    cause: str


@attrs.frozen
class WritesRefused:
    """The server answers, and refuses to write; told again for another reason, or after `WritesAccepted`.

    Attributes:
        label: The server's address.
        code: The word that opened its reply: OOM, READONLY or MISCONF.
        cause: The reply.
        next_step: What an operator can change.
    """

    label: str
    code: str
    cause: str
    next_step: str


@attrs.frozen
class WritesAccepted:
    """The server writes again.

    Attributes:
        label: The server's address.
        refused_seconds: For how long it did not.
    """

    label: str
    refused_seconds: float


@attrs.frozen
class Unusable:
    """A reason for not being connected that was not told since all wanted lanes were connected last.

    Attributes:
        label: The server's address.
        roles: What is not connected.
        failure: Why.
    """

    label: str
    roles: tuple[Role, ...]
    failure: Failure


@attrs.frozen
class Usable:
    """All lanes that are wanted are connected, for the first time or again.

    Attributes:
        label: The server's address.
        server: What it calls itself.
        roles: Which were connected since this was told last.
        lost: Why the first of their connections ended; None if there was none before.
        down_seconds: How long the longest of them was without a connection.
        attempts: How many attempts failed for it.
    """

    label: str
    server: str
    roles: tuple[Role, ...]
    lost: Failure | None
    down_seconds: float
    attempts: int


@attrs.frozen
class KeepsEnding:
    """Connections are made again at once, and end again and again soon after.

    Attributes:
        label: The server's address.
        roles: Those to which that happened first.
        times: How often in a row.
        failure: How the last one ended.
        next_step: What an operator can change.
    """

    label: str
    roles: tuple[Role, ...]
    times: int
    failure: Failure
    next_step: str


RoleEvent = Connected | ConnectionLost | ConnectFailed
RedisEvent = RoleEvent | LoginRenewed | RenewalFailed | WritesRefused | WritesAccepted
OutageEvent = Unusable | Usable | KeepsEnding
