"""The file of bearer tokens for HTTP: records, each with a keyed hash of its token.

A token is ``rsd_<id>_<secret>``: the ID finds its record and is no secret, the secret is 32 random bytes. The
file is a JSON document that ``redstreamd tokens`` writes::

    {"key": "<32 bytes in base64>",
     "tokens": [{"name": "ann", "id": "9f86d081", "hash": "<64 hexadecimal digits>",
                 "created": "2026-11-29T18:00:00Z", "expires": null, "scopes": ["read", "publish"]}]}

A hash is HMAC-SHA-256 of the whole token. No token can be guessed from it, however fast it is computed,
because there are 2^256 of them; a slow hash is for what people remember. Tokens, hashes and the key are in no
repr, log or error.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec

from redstreamd.policy import Permission
from redstreamd.protection.secret_files import check_private, unusable

SETTING: Final = "http.token_file"
#: What tokens begin with, so that programs that look for leaked secrets can find them.
PREFIX: Final = "rsd_"
KEY_BYTES: Final = 32
#: Names become a part of a principal's. A token is none, lest it be shown.
NAME: Final = re.compile(r"(?!rsd_)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_ALLOWED: Final = "1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or digit"
_ID: Final = re.compile(r"[0-9a-f]{8}")
#: A token; the group is its ID.
TOKEN: Final = re.compile(r"rsd_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_MAX_FILE_BYTES: Final = 4 * 1024 * 1024
_MAX_TOKENS: Final = 10_000

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class TokenRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a token.

    Attributes:
        name: Whose it is; one may have several tokens, so that a new one can replace an old one.
        id: The part of the token that finds this record.
        hash: Of the token.
        created: When it was made.
        expires: From when on it is not valid; None: it stays valid.
        scopes: What it may be used for; None: for all that the policy grants.
    """

    name: str
    id: str
    hash: str
    created: Moment
    expires: Moment | None = None
    scopes: frozenset[Permission] | None = None

    def __repr__(self) -> str:
        """Return what is no secret."""
        return f"TokenRecord(name={self.name!r}, id={self.id!r})"

    @property
    def expires_at(self) -> float:
        """When it ends to be valid, in seconds since 1970."""
        return float("inf") if self.expires is None else self.expires.timestamp()


class TokenList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds.

    Attributes:
        key: Of the hashes, in base64.
        tokens: The records.
    """

    key: str
    tokens: tuple[TokenRecord, ...] = ()

    def __repr__(self) -> str:
        """Return what is no secret."""
        return f"TokenList(tokens={self.tokens!r})"

    @classmethod
    def empty(cls) -> TokenList:
        """Return a list without tokens, with a new key."""
        return cls(base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode())

    @property
    def hash_key(self) -> bytes:
        """The bytes of the key.

        Raises:
            ValueError: It is no key.
        """
        key = base64.b64decode(self.key, validate=True)
        if len(key) != KEY_BYTES:
            raise ValueError("it is no key")
        return key

    def with_new(
        self, name: str, *, expires: datetime | None, scopes: Iterable[Permission] | None
    ) -> tuple[TokenList, str]:
        """Return the list with a new token, and the token, which is nowhere else."""
        token_id = secrets.token_hex(4)
        while any(each.id == token_id for each in self.tokens):
            token_id = secrets.token_hex(4)
        secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        token = f"{PREFIX}{token_id}_{secret}"
        record = TokenRecord(
            name,
            token_id,
            hash_of(token, self.hash_key),
            datetime.now(UTC).replace(microsecond=0),
            expires,
            None if scopes is None else frozenset(scopes),
        )
        return msgspec.structs.replace(self, tokens=(*self.tokens, record)), token

    def without(self, name: str, token_id: str | None = None) -> TokenList:
        """Return the list without the tokens of a name, or the one of an ID."""
        left = (
            each
            for each in self.tokens
            if each.name != name or (token_id is not None and each.id != token_id)
        )
        return msgspec.structs.replace(self, tokens=tuple(left))

    def text(self) -> bytes:
        """Return the content of the file."""
        # The order of a set differs from run to run.
        document = msgspec.to_builtins(self)
        for record in document["tokens"]:
            record["scopes"] = None if record["scopes"] is None else sorted(record["scopes"])
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def hash_of(token: str, key: bytes) -> str:
    """Return the keyed hash of a token."""
    return hmac.digest(key, token.encode("utf-8", "surrogatepass"), "sha256").hex()


def read_tokens(path: str) -> TokenList:
    """Read a file of tokens. Blocks.

    Raises:
        SettingsError: It cannot be used, or others may read it.
        FileNotFoundError: There is none.
    """
    with Path(path).open("rb") as file:
        check_private(SETTING, path, file.fileno())
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise unusable(SETTING, path, f"it is longer than {_MAX_FILE_BYTES} bytes")
    try:
        tokens = msgspec.json.decode(content, type=TokenList)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        # Of a wrong value msgspec tells the place and the type, not the value.
        where = str(wrong) if isinstance(wrong, msgspec.ValidationError) else "it is not JSON"
        raise unusable(SETTING, path, f"it is not as `redstreamd tokens new` writes it ({where})") from None
    if problem := _problem(tokens):
        raise unusable(SETTING, path, problem)
    return tokens


def _problem(tokens: TokenList) -> str:
    try:
        tokens.hash_key  # noqa: B018
    except (ValueError, binascii.Error):
        return f"its key is not {KEY_BYTES} bytes in base64"
    if len(tokens.tokens) > _MAX_TOKENS:
        return f"it has more than {_MAX_TOKENS} tokens; revoke those that nobody uses"
    seen = set()
    for number, each in enumerate(tokens.tokens, 1):
        if not NAME.fullmatch(each.name):
            return f"the name of token {number} is not valid; allowed: {NAME_ALLOWED}"
        if not _ID.fullmatch(each.id) or not _HASH.fullmatch(each.hash):
            return (
                f"the ID or hash of token {number} ({each.name}) is not as `redstreamd tokens new` writes it"
            )
        if each.id in seen:
            return f"token {number} ({each.name}) has the ID of another"
        seen.add(each.id)
    return ""
