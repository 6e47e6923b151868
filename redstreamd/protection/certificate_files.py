"""Certificates and keys as PEM files: what is wrong with one that cannot be used."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, Literal, NoReturn

Version = Literal["1.2", "1.3"]

VERSIONS: Final[dict[Version, ssl.TLSVersion]] = {
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


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
        raise TlsFileError(certificate, f"it and {key_file} hold no PEM certificate and key") from None


def check_readable(path: str) -> None:
    """Raise `TlsFileError` if a file cannot be read; OpenSSL's own errors do not say which file it was."""
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise TlsFileError(path, error.strerror or type(error).__name__) from None
