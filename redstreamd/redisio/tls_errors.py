"""Why TLS with a server failed, or is missing, and what to change about it.

Owns the reading of OpenSSL's reasons, and of how a port behaves that expects TLS when there is none,
or the other way round; ``failures`` owns all other words. The numbers are those of ``X509_V_ERR_*`` in
x509_vfy(3), the reasons those of the alerts in RFC 8446, section 6.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

from redstreamd.errors.remedies import redis_option, setting
from redstreamd.redisio import connect_errors
from redstreamd.redisio.connect_errors import Failure, FailureKind, leaves
from redstreamd.redisio.target import Target
from redstreamd.redisio.tls import Tls, TlsFileError

_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
# Self-signed, self-signed in the chain, no issuer at hand, the first one not verifiable.
_UNKNOWN_ISSUER: Final = frozenset({18, 19, 20, 21})
_WRONG_NAME: Final = frozenset({62, 64})

_USE_TLS: Final = f"Set {setting('redis.tls')} to true, or use rediss:// instead of redis:// in the URL."
_OWN_CERTIFICATE: Final = setting("redis.certificate_file", "redis.key_file")


def not_connected(target: Target, error: Exception) -> Failure:
    """Read the error of an attempt to connect, with or without TLS."""
    known = tls_failure(target, error)
    if known is not None:
        return known
    if isinstance(error, OSError):
        return connect_errors.not_connected(target, error)
    return _cut(target, connect_errors.broken(error).cause)


def broken(target: Target, error: Exception | None, *, logged_in: bool) -> Failure:
    """Read how a connection ended.

    Args:
        target: The server.
        error: What the stream reported; None if the server closed it.
        logged_in: Whether the login had been answered.
    """
    known = None if error is None else tls_failure(target, error)
    if known is not None:
        return known
    failure = connect_errors.closed_by_server() if error is None else connect_errors.broken(error)
    return failure if logged_in or target.path is not None else _cut(target, failure.cause)


def unreadable(target: Target, data: bytes, detail: str) -> Failure:
    """Read what arrived in the place of a reply.

    Args:
        target: The server.
        data: What arrived.
        detail: The parser's complaint.
    """
    # The record type and version of a TLS alert (RFC 8446, section 5.1).
    if target.tls is None and data.startswith(b"\x15\x03"):
        return _settings("the server answers in TLS", _USE_TLS)
    return connect_errors.unreadable(detail)


def tls_failure(target: Target, error: BaseException) -> Failure | None:
    """Read what a TLS connection failed with; None if it was not TLS that failed.

    Args:
        target: The server; with TLS.
        error: As raised by the handshake, or by an established connection.
    """
    tls = target.tls
    if tls is None:
        return None
    for leaf in leaves(error):
        if isinstance(leaf, TlsFileError):
            return _settings(
                f"{leaf.path} cannot be used: {leaf.reason}",
                f"Correct {setting('redis.ca_file', 'redis.certificate_file', 'redis.key_file')}, or let "
                "redstreamd's user read the file.",
            )
        if isinstance(leaf, ssl.SSLCertVerificationError):
            return _unverified(target, tls, leaf)
        if isinstance(leaf, ssl.SSLError):
            return _alerted(target, tls, leaf.reason or str(leaf))
    return None


def handshake_unanswered(target: Target) -> Failure:
    """The server accepted the connection and did not answer the TLS handshake in time."""
    return Failure(
        FailureKind.UNREACHABLE,
        f"the server accepted the connection but did not answer the TLS handshake within "
        f"{target.connect_timeout:g} s; a Redis port without TLS does that",
        f"Check that {target.label} is the server's `tls-port`; for a port without TLS, set "
        f"{setting('redis.tls')} to false, or use redis:// instead of rediss:// in the URL.",
    )


def _cut(target: Target, cause: str) -> Failure:
    # Before the login was answered: what a port does that has other ideas of TLS than we have.
    cause = f"{cause} before the login was answered"
    if target.tls is None:
        step = f"If this port expects TLS: {_USE_TLS} Else wait for Redis."
    elif target.tls.certificate_file is None:
        # A refusal for the lack of a certificate comes after our first command in TLS 1.3, and the reset
        # that follows can overtake the reason.
        cause += "; it may require a certificate of us"
        step = f"If the server has `tls-auth-clients yes`, set {_OWN_CERTIFICATE}; else wait for Redis."
    else:
        cause += "; it may not accept our certificate"
        step = f"Check that a CA in the server's `tls-ca-cert-file` signed the one in {_OWN_CERTIFICATE}."
    return Failure(FailureKind.UNREACHABLE, cause, step)


def _settings(cause: str, next_step: str) -> Failure:
    return Failure(FailureKind.SETTINGS, cause, next_step)


def _unverified(target: Target, tls: Tls, error: ssl.SSLCertVerificationError) -> Failure:
    name = tls.server_name or target.host
    code, detail = error.verify_code, error.verify_message.rstrip(".")
    if code == _EXPIRED:
        return _settings(
            "the server's certificate has expired",
            f"Renew the certificate of {target.label} (`tls-cert-file`), or the CA's if it is that one; "
            "check this host's clock if neither has.",
        )
    if code == _NOT_YET_VALID:
        return _settings(
            "the server's certificate is not valid yet",
            "Check the clocks of this host and of the one that issued the certificate.",
        )
    if code in _UNKNOWN_ISSUER:
        trusted = tls.ca_file or "the system's CAs"
        return _settings(
            f"the server's certificate is not signed by a CA that is trusted here ({detail}; "
            f"trusted: {trusted})",
            f"Set {setting('redis.ca_file')} to the certificate of the CA that signed it.",
        )
    if code in _WRONG_NAME:
        return _settings(
            f"the server's certificate is for another name than {name!r}",
            "Use the name that the certificate bears: set "
            f"{setting('redis.host')} to it, or {setting('redis.server_name')}.",
        )
    return _settings(
        f"the server's certificate was not accepted ({detail})",
        f"Replace the certificate of {target.label} (`tls-cert-file`).",
    )


def _alerted(target: Target, tls: Tls, reason: str) -> Failure:
    for part, words in _BY_REASON:
        if part in reason:
            return words(target, tls)
    return Failure(
        FailureKind.UNREACHABLE,
        f"TLS failed ({reason.replace('_', ' ').lower()})",
        f"Look at the log of the server at {target.label}, which names the reason from its side.",
    )


def _certificate_wanted(_target: Target, tls: Tls) -> Failure:
    if tls.certificate_file is None:
        return _settings(
            "the server asks for a certificate and none is configured here",
            f"Set {_OWN_CERTIFICATE}, or `tls-auth-clients no` in Redis.",
        )
    return _settings(
        "the server and redstreamd found no common ground for TLS (certificate, version or ciphers)",
        f"Check {_OWN_CERTIFICATE}, and `tls-protocols` and `tls-ciphers` of the server.",
    )


def _own_issuer_unknown(_target: Target, tls: Tls) -> Failure:
    return _settings(
        f"the server does not accept our certificate ({tls.certificate_file}): it does not know its CA",
        f"Add that CA to the server's `tls-ca-cert-file`, or correct {_OWN_CERTIFICATE}.",
    )


def _own_expired(_target: Target, tls: Tls) -> Failure:
    return _settings(
        f"our certificate ({tls.certificate_file}) has expired",
        f"Renew it; {_OWN_CERTIFICATE} are read again at the next attempt.",
    )


def _own_refused(_target: Target, tls: Tls) -> Failure:
    return _settings(
        f"the server does not accept our certificate ({tls.certificate_file})",
        f"Correct {_OWN_CERTIFICATE}; the server's log names its reason.",
    )


def _no_common_version(_target: Target, tls: Tls) -> Failure:
    return _settings(
        f"the server does not speak TLS {tls.minimum_version} or later",
        f"Allow it in the server ({redis_option('tls-protocols')}), or lower "
        f"{setting('redis.tls_min_version')}.",
    )


def _no_tls(target: Target, _tls: Tls) -> Failure:
    return _settings(
        "the server answers, but not in TLS",
        f"Check that {target.label} is the server's `tls-port`; for a port without TLS, set "
        f"{setting('redis.tls')} to false, or use redis:// instead of rediss:// in the URL.",
    )


# In order: OpenSSL prefixes the alerts with the version that introduced them.
_BY_REASON: Final[tuple[tuple[str, Callable[[Target, Tls], Failure]], ...]] = (
    ("WRONG_VERSION_NUMBER", _no_tls),
    ("HTTP_REQUEST", _no_tls),
    ("RECORD_LAYER_FAILURE", _no_tls),
    ("CERTIFICATE_REQUIRED", _certificate_wanted),
    ("HANDSHAKE_FAILURE", _certificate_wanted),
    ("ALERT_UNKNOWN_CA", _own_issuer_unknown),
    ("ALERT_CERTIFICATE_EXPIRED", _own_expired),
    ("ALERT_BAD_CERTIFICATE", _own_refused),
    ("ALERT_CERTIFICATE_", _own_refused),
    ("ALERT_UNSUPPORTED_CERTIFICATE", _own_refused),
    ("PROTOCOL_VERSION", _no_common_version),
    ("UNSUPPORTED_PROTOCOL", _no_common_version),
)
