"""An open ``subscriptions/listen``: a record, which lasts until its client or the daemon ends it.

The handler returns once the request is acknowledged. So nothing is kept of the SDK's frames and models, and
there is no task. `subscription_server` begins it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from redstreamd.mcp_server.listing_changes import Listen as ListedListen
from redstreamd.mcpio.exchange import Exchange
from redstreamd.streams.subscriptions.updates import Subscriber


class OpenListen(msgspec.Struct, eq=False):
    """One of them.

    Attributes:
        exchange: The request.
        subscriber: Its subscriptions to resources.
        uris: How many URIs it counts for.
        on_closed: Called when it has ended, before it is answered.
        listed: Its subscriptions to other lists; None until it is acknowledged.
        response: What the request is answered with once the daemon stops.
    """

    exchange: Exchange
    subscriber: Subscriber
    uris: int
    on_closed: Callable[[OpenListen], None]
    listed: ListedListen | None = None
    response: bytes = b""

    def last(self, response: bytes | None) -> None:
        """Go on without the handler, see `Exchange.lasting`."""
        exchange = self.exchange
        exchange.lasting = None
        if response is None or exchange.on_cancel is None:
            # It was cut short while its handler returned.
            self.cancel()
            return
        self.response = response
        exchange.on_cancel = self.cancel
        self.subscriber.on_ended = self.finish
        self.subscriber.end_if_told()

    def finish(self) -> None:
        """End it, because the daemon stops and all was told."""
        self.on_closed(self)
        self.exchange.answer(self.response)

    def cancel(self) -> None:
        """End it: nobody listens any more, or the session ends."""
        self.on_closed(self)
        self.exchange.answer_unknown()
