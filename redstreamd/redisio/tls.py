"""What TLS needs to know for one server: whom to trust, who we are, and the ssl context made of both.

Owns the files and the context. The handshake is ``login``'s, what a failed one means is
``connect_errors``'.
"""

from __future__ import annotations

import ssl

import msgspec

from redstreamd.protection.certificate_files import (
    VERSIONS,
    TlsFileError,
    Version,
    check_readable,
    load_certificate,
)


class Tls(msgspec.Struct, frozen=True):
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
                check_readable(path)
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except ssl.SSLError:
            raise TlsFileError(self.ca_file or "the system's CAs", "it holds no PEM certificate") from None
        context.minimum_version = VERSIONS[self.minimum_version]
        if self.certificate_file is not None:
            load_certificate(context, self.certificate_file, self.key_file)
        return context
