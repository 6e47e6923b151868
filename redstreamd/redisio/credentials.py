"""Where the user and password of a login come from, asked anew for each login.

Owns the asking and the password file. Logging in with the answer is ``login``'s, carrying renewed
credentials to live connections ``reauth``'s. The interface of a provider is redis-py's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
import trio
from redis.auth.token import TokenInterface
from redis.credentials import CredentialProvider, StreamingCredentialProvider

from redstreamd.errors.remedies import setting
from redstreamd.redisio.target import Target

#: Bytes of a password file. Tokens of identity providers have a few thousand.
MAX_PASSWORD_BYTES: Final = 64 * 1024


class CredentialsError(Exception):
    """There are no credentials to log in with.

    Attributes:
        cause: Why, without secrets.
        next_step: What an operator can do.
    """

    def __init__(self, cause: str, next_step: str) -> None:
        """Record both."""
        super().__init__(cause)
        self.cause = cause
        self.next_step = next_step


@attrs.frozen
class Login:
    """What one login is made with.

    Attributes:
        username: ACL user; None for the server's default user.
        password: None for no login at all, unless there is a user.
    """

    username: str | None
    password: str | None = attrs.field(repr=False)


class PasswordFile(CredentialProvider):
    """A password in a file, read at each login, so that a new one needs no restart."""

    def __init__(self, path: str, username: str | None = None, *, key: str = "redis.password_file") -> None:
        """Name the file and the user; nothing is read yet.

        Args:
            path: The file: the password in UTF-8, with or without a line break at its end.
            username: ACL user; None for the server's default user.
            key: The setting that names the file.
        """
        self._key = key
        self.path = path
        self._username = username

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the password, after the user if there is one. Blocks while the file is read.

        Raises:
            CredentialsError: The file cannot be read or holds no password.
        """
        try:
            with Path(self.path).open("rb") as file:
                content = file.read(MAX_PASSWORD_BYTES + 1)
        except OSError as error:
            raise self._unusable(error.strerror or type(error).__name__) from error
        if len(content) > MAX_PASSWORD_BYTES:
            raise self._unusable(f"it is longer than {MAX_PASSWORD_BYTES} bytes")
        try:
            # A text editor ends the last line; more than one line break was meant.
            password = content.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise self._unusable("it is not UTF-8") from None
        if not password:
            raise self._unusable("it is empty")
        return (password,) if self._username is None else (self._username, password)

    def _unusable(self, reason: str) -> CredentialsError:
        return CredentialsError(
            f"the password file {self.path} cannot be used: {reason}",
            f"Put the password there and let redstreamd's user read it, or correct {setting(self._key)}.",
        )


async def login_for(target: Target) -> Login:
    """Return what to log in with now; a provider is asked in a thread, for it may block.

    Raises:
        CredentialsError: The provider has none.

    If cancelled while the provider is busy, its answer is thrown away.
    """
    provider = target.credentials
    if provider is None:
        return Login(target.username, target.password)
    try:
        given = await trio.to_thread.run_sync(provider.get_credentials, abandon_on_cancel=True)
    except CredentialsError:
        raise
    except Exception as error:
        # Its text may hold what it was about to return.
        raise CredentialsError(
            f"the credential provider {type(provider).__name__} failed ({type(error).__name__})",
            "Look at what it depends on; it is asked again at each attempt to log in.",
        ) from error
    return _login(given)


def _login(given: tuple[str] | tuple[str, str]) -> Login:
    if len(given) == 1:
        return Login(None, given[0])
    username, password = given
    return Login(username or None, password)


async def renewed_login(target: Target, renewed: object) -> Login:
    """Return the login that a streaming provider announced.

    Args:
        target: Whose provider it was.
        renewed: What it announced: a token as redis-py has it, or anything to say "ask me again".

    Raises:
        CredentialsError: The provider has none.
    """
    if isinstance(renewed, TokenInterface):
        # As redis-py does: the user is the object ID that the token was issued to.
        return Login(renewed.try_get("oid"), renewed.get_value())
    return await login_for(target)


def streaming(target: Target) -> StreamingCredentialProvider | None:
    """Return the target's provider if it announces new credentials by itself."""
    provider = target.credentials
    return provider if isinstance(provider, StreamingCredentialProvider) else None
