"""Certificates and keys as PEM files: what is wrong with one that cannot be used, and when one expires."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path
from typing import Final, Literal, NoReturn

Version = Literal["1.2", "1.3"]

VERSIONS: Final[dict[Version, ssl.TLSVersion]] = {
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}

#: It is told of a certificate that expires within so many days. They are renewed a month before, usually.
WARN_DAYS: Final = 14
#: X509_V_FLAG_NO_CHECK_TIME, which the module `ssl` has no name for.
_WHENEVER: Final = 0x200000


class TlsFileError(Exception):
    """A certificate or key cannot be used. It is raised without a cause: it says all there is to say.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        """Record both."""
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def load_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    """Load our own certificate and its key into a context.

    Args:
        context: Where to load them.
        certificate: PEM file of the certificate and its chain.
        key: PEM file of its key; None if that is in `certificate`, too.

    Raises:
        TlsFileError: They cannot be used.
    """
    key_file = key or certificate

    def passphrase() -> NoReturn:
        # Without this OpenSSL would ask at the terminal.
        raise TlsFileError(key_file, "it is protected by a passphrase, which nobody is there to type")

    try:
        context.load_cert_chain(certificate, key, password=passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFileError(key_file, f"it is not the key of the certificate in {certificate}") from None
        if key is None:
            reason = "it does not hold a PEM certificate and its key; the key may have a file of its own"
            raise TlsFileError(certificate, reason) from None
        raise TlsFileError(certificate, f"it and {key_file} hold no PEM certificate and key") from None


def check_readable(path: str) -> None:
    """Raise `TlsFileError` if a file cannot be read; OpenSSL's own errors do not say which file it was."""
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise TlsFileError(path, error.strerror or type(error).__name__) from None


def expiry_of(context: ssl.SSLContext, certificate: str) -> dt.datetime | None:
    """Return when the certificate of a server's context expires; None if that cannot be told. Blocks.

    OpenSSL tells it to a client, so one is asked, in memory, which trusts this certificate alone.

    Args:
        context: The server's, with the certificate.
        certificate: PEM file of the certificate and its chain.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    try:
        trusting.load_verify_locations(certificate)
    except OSError:
        # It reads more than the server does: also what is not the server's certificate. Or the file has gone.
        return None
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _WHENEVER
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError:
            return None
    try:
        expires = (client.getpeercert() or {}).get("notAfter")
    except ValueError:
        return None  # the handshake takes more steps
    if not isinstance(expires, str):
        return None
    return dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(expires), dt.UTC)


def days_until(expires: dt.datetime | None) -> int | None:
    """Return for how many whole days a certificate is valid yet, below 0 if it is not; None if not known."""
    return None if expires is None else (expires - dt.datetime.now(dt.UTC)).days
