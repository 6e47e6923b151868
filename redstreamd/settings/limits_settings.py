"""The settings of what clients may hold and use; see `sections`."""

from __future__ import annotations

from typing import Annotated

import attrs
from msgspec import Meta

from redstreamd.policy.rate import Rate


@attrs.frozen(kw_only=True)
class LimitsSettings:
    """Limits of one client, and of all together."""

    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Connections at a time. At the limit, an idle connection of whoever has most of "
            "them is closed for a client that has less; whoever has most is told so in answer to its first "
            "request, and closed. Each needs a file descriptor and, when idle, about 11 KiB. Raise "
            "LimitNOFILE= of the service with it: where there are too few descriptors, so many connections "
            "as they allow are served, and the start, `redstreamd status` and `redstreamd doctor` say so.",
        ),
    ] = 4096
    max_message_bytes: Annotated[
        int,
        Meta(
            ge=65_536,
            le=268_435_456,
            description="The largest message in bytes, such as a call with 100 entries of 80 kB each; a "
            "larger one is skipped and answered with an error. To decode 4 MiB takes 10 ms in two "
            "steps, between which others are served.",
        ),
    ] = 4 * 1024 * 1024
    max_requests_in_flight: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="Unanswered requests of one connection; one more is refused.",
        ),
    ] = 256
    max_nesting: Annotated[
        int,
        Meta(
            ge=8,
            le=200,
            description="The deepest nesting of arrays and objects in a message. Real entries have a few "
            "levels, and recursive decoders fail at about 1,000.",
        ),
    ] = 100
    max_waits: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Calls that wait for entries at a time, on all connections together. At the limit, "
            "the oldest wait of whoever has most of them ends early for one who has less, as if its time "
            "were over; whoever has most is refused with RATE_LIMITED.",
        ),
    ] = 10_000
    max_memory_bytes: Annotated[
        int,
        Meta(
            ge=1_048_576,
            le=1_099_511_627_776,
            description="What all clients together may make the daemon hold, in bytes: unfinished messages, "
            "requests in flight with their arguments, waits among them, and answers that nobody reads. "
            "Beyond it, the client that holds most is refused, or closed if it does not read its answers. "
            "Two of the largest messages always fit. The daemon itself needs some 80 MiB in addition.",
        ),
    ] = 128 * 1024 * 1024
    unread_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=86_400.0,
            description="How long a client may read nothing while more than 64 KiB of answers wait for it; "
            "then it is disconnected.",
        ),
    ] = 60.0
    max_waits_per_principal: Annotated[
        int | None,
        Meta(
            ge=1,
            le=1_000_000,
            description="The same for the clients of one principal (of one socket). If not set, a principal "
            "may have as many as all.",
        ),
    ] = None
    max_connections_per_principal: Annotated[
        int | None,
        Meta(
            ge=1,
            le=1_000_000,
            description="Connections of one principal (through one socket) at a time. If not set, a "
            "principal may have as many as all. Set it on hosts with sockets for several roles, so that one "
            "role leaves room for the others.",
        ),
    ] = None
    max_subscriptions: Annotated[
        int | None,
        Meta(
            ge=1,
            le=1_000_000,
            description="Subscriptions to resources at a time, on all connections together; one more is "
            "refused with TOO_MANY_SUBSCRIPTIONS. The last quarter is for those who hold little: in it a "
            "process may hold as many as a quarter of what is free. If not set, it is limits.max_waits.",
        ),
    ] = None
    max_subscriptions_per_principal: Annotated[
        int | None,
        Meta(
            ge=1,
            le=1_000_000,
            description="The same for the clients of one principal. If not set, a principal may have as many "
            "as all.",
        ),
    ] = None
    rates: Annotated[
        tuple[Rate, ...],
        Meta(
            description='How often a principal may call a tool, such as ["stream_add=1000/s", '
            '"group_create@agents=5/min burst 20"]; one call more is refused with RATE_LIMITED, which says '
            "when to come back. Each principal has a bucket of its own for each tool. After a pause as many "
            "calls may come at once as in one second, or as burst says. Of several that concern a tool and a "
            "principal the first counts. contrib/limits has an example.",
        ),
    ] = ()
    max_groups_per_stream: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Consumer groups of one stream; group_create and work_take create no more. Redis "
            "has to be asked for all of them where entries are trimmed or deleted that one may need: about "
            "3 µs for each, in which it does nothing else. Where other programs made more groups, nothing is "
            "trimmed or deleted, and the answer says so.",
        ),
    ] = 256
    max_message_values: Annotated[
        int,
        Meta(
            ge=1_000,
            le=100_000_000,
            description="The most JSON values in a message. They take about 0.3 µs each, which holds up all "
            "other clients: 5 ms by default. An array, an object or the name of a member counts as three "
            "values, sixteen escaped characters as one, and so do sixteen digits of a number beyond its "
            "first 24: there is room for 12,000 numbers, for 3,000 members, or for a text of several MiB.",
        ),
    ] = 12_000
