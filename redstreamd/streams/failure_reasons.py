"""Why deliveries failed: the reasons that workers give, as the history and dead letters keep them.

They are texts of their own, sealed if the entries are, and bound to the stream, the group and the consumer.
"""

from __future__ import annotations

import msgspec

from redstreamd.encryption.sealed_format import TEXT_PREFIX
from redstreamd.errors import BusError
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.lease_tokens import Lease

#: Bytes that the history keeps of a reason.
_MAX_BRIEF_BYTES = 200
_REASON_LOST = "(not kept: it is to be encrypted, and there is no key)"


def seal_reason(encryption: Encryption, lease: Lease, reason: str) -> tuple[str, str]:
    """Return a reason as a dead letter keeps it, and as the history does; sealed if the entries are.

    Work has to be finished also without a key to write with; then the reason is lost.
    """
    brief = reason
    if len(reason) > _MAX_BRIEF_BYTES // 4:
        brief = reason.encode()[:_MAX_BRIEF_BYTES].decode(errors="ignore")
    places = (lease.group, lease.consumer)
    try:
        kept = encryption.seal_text(lease.stream, reason, *places)
        return kept, kept if brief == reason else encryption.seal_text(lease.stream, brief, *places)
    except BusError:
        return _REASON_LOST, _REASON_LOST


def with_reasons(encryption: Encryption, stream: str, group: str, letter: RawEntry) -> RawEntry:
    """Return a dead letter with the reasons in its note as they were given."""
    words = letter.words
    if TEXT_PREFIX not in str(words[-1:]):
        return letter
    try:
        note = msgspec.json.decode(words[-1])
        for each in (note, *note.get("history", ())):
            if isinstance(reason := each.get("reason"), str):
                each["reason"] = encryption.open_text(stream, reason, group, str(each.get("consumer")))
    except (AttributeError, TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        # Another program wrote it.
        return letter
    text = msgspec.json.encode(note)
    last = text if isinstance(words[-1], bytes) else text.decode()
    return msgspec.structs.replace(letter, words=[*words[:-1], last])
