"""Why there is no usable connection to Redis, in words, and what to change about it; TLS included.

Owns the reading of every way in which connecting or staying connected can fail, but for a refused login
(``login``). Knows nothing of tasks or retries. One module for plain and TLS connections, because a port
that expects the other kind shows it by how a plain error looks.

The numbers are those of ``X509_V_ERR_*`` in x509_vfy(3), the reasons those of the alerts in RFC 8446,
section 6, as OpenSSL names them.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterable, Iterator
from typing import Final

from redstreamd.errors.remedies import redis_option, setting, unit_setting
from redstreamd.protection.certificate_files import TlsFileError
from redstreamd.redisio.redis_errors import Problem, ProblemKind
from redstreamd.redisio.target import Target
from redstreamd.redisio.tls import Tls

_WAIT: Final = "Nothing needs to be changed; redstreamd keeps trying."

IDLE_LIMIT: Final = (
    "Look at `CONFIG GET timeout` in Redis: below 10 it closes idle connections before redstreamd asks for a "
    f"sign of life; set {redis_option('timeout')} to 0, or to 30 and more. "
    "Else a proxy, a firewall or somebody ends them."
)

SHUTTING_DOWN: Final = Problem(
    ProblemKind.UNREACHABLE, "redstreamd is shutting down", "Repeat after its restart."
)
STILL_CONNECTING: Final = Problem(ProblemKind.UNREACHABLE, "there was no connection yet", _WAIT)
TARGET_CHANGED: Final = Problem(
    ProblemKind.UNREACHABLE, "the settings name another server or login since they were reloaded", _WAIT
)
SERVES_NOTHING: Final = Problem(
    ProblemKind.UNREACHABLE, "the node serves no slots of the cluster any more", _WAIT
)
ANOTHER_PRIMARY: Final = Problem(ProblemKind.UNREACHABLE, "the server is the primary no longer", _WAIT)
CLOSED_BY_SERVER: Final = Problem(ProblemKind.UNREACHABLE, "the server closed the connection", _WAIT)

_OWN_FILES: Final = ("redis.certificate_file", "redis.key_file")


def _own_certificate() -> str:
    return setting(*_OWN_FILES)


def unanswered(what: str, seconds: float) -> Problem:
    """Return the problem of a server that did not answer `what` for `seconds`."""
    return Problem(
        ProblemKind.UNREACHABLE,
        f"no reply to {what} within {seconds:g} s",
        "Look at the Redis host: it is stopped, overloaded, or cut off from the network.",
    )


def unreadable(target: Target, data: bytes, detail: str) -> Problem:
    """Return the problem of a server that sent something that is no reply.

    Args:
        target: The server.
        data: What arrived.
        detail: The parser's complaint.
    """
    # The record type and version of a TLS alert (RFC 8446, section 5.1).
    if target.tls is None and data.startswith(b"\x15\x03"):
        return Problem(ProblemKind.SETTINGS, "the server answers in TLS", target.settings.use_tls)
    return Problem(
        ProblemKind.UNREACHABLE,
        f"the server's reply could not be read ({detail})",
        "Check that the address belongs to a Redis server, and the network between.",
    )


def oversized(limit_bytes: int) -> Problem:
    """Return the problem of a reply that was given up because of its size."""
    cause = f"a reply was larger than {limit_bytes} bytes"
    return Problem(ProblemKind.UNREACHABLE, cause, "Ask for fewer entries at once.")


def timed_out(target: Target, what: str = "no answer") -> Problem:
    """Return the problem of a server that took longer to connect or log in than the target allows."""
    return Problem(
        ProblemKind.UNREACHABLE,
        f"{what} within {target.connect_timeout:g} s",
        f"Check that {target.label} is the address of a running Redis and that no firewall is between.",
    )


def tls_timed_out(target: Target) -> Problem:
    """Return the problem of a server that accepted the connection and did not answer the TLS handshake."""
    return Problem(
        ProblemKind.UNREACHABLE,
        f"the server accepted the connection but did not answer the TLS handshake within "
        f"{target.connect_timeout:g} s; a Redis port without TLS does that",
        _is_it_a_tls_port(target),
    )


def not_connected(target: Target, error: Exception) -> Problem:
    """Read the error of an attempt to connect; happy eyeballs reports one for each address."""
    if (known := tls_problem(target, error)) is not None:
        return known
    if isinstance(error, ValueError):
        return _no_name(target)
    causes = list(_leaves(error))
    if not isinstance(error, OSError):
        return _cut_off(target, f"the connection broke ({_joined(causes)})")
    if target.path is not None:
        steps = {
            FileNotFoundError: f"Start Redis, or have it listen on {target.path} (`unixsocket` in "
            f"redis.conf), or correct {setting('redis.path')}.",
            PermissionError: "Let redstreamd's user write to the socket (`unixsocketperm` in redis.conf, and "
            "its group).",
        }
        fallback = f"Start Redis, or correct the socket's path: {setting('redis.path')}."
    else:
        steps = {
            socket.gaierror: f"The name {target.host!r} is not known: {target.settings.correct_address}.",
            PermissionError: "This host forbids it: allow the address in "
            f"{unit_setting('IPAddressAllow=')}, as the drop-in remote-redis.conf does, or in its firewall.",
        }
        fallback = target.settings.start
    step = next((text for leaf in causes for kind, text in steps.items() if isinstance(leaf, kind)), fallback)
    return Problem(ProblemKind.UNREACHABLE, _joined(causes), step)


def _no_name(target: Target) -> Problem:
    """Return the problem of a name with an empty label or a long one; servers may announce such a name."""
    name, step = target.host, target.settings.correct_address
    if target.tls is not None and target.tls.server_name and _is_name(name):
        name, step = target.tls.server_name, f"correct {setting(target.settings.server_name)}"
    return Problem(
        ProblemKind.UNREACHABLE, f"{name!r} can be no name of a host", f"{step[:1].upper()}{step[1:]}."
    )


def _is_name(text: str) -> bool:
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return True


def broken(target: Target, error: Exception | None, *, logged_in: bool) -> Problem:
    """Read how a connection ended.

    Args:
        target: The server.
        error: What the stream reported; None if the server closed it.
        logged_in: Whether the login had been answered.
    """
    problem = CLOSED_BY_SERVER
    if error is not None:
        if (known := tls_problem(target, error)) is not None:
            return known
        cause = f"the connection broke ({_joined(_leaves(error))})"
        problem = Problem(ProblemKind.UNREACHABLE, cause, _WAIT)
    return problem if logged_in or target.path is not None else _cut_off(target, problem.cause)


def _cut_off(target: Target, cause: str) -> Problem:
    """Return the problem of a connection that ended before the login was answered: TLS may be missing."""
    cause = f"{cause} before the login was answered"
    if target.tls is None:
        step = f"If this port expects TLS: {target.settings.use_tls} Else wait for Redis."
    elif target.tls.certificate_file is None:
        # A refusal for the lack of a certificate comes after our first command in TLS 1.3, and the reset
        # that follows can overtake the reason.
        cause += "; it may require a certificate of us"
        step = f"If the server has `tls-auth-clients yes`, set {_own_certificate()}; else wait for Redis."
    else:
        cause += "; it may not accept our certificate"
        step = f"Check that a CA in the server's `tls-ca-cert-file` signed the one in {_own_certificate()}."
    return Problem(ProblemKind.UNREACHABLE, cause, step)


def tls_problem(target: Target, error: BaseException) -> Problem | None:
    """Read what a TLS connection failed with; None if it was not TLS that failed.

    Args:
        target: The server.
        error: As raised by the TLS handshake, or by an established connection.
    """
    tls = target.tls
    if tls is None:
        return None
    for leaf in _leaves(error):
        if isinstance(leaf, TlsFileError):
            return Problem(
                ProblemKind.SETTINGS,
                f"{leaf.path} cannot be used: {leaf.reason}",
                f"Correct {setting(target.settings.ca_file, *_OWN_FILES)}, or let redstreamd's user read the "
                "file.",
            )
        if isinstance(leaf, ssl.SSLCertVerificationError):
            return _unverified(target, tls, leaf)
        if isinstance(leaf, ssl.SSLError):
            return _refused_tls(target, tls, leaf.reason or str(leaf))
    return None


def _unverified(target: Target, tls: Tls, error: ssl.SSLCertVerificationError) -> Problem:
    detail = error.verify_message.rstrip(".")
    match error.verify_code:
        case 10:
            cause = "the server's certificate has expired"
            step = (
                f"Renew the certificate of {target.label} (`tls-cert-file`), or the CA's if it is that one; "
                "check this host's clock if neither has."
            )
        case 9:
            cause = "the server's certificate is not valid yet"
            step = "Check the clocks of this host and of the one that issued the certificate."
        case 18 | 19 | 20 | 21:  # self-signed, self-signed in the chain, no issuer, first one unverifiable
            trusted = tls.ca_file or "the system's CAs"
            cause = (
                f"the server's certificate is not signed by a CA that is trusted here ({detail}; "
                f"trusted: {trusted})"
            )
            step = f"Set {setting(target.settings.ca_file)} to the certificate of the CA that signed it."
        case 62 | 64:  # another host name, another IP address
            cause = f"the server's certificate is for another name than {tls.server_name or target.host!r}"
            step = (
                "Use the name that the certificate bears: set "
                f"{setting(target.settings.server_name)} to it, or {target.settings.correct_address}."
            )
        case _:
            cause = f"the server's certificate was not accepted ({detail})"
            step = f"Replace the certificate of {target.label} (`tls-cert-file`)."
    return Problem(ProblemKind.SETTINGS, cause, step)


#: Parts of OpenSSL's reasons, in order: it prefixes the alerts with the version that introduced them.
TLS_REASONS: Final = (
    (("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"), "no TLS"),
    (("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE"), "no agreement"),
    (("ALERT_UNKNOWN_CA",), "unknown CA"),
    (("ALERT_CERTIFICATE_EXPIRED",), "expired"),
    (("ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_", "ALERT_UNSUPPORTED_CERTIFICATE"), "refused"),
    (("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"), "version"),
)


def _refused_tls(target: Target, tls: Tls, reason: str) -> Problem:
    own = tls.certificate_file
    match next((what for parts, what in TLS_REASONS if any(part in reason for part in parts)), None):
        case "no TLS":
            cause, step = "the server answers, but not in TLS", _is_it_a_tls_port(target)
        case "no agreement" if own is None:
            cause = "the server asks for a certificate and none is configured here"
            step = f"Set {_own_certificate()}, or `tls-auth-clients no` in Redis."
        case "no agreement":
            cause = (
                "the server and redstreamd found no common ground for TLS (certificate, version or ciphers)"
            )
            step = f"Check {_own_certificate()}, and `tls-protocols` and `tls-ciphers` of the server."
        case "unknown CA":
            cause = f"the server does not accept our certificate ({own}): it does not know its CA"
            step = f"Add that CA to the server's `tls-ca-cert-file`, or correct {_own_certificate()}."
        case "expired":
            cause = f"our certificate ({own}) has expired"
            step = f"Renew it; {_own_certificate()} are read again at the next attempt."
        case "refused":
            cause = f"the server does not accept our certificate ({own})"
            step = f"Correct {_own_certificate()}; the server's log names its reason."
        case "version":
            cause = f"the server does not speak TLS {tls.minimum_version} or later"
            step = (
                f"Allow it in the server ({redis_option('tls-protocols')}), or lower "
                f"{setting('redis.tls_min_version')}."
            )
        case _:
            return Problem(
                ProblemKind.UNREACHABLE,
                f"TLS failed ({reason.replace('_', ' ').lower()})",
                f"Look at the log of the server at {target.label}, which names the reason from its side.",
            )
    return Problem(ProblemKind.SETTINGS, cause, step)


def _is_it_a_tls_port(target: Target) -> str:
    return (
        f"Check that {target.label} is the server's `tls-port`; for a port without TLS, "
        f"{target.settings.use_no_tls}."
    )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes of `error`, and those of each member of a group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    elif error.__cause__ is not None:
        yield from _leaves(error.__cause__)
    else:
        yield error


def _text(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        # Its number is OpenSSL's, not the system's.
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        # Not the error's own text: that repeats the address.
        return os.strerror(error.errno)
    if isinstance(error, socket.gaierror) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _joined(causes: Iterable[BaseException]) -> str:
    return "; ".join(dict.fromkeys(_text(cause) for cause in causes))
