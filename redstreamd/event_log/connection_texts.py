"""What the events of client connections and of the listeners mean to an administrator."""

from __future__ import annotations

import errno
from typing import Final

from redstreamd.errors.remedies import setting, shortened, unit_setting
from redstreamd.event_log.declaration import declared
from redstreamd.mcpio import connection_events as mcp
from redstreamd.mcpio.peers import client_text, peer_text
from redstreamd.service.log_record import Severity

_NONE: Final = "None."
_STATUS: Final = "`redstreamd status` names the clients that hold and use most."
_RENEW: Final = (
    "Renew it, and put it where it was with its key; it is read again when it changes. As a credential of "
    "the service it is read at a restart."
)


def _of_a_principal() -> str:
    return f"{setting('limits.max_connections_per_principal')}, or its quota beside that"


@declared(
    mcp.ConnectionOpened,
    "0870bced2bf9414ba8c5c9ac92a5ef37",
    Severity.DEBUG,
    cause="A client connected.",
    remedy=_NONE,
)
def connection_opened(event: mcp.ConnectionOpened) -> str:
    return f"connection {event.connection_id} opened for {event.principal.name}"


@declared(
    mcp.MessageTooLong,
    "9328900418de4a34b283ee8f323e3955",
    Severity.WARNING,
    summed_by=lambda event: event.principal,
    cause="A client sent a message that is longer than the limit. It was skipped, and the client was told.",
    remedy=f"Send large content in parts, or raise {setting('limits.max_message_bytes')}.",
)
def message_too_long(event: mcp.MessageTooLong) -> str:
    return (
        f"skipped a message of {client_text(event.principal, event.peer)} over {event.limit_bytes} bytes; "
        f"send large content in parts, or raise {setting('limits.max_message_bytes')}"
    )


@declared(
    mcp.MemoryExceeded,
    "c7457d61950948119afaf73ac83b38b6",
    Severity.WARNING,
    summed_by=lambda event: event.principal,
    cause="All clients together hold more memory than the limit, and this one holds most: unfinished "
    "messages, requests in flight, waits. One message of it was refused with an error.",
    remedy=f"Find out what the client does, or raise {setting('limits.max_memory_bytes')}. {_STATUS}",
)
def memory_exceeded(event: mcp.MemoryExceeded) -> str:
    return (
        f"refused a message of {client_text(event.principal, event.peer)}: all clients together hold more "
        f"than {event.limit_bytes} bytes, and this one holds most ({event.held_bytes} bytes on this "
        f"connection); find out what it does, or raise {setting('limits.max_memory_bytes')}"
    )


@declared(
    mcp.RequestFailed,
    "b4dfc530d02c4a4d8f5f152f5f743ec9",
    Severity.ERROR,
    cause="A request ran into a defect of redstreamd. The client was told of an internal error; the call "
    "may have had its effect.",
    remedy="Report the traceback of the record. Nothing needs to be restarted.",
)
def request_failed(event: mcp.RequestFailed) -> str:
    return (
        f"{shortened(event.method)} failed unexpectedly on connection {event.connection_id} of "
        f"{event.principal.name}; the client was told of an internal error"
    )


@declared(
    mcp.ConnectionCrashed,
    "c4a6f29559b24241bea07701df1bf4f6",
    Severity.ERROR,
    cause="A defect of redstreamd ended one connection. No other was touched, and the client may connect "
    "again.",
    remedy="Report the traceback of the record.",
)
def connection_crashed(event: mcp.ConnectionCrashed) -> str:
    return (
        f"connection {event.connection_id} of {event.principal.name} ended by a defect of ours; "
        "no other connection was touched"
    )


def _too_many(event: mcp.ConnectionRejected, cause: str, remedy: str) -> str:
    holders = ", ".join(f"{peer_text(peer)} has {count}" for peer, count in event.holders)
    return (
        f"{cause}, and a client ({event.principal.name}) was rejected; raise {remedy}, or find out who opens "
        f"so many{f' (most: {holders})' if holders else ''}"
    )


@declared(
    mcp.ConnectionRejected,
    "fd19f6236d3b405fa47000877d1f25f0",
    Severity.WARNING,
    when=lambda event: event.bound is mcp.Bound.DESCRIPTORS,
    summed_by=lambda event: event.bound,
    cause="The process has no file descriptors left for another client, which was rejected with the reason.",
    remedy=f"Raise {unit_setting('LimitNOFILE=')}, or find out who opens so many. {_STATUS}",
)
def descriptors_exhausted(event: mcp.ConnectionRejected) -> str:
    cause = f"{event.limit} connections are open, with no file descriptors for more"
    return _too_many(event, cause, unit_setting("LimitNOFILE="))


@declared(
    mcp.ConnectionRejected,
    "1112f30f7a004b73bfc59d5b737aa4ce",
    Severity.WARNING,
    when=lambda event: event.bound is mcp.Bound.PRINCIPAL,
    summed_by=lambda event: event.principal,
    cause="A principal has as many connections as it may have. Another was rejected with the reason.",
    remedy=f"Raise {_of_a_principal()}, or find out who opens so many. {_STATUS}",
)
def principal_connections_exhausted(event: mcp.ConnectionRejected) -> str:
    cause = f"{event.limit} connections of {event.principal.name} are open"
    return _too_many(event, cause, _of_a_principal())


@declared(
    mcp.ConnectionRejected,
    "dcabbba37e394e148e481d4d5f143033",
    Severity.WARNING,
    when=lambda event: event.bound is mcp.Bound.PEER,
    summed_by=lambda event: event.principal,
    cause="A client has as many connections over HTTP as one address or process may have. Another of it was "
    "rejected with the reason.",
    remedy=f"Raise {setting('http.max_connections_per_peer')} if it is a proxy, or find out why it opens so "
    f"many. {_STATUS}",
)
def peer_connections_exhausted(event: mcp.ConnectionRejected) -> str:
    cause = f"{event.limit} connections of one client are open"
    return _too_many(event, cause, setting("http.max_connections_per_peer"))


@declared(
    mcp.ConnectionRejected,
    "057bbabac7834a28902df4a5ea36e480",
    Severity.WARNING,
    summed_by=lambda event: event.bound,
    cause="As many clients are connected as may be. Another was rejected with the reason.",
    remedy=f"Raise {setting('limits.max_connections')}, or find out who opens so many. {_STATUS}",
)
def connections_exhausted(event: mcp.ConnectionRejected) -> str:
    return _too_many(event, f"{event.limit} connections are open", setting("limits.max_connections"))


@declared(
    mcp.ClientRefused,
    "68c2be49869c48f9946e140caacb8b35",
    Severity.WARNING,
    summed_by=lambda event: (event.principal, event.why),
    cause="A client did not show what its listener demands: TLS, a certificate, or a token.",
    remedy="If it is one of yours, give it what the record names (docs/listeners.md). If not, find out who "
    "tries to connect.",
)
def client_refused(event: mcp.ClientRefused) -> str:
    return f"refused a client of {client_text(event.principal, event.peer)}: {event.why}"


@declared(
    mcp.CredentialsNotRenewed,
    "3574d08f9ab54c8c964266f8ae6cca56",
    Severity.ERROR,
    cause="A file of certificates, keys or tokens has changed and cannot be used. The former ones are used "
    "on.",
    remedy="Correct the file that the record names. It is read again when it changes.",
)
def listener_credentials_unusable(event: mcp.CredentialsNotRenewed) -> str:
    return f"cannot use changed certificates or tokens, and goes on with the former: {event.cause}"


@declared(
    mcp.CertificateExpires,
    "7747acc9363645ecb9b19802a2610f4e",
    Severity.ERROR,
    when=lambda event: event.has_expired,
    cause="The certificate that listeners show has expired. Clients that check it do not connect.",
    remedy=_RENEW,
)
def certificate_expired(event: mcp.CertificateExpires) -> str:
    return f"the certificate {event.path} has expired; clients that check it do not connect"


@declared(
    mcp.CertificateExpires,
    "bf14836255624cf19285f1040e5f7aba",
    Severity.WARNING,
    cause="The certificate that listeners show expires within two weeks. From then on clients that check it "
    "do not connect.",
    remedy=_RENEW,
)
def certificate_expires(event: mcp.CertificateExpires) -> str:
    left = "within a day" if event.days_left == 0 else f"in {event.days_left} days"
    return f"the certificate {event.path} expires {left}"


@declared(
    mcp.KeysNotFetched,
    "1d68e3456816431a9cc5195713f044da",
    Severity.ERROR,
    summed_by=lambda event: event.cause,
    cause="The keys that tokens of the authorization server are checked with cannot be fetched. Known keys "
    "are used for a day; tokens with others are answered with 503 or 401.",
    remedy="See that this host reaches the authorization server, and that the unit lets it (IPAddressAllow= "
    "in `systemctl edit redstreamd.service`); if they are wrong, correct "
    f"{setting('http.oauth_issuer', 'http.oauth_jwks_url')}. It is tried again by itself.",
)
def oauth_keys_not_fetched(event: mcp.KeysNotFetched) -> str:
    return f"cannot fetch the keys of the authorization server, and tries again: {event.cause}"


@declared(
    mcp.UsersHidden,
    "9f9450042e45479984c335b6127a875f",
    Severity.WARNING,
    cause="Users are to be told apart by their uid, but the service has a user namespace of its own "
    "(PrivateUsers=), in which the uids of most users cannot be seen.",
    remedy=f"Install the drop-in peer-identity.conf, or turn off {setting('listeners.peer_uids')}.",
)
def users_hidden(event: mcp.UsersHidden) -> str:
    return (
        "cannot tell users apart: a user namespace hides their uids, so most clients are uid:unknown; "
        f"install the drop-in peer-identity.conf, or turn off {setting('listeners.peer_uids')}"
    )


@declared(
    mcp.FewDescriptors,
    "7597e4bcbcf9400ba38e956992cc5c43",
    Severity.WARNING,
    cause="The process may have fewer file descriptors than the configured number of connections needs.",
    remedy=f"Raise {unit_setting('LimitNOFILE=')} as the record says, or lower "
    f"{setting('limits.max_connections')}.",
)
def few_descriptors(event: mcp.FewDescriptors) -> str:
    return (
        f"there is room for {event.connections} of {event.max_connections} connections, because this process "
        f"may have {event.descriptors} file descriptors; "
        f"raise {unit_setting('LimitNOFILE=')} to {event.needed}, or lower "
        f"{setting('limits.max_connections')}"
    )


@declared(
    mcp.AcceptPaused,
    "f95eca8e9ba945b39afd8e60af67da6c",
    Severity.WARNING,
    summed_by=lambda event: event.principal,
    cause="The system refused to accept a connection, usually because the process or the host has no file "
    "descriptors left. Clients wait in the socket's queue, and accepting is tried again.",
    remedy="If it lasts, do what the record says.",
)
def accept_paused(event: mcp.AcceptPaused) -> str:
    remedy = {
        errno.EMFILE: f"raise {unit_setting('LimitNOFILE=')}",
        errno.ENFILE: "find out which process of this host has so many files open, or raise fs.file-max "
        "(sysctl)",
    }.get(event.exception.errno or 0, "find out what this host lacks")
    return (
        f"cannot accept connections for {event.principal.name}: {event.exception.strerror}; trying again. If "
        f"this lasts, {remedy}"
    )


# Where descriptors run out, each client that leaves lets another in, and that is the last again.
@declared(
    mcp.AcceptResumed,
    "e5c7212afe854336b25da05f10fd6016",
    Severity.INFO,
    summed_by=lambda event: event.principal,
    cause="Connections are accepted again.",
    remedy=_NONE,
)
def accept_resumed(event: mcp.AcceptResumed) -> str:
    return f"accepting connections for {event.principal.name} again after {event.paused_seconds:.1f} s"
