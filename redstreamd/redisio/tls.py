"""What TLS needs to know for one server: whom to trust, who we are, and the ssl context made of both.

Owns the files and the context. The handshake is ``login``'s, what a failed one means is
``connect_errors``'.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, Literal, NoReturn

import attrs

Version = Literal["1.2", "1.3"]

_VERSIONS: Final[dict[Version, ssl.TLSVersion]] = {
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


@attrs.frozen
class Tls:
    """TLS to one server. The server's certificate and name are always verified.

    Attributes:
        ca_file: PEM file of the CAs to trust; None trusts the system's.
        certificate_file: PEM file of our own certificate and its chain, for servers that ask for one.
        key_file: PEM file of its key; None if that is in `certificate_file` too.
        server_name: The name that the server's certificate must bear (and SNI); None for the host.
        minimum_version: The oldest version of TLS that is spoken.
    """

    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    minimum_version: Version = "1.2"

    def context(self) -> ssl.SSLContext:
        """Read the files and return a fresh context. Blocks: the system's CAs alone take some 20 ms.

        To be called for each connection, so that a renewed certificate needs no restart.

        Raises:
            TlsFileError: One of the files cannot be used.
        """
        for path in (self.ca_file, self.certificate_file, self.key_file):
            if path is not None:
                _check_readable(path)
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except ssl.SSLError:
            raise TlsFileError(self.ca_file or "the system's CAs", "it holds no PEM certificate") from None
        context.minimum_version = _VERSIONS[self.minimum_version]
        if self.certificate_file is not None:
            self._load_certificate(context, self.certificate_file)
        return context

    def _load_certificate(self, context: ssl.SSLContext, certificate: str) -> None:
        key = self.key_file or certificate

        def passphrase() -> NoReturn:
            # Without this OpenSSL would ask at the terminal.
            raise TlsFileError(key, "it is protected by a passphrase, which nobody is there to type")

        try:
            context.load_cert_chain(certificate, self.key_file, password=passphrase)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsFileError(key, f"it is not the key of the certificate in {certificate}") from None
            raise TlsFileError(certificate, f"it and {key} hold no PEM certificate and key") from None


def _check_readable(path: str) -> None:
    # OpenSSL's own errors do not say which file it was.
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise TlsFileError(path, error.strerror or type(error).__name__) from None
