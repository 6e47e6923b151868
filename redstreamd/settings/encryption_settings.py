"""The settings of encryption; see `sections`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import attrs
from msgspec import Meta

from redstreamd.encryption.encryption_rules import EncryptionRule
from redstreamd.settings.redis_settings import CREDENTIAL


@attrs.frozen(kw_only=True)
class EncryptionSettings:
    """Entries that are encrypted before they are stored: who can read Redis or its files cannot read them."""

    keys: Annotated[
        Path | None,
        Meta(
            description="The directory of the keys: each file ID.key holds one, 32 random bytes in base64, "
            "as `redstreamd keys new` makes them. Nobody but the owner may read the files. A name without a "
            "slash is that of credentials of the service, which are then named NAME_ID.key: "
            "LoadCredential=NAME:DIRECTORY loads a directory so. All hosts that share streams need the same "
            "keys. Any of them can read; they are read again at a reload.",
            extra=CREDENTIAL,
        ),
    ] = None
    writing_key: Annotated[
        str | None,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9._-]{0,31}\Z",
            description="The ID of the key that new entries are encrypted with. Change it after every host "
            "has the key and was reloaded.",
            extra={
                "allowed": "the ID of a key: 1 to 32 characters of a-z, 0-9, '.', '_' and '-', the first a "
                "letter or digit"
            },
        ),
    ] = None
    streams: Annotated[
        tuple[EncryptionRule, ...],
        Meta(
            description='Which streams are encrypted, such as ["public:* are clear", "jobs:* are encrypted '
            'except kind priority", "secrets:* are encrypted with names"]. The first rule that matches a '
            "stream counts; a stream without one is clear. It says how entries are written: what is stored "
            "already stays as it is, and readable. The keys beside a stream (dead letters, replies, "
            "quarantine) follow its rule. Only fields that stay clear can be filtered by.",
        ),
    ] = ()
