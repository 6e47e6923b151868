"""What a TCP listener demands of its clients: TLS, perhaps with a certificate of theirs, or a token, or both.

Reads the files, and reads them again when they have changed, so that a renewed certificate needs no restart.
Asking a client for it is the transport's.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import hmac
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec
import trio

from redstreamd.errors import SettingsError
from redstreamd.protection.certificate_files import (
    VERSIONS,
    WARN_DAYS,
    TlsFileError,
    Version,
    check_readable,
    days_until,
    expiry_of,
    load_certificate,
)
from redstreamd.protection.secret_files import check_private, unusable, version_of

#: How often it is looked at most whether files have changed.
LOOK_SECONDS: Final = 1.0
_MAX_TOKEN_FILE_BYTES: Final = 64 * 1024
MIN_TOKEN_CHARACTERS: Final = 16
_TOKEN: Final = re.compile(rb"[!-~]{%d,1024}" % MIN_TOKEN_CHARACTERS)
#: Names that become a part of a principal's.
_NAME: Final = re.compile(r"[!-~]{1,128}")
_NAMES_IN_CERTIFICATES: Final = ("DNS", "URI", "email")


@attrs.frozen
class Credentials:
    """What was read.

    Attributes:
        context: For the side of the server; None if no TLS is spoken.
        asks_certificate: Whether clients show a certificate, and have its name.
        digests: SHA-256 of each token that is valid; none if no token is asked for.
        expires: When the daemon's certificate expires; None if there is none, or that cannot be told.
    """

    context: ssl.SSLContext | None
    asks_certificate: bool
    digests: tuple[bytes, ...] = attrs.field(repr=False)
    expires: dt.datetime | None = None

    def accepts(self, token: str) -> bool:
        """Return whether a token is valid, in a time that does not depend on what it has in common."""
        given = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        # All are compared, also after one that is equal.
        return sum(hmac.compare_digest(given, each) for each in self.digests) > 0


class Demands(msgspec.Struct, frozen=True):
    """The files that say what is demanded; paths.

    Attributes:
        certificate_file: PEM file of the daemon's certificate and its chain; None for no TLS.
        key_file: PEM file of its key; None if that is in `certificate_file`, too.
        client_ca_file: PEM file of the CAs that sign certificates of clients; None if none is asked for.
        minimum_version: The oldest version of TLS that is spoken.
        token_file: File of the tokens, one a line; None if none is asked for.
    """

    certificate_file: str | None = None
    key_file: str | None = None
    client_ca_file: str | None = None
    minimum_version: Version = "1.2"
    token_file: str | None = None

    def __bool__(self) -> bool:
        """Return whether anything is demanded."""
        return self.certificate_file is not None or self.token_file is not None

    def versions(self) -> tuple[object, ...]:
        """Return what changes when a file does. Blocks."""
        files = (self.certificate_file, self.key_file, self.client_ca_file, self.token_file)
        return tuple(None if path is None else version_of(path) for path in files)

    def check(self) -> None:
        """Check whether the files can be used. Blocks.

        Raises:
            SettingsError: One of them cannot be used.
            PermissionError: This process may not read one, and so cannot tell.
        """
        for path in (self.certificate_file, self.key_file, self.client_ca_file, self.token_file):
            if path is not None:
                with contextlib.suppress(FileNotFoundError), Path(path).open("rb"):
                    pass
        self.read()

    def read(self) -> Credentials:
        """Read the files. Blocks.

        Raises:
            SettingsError: One of them cannot be used, or others may read what is secret.
        """
        # First, because a certificate without its key is no secret.
        context = None if self.certificate_file is None else self._context(self.certificate_file)
        secret = self.key_file or self.certificate_file
        for key, path in (
            ("key_file" if self.key_file else "certificate_file", secret),
            ("token_file", self.token_file),
        ):
            if path is not None:
                _check_private(key, path)
        digests = () if self.token_file is None else _digests(self.token_file)
        if context is None or self.certificate_file is None:
            return Credentials(None, self.client_ca_file is not None, digests)
        expires = expiry_of(context, self.certificate_file)
        return Credentials(context, self.client_ca_file is not None, digests, expires)

    def _context(self, certificate: str) -> ssl.SSLContext:
        # Nothing older than TLS 1.2, and no compression, as its defaults say.
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = VERSIONS[self.minimum_version]
        try:
            for path in (certificate, self.key_file, self.client_ca_file):
                if path is not None:
                    check_readable(path)
            load_certificate(context, certificate, self.key_file)
        except TlsFileError as wrong:
            key = {self.client_ca_file: "client_ca_file", self.key_file: "key_file"}.get(wrong.path)
            raise _unusable(key or "certificate_file", wrong.path, wrong.reason) from None
        if self.client_ca_file is not None:
            try:
                context.load_verify_locations(self.client_ca_file)
            except ssl.SSLError:
                reason = "it holds no PEM certificate"
                raise _unusable("client_ca_file", self.client_ca_file, reason) from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Protection:
    """The demands of a listener, with what was read last.

    Attributes:
        demands: The files.
    """

    def __init__(
        self,
        demands: Demands,
        *,
        on_problem: Callable[[str], None] = lambda _: None,
        on_expiring: Callable[[str, int], None] = lambda _, __: None,
    ) -> None:
        """Read the files. Blocks.

        Args:
            demands: The files.
            on_problem: Called with the reason if changed files cannot be used; the former go on being used.
            on_expiring: Called with the certificate's file and the days that it is valid yet, below 0 if it
                is not, once for each number of days.

        Raises:
            SettingsError: They cannot be used.
        """
        self.demands = demands
        self.on_problem = on_problem
        self.on_expiring = on_expiring
        # The days left that were told last.
        self._told_days: int | None = None
        self._versions = demands.versions()
        # Those that could not be used, if that was told.
        self._unusable: tuple[object, ...] | None = None
        self._credentials = demands.read()
        self._looked_at = -LOOK_SECONDS

    async def current(self) -> Credentials:
        """Return what clients have to show now; files that have changed are read anew, in a thread."""
        now = trio.current_time()
        if now >= self._looked_at + LOOK_SECONDS:
            self._looked_at = now
            await trio.to_thread.run_sync(self._renew)
            self.tell_expiring()
        return self._credentials

    def tell_expiring(self) -> None:
        """Report a certificate that has expired or soon does."""
        left, path = days_until(self._credentials.expires), self.demands.certificate_file
        if left is not None and path is not None and left < WARN_DAYS and left != self._told_days:
            self._told_days = left
            self.on_expiring(path, left)

    def _renew(self) -> None:
        versions = self.demands.versions()
        if versions == self._versions:
            self._unusable = None
            return
        try:
            self._credentials = self.demands.read()
        except SettingsError as wrong:
            # Tried again each time, since the reason may pass without a change of the files; told once.
            if versions != self._unusable:
                self._unusable = versions
                trio.from_thread.run_sync(self.on_problem, str(wrong))
        else:
            self._versions, self._unusable = versions, None


def name_in(certificate: Mapping[str, Any]) -> str | None:
    """Return the name of a client by its certificate; None if it has none that can be used.

    That is the first DNS name, URI or e-mail address of the subjectAltName, in the order in which they stand
    there; if there is none, the subject's common name, if it has exactly one.

    Args:
        certificate: As `ssl.SSLObject.getpeercert` returns it; it was verified.
    """
    names = [name for kind, name in certificate.get("subjectAltName", ()) if kind in _NAMES_IN_CERTIFICATES]
    if not names:
        subject = certificate.get("subject", ())
        names = [value for part in subject for key, value in part if key == "commonName"]
        if len(names) != 1:
            return None
    return names[0] if _NAME.fullmatch(names[0]) else None


def _digests(path: str) -> tuple[bytes, ...]:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_TOKEN_FILE_BYTES + 1)
    except OSError as error:
        raise _unusable("token_file", path, error.strerror or type(error).__name__) from error
    if len(content) > _MAX_TOKEN_FILE_BYTES:
        raise _unusable("token_file", path, f"it is longer than {_MAX_TOKEN_FILE_BYTES} bytes")
    tokens = [line.strip() for line in content.splitlines() if line.strip()]
    if not tokens:
        raise _unusable("token_file", path, "it is empty")
    if not all(map(_TOKEN.fullmatch, tokens)):
        reason = f"a token is {MIN_TOKEN_CHARACTERS} to 1024 printable characters of ASCII without spaces"
        raise _unusable("token_file", path, reason)
    return tuple(hashlib.sha256(token).digest() for token in tokens)


def _check_private(key: str, path: str) -> None:
    check_private(f"listeners.{key}", path)


def _unusable(key: str, path: str, reason: str) -> SettingsError:
    return unusable(f"listeners.{key}", path, reason)
