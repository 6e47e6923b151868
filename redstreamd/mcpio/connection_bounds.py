"""The bounds of the number of connections, and who gives way to whom at them.

Owns no connection: it says whether one more client can be served, has another one's connection closed for it,
and what clients are told of it.
"""

from __future__ import annotations

from collections.abc import Callable

from redstreamd.admission.accounts import Accounts, Held, Peer, gives_way, names_of
from redstreamd.errors.remedies import setting, unit_setting
from redstreamd.mcpio.connection_events import Bound
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.running_connections import RunningConnections
from redstreamd.mcpio.spare_descriptors import SpareDescriptors
from redstreamd.mcpio.unopened_clients import UnopenedClients
from redstreamd.policy import Principal
from redstreamd.policy.quotas import Most, Quantity, Quotas


class ConnectionBounds:
    """The bounds of an acceptor."""

    def __init__(
        self,
        limits: Limits,
        accounts: Accounts,
        running: RunningConnections,
        unopened: UnopenedClients,
        *,
        room: Callable[[], int],
        spares: SpareDescriptors,
        quotas: Quotas | None = None,
    ) -> None:
        """Bound what `accounts` count.

        Args:
            limits: The bounds, and how many connections may be closing at a time.
            accounts: Count the connections, but for those that gave way.
            running: The open ones, those that are closing included.
            unopened: Those that wait to be opened, which are counted, too.
            room: Returns for how many connections there are descriptors.
            spares: Descriptors in reserve.
            quotas: How many of them a principal may have; None: as many as in all.
        """
        self._limits = limits
        self._accounts = accounts
        self._running = running
        self._unopened = unopened
        self._room = room
        self._spares = spares
        self._quotas = quotas or Quotas()

    @property
    def limit(self) -> int:
        """How many connections may be open now."""
        return min(self._limits.max_connections, self._room())

    def find_place(self, principal: Principal, peer: Peer, most_of_peer: int | None) -> bool:
        """Return whether a client can be served, perhaps because another gives way."""
        for _ in Bound:
            bound = self.first_reached(principal, peer, most_of_peer)
            if bound is None:
                return True
            if bound is Bound.PEER or not self._make_room(bound, principal, peer):
                return False
            if bound is Bound.DESCRIPTORS:
                # There is one more when the connection has closed.
                return True
        return False

    def first_reached(self, principal: Principal, peer: Peer, most_of_peer: int | None) -> Bound | None:
        """Return the bound that keeps the next client out if nobody gives way.

        Args:
            principal: On whose behalf it calls.
            peer: Who it is.
            most_of_peer: How many connections its process or address may have; None: any number.
        """
        most = self._quota(principal).number
        if most is not None and self._of(principal) >= most:
            return Bound.PRINCIPAL
        if most_of_peer is not None and self._of_peer(principal, peer) >= most_of_peer:
            return Bound.PEER
        return self.reached()

    def _quota(self, principal: Principal) -> Most:
        return self._quotas.most(Quantity.CONNECTIONS, principal.name)

    def _of(self, principal: Principal) -> int:
        account = self._accounts.all.members.get(principal.name)
        return 0 if account is None else account.held[Held.CONNECTIONS]

    def _of_peer(self, principal: Principal, peer: Peer) -> int:
        """Return how many connections a peer has on behalf of all principals of its listener."""
        listener = principal.name.partition("/")[0]
        _, user, process = names_of(principal, peer)
        count = 0
        for name, account in self._accounts.all.members.items():
            if name.partition("/")[0] == listener and user in account.members:
                found = account.members[user].members.get(process)
                count += 0 if found is None else found.held[Held.CONNECTIONS]
        return count

    def reached(self) -> Bound | None:
        """Return the bound that keeps the next client out if nobody gives way; None if it can be served."""
        most, room = self._limits.max_connections, self._room()
        connections = self._accounts.all.held[Held.CONNECTIONS]
        # Those that were given away for a client come back before any other is let in.
        if not self._spares.restore() or room <= connections < most:
            return Bound.DESCRIPTORS
        return Bound.CONNECTIONS if connections >= most else None

    def _make_room(self, bound: Bound, principal: Principal, peer: Peer) -> bool:
        """Close a connection of the process that has most for a client, unless that has as many."""
        within = self._accounts.all
        if bound is Bound.PRINCIPAL:
            within = within.members[principal.name]
        process = gives_way(within, Held.CONNECTIONS, names_of(principal, peer))
        if process is None:
            return False
        why = self._why_closed(bound, principal)
        if self._unopened.give_way(process, bound, why):
            return True
        # Those that are closing have descriptors for up to a second, as newcomers have.
        closing = len(self._running) + len(self._unopened) - self._accounts.all.held[Held.CONNECTIONS]
        if closing >= self._limits.max_newcomers:
            return False
        connection = self._running.idlest.take(process)
        if connection is None:
            return False
        connection.give_way(why)
        return True

    def refusal(self, bound: Bound, principal: Principal) -> str:
        """Return what a client beyond a bound is told."""
        if bound is Bound.PEER:
            by = setting("http.max_connections_per_peer")
            return f"this client has as many connections as it may have ({by}); close some, or try later"
        if bound is Bound.PRINCIPAL:
            by = setting(self._quota(principal).setting)
            return (
                f"{self._of(principal)} connections of {principal.name} are open, which is the limit ({by}); "
                "try later"
            )
        connections = self._accounts.all.held[Held.CONNECTIONS]
        if bound is Bound.CONNECTIONS:
            by = setting("limits.max_connections")
            return f"{connections} connections are open, which is the limit ({by}); try later"
        by = unit_setting("LimitNOFILE=")
        return (
            f"{connections} connections are open, and there are no file descriptors for more; try later, or "
            f"raise {by}"
        )

    def _why_closed(self, bound: Bound, principal: Principal) -> str:
        """Return what a client is told whose connection is closed for another one."""
        by = {
            Bound.CONNECTIONS: f"as many as may be ({setting('limits.max_connections')})",
            Bound.PRINCIPAL: f"as many as may be ({setting(self._quota(principal).setting)})",
            Bound.DESCRIPTORS: "as many as there are file descriptors for",
        }[bound]
        return (
            f"this connection is closed for another client: {by} are open, and no client has more of them "
            "than this one; open fewer"
        )

    def limit_of(self, bound: Bound, principal: Principal, most_of_peer: int | None) -> int:
        """Return how many connections a bound that a client of a principal has reached allows."""
        return {
            Bound.PEER: most_of_peer or 0,
            Bound.CONNECTIONS: self._limits.max_connections,
            Bound.PRINCIPAL: self._quota(principal).number or 0,
            Bound.DESCRIPTORS: self._accounts.all.held[Held.CONNECTIONS],
        }[bound]
