"""Which settings apply after a restart only, and why; a reload changes all others.

`daemon.reload_table` says how each of the others is applied. A test holds the two together: a setting is in
exactly one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_SOCKETS: Final = "the listening sockets stay as they were opened"
_DEMANDS: Final = (
    "the listening sockets keep what they demand; the content of its file is read again for new clients when "
    "it has changed"
)

#: The reason, by dotted key. `daemon.reload_table.in_force` keeps the whole address with the topology.
RESTART_ONLY: Final[Mapping[str, str]] = {
    "daemon.listen": _SOCKETS,
    "daemon.state_directory": "its key and its data are in use",
    "daemon.instance": "its state lies in the directory of that name",
    "daemon.lease_key_file": "the leases of clients are signed with it",
    "daemon.audit_chain": "the chain of one run begins at its start",
    "daemon.log_format": "the log of one run is in one form",
    "redis.topology": "the parts are built for it; until then the whole table [redis] stays as it was",
    "daemon.embedded": "clients would lose their streams",
    "listeners.peer_uids": "who the clients of a socket are does not change while they are connected",
    "listeners.certificate_file": _DEMANDS,
    "listeners.key_file": _DEMANDS,
    "listeners.client_ca_file": _DEMANDS,
    "listeners.tls_min_version": _SOCKETS,
    "listeners.token_file": _DEMANDS,
    "listeners.allow_unprotected_tcp": _SOCKETS,
    "http.path": "clients have the URL that it is the end of",
}
