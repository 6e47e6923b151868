"""Chains audit records, so that one that is missing, changed or made up shows.

Each record carries its number, the hash of the record before it, and its own hash: HMAC-SHA-256 with the key
of this chain, which lies in the state directory. docs/security.md says what that shows and what not, and
specifies the hash; `verification` reads it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from redstreamd.errors import NotNowError
from redstreamd.errors.remedies import setting
from redstreamd.service.log_record import Record
from redstreamd.startup.state_keys import make_key

KEY_FILE: Final = "audit.key"
END_FILE: Final = "audit.chain"
#: Names of fields, without the prefix REDSTREAMD_.
CHAIN: Final = "AUDIT_CHAIN"
NUMBER: Final = "AUDIT_SEQ"
PREVIOUS: Final = "AUDIT_PREVIOUS"
HASH: Final = "AUDIT_HASH"
#: What stands for the hash of the record before the first one.
NO_HASH: Final = "0" * 64

_PREFIX: Final = "REDSTREAMD_"
_CONTEXT: Final = b"redstreamd audit 1\n"
_NAME: Final = b"redstreamd audit chain"
_KEY_BYTES: Final = 32
_MAX_CLEANED: Final = 5
_END: Final = re.compile(r"(\d{20}) ([0-9a-f]{64})\n")


def chain_name(key: bytes) -> str:
    """Return the name of the chain with this key, 16 hexadecimal digits; the key does not follow from it."""
    return hmac.digest(key, _NAME, "sha256").hex()[:16]


def hash_of(key: bytes, fields: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the hash of a record, 64 hexadecimal digits.

    Args:
        key: The chain's.
        fields: All fields of the record, in any order, with their whole names. Those that are not hashed are
            left out here.
    """
    items = {
        f"{name}=".encode() + (value.encode("utf-8", "backslashreplace") if isinstance(value, str) else value)
        for name, value in fields
        if is_hashed(name)
    }
    mac = hmac.new(key, _CONTEXT, hashlib.sha256)
    for item in sorted(items):
        mac.update(b"%d:%b," % (len(item), item))
    return mac.hexdigest()


def is_hashed(name: str) -> bool:
    """Return whether a field of a record is covered by its hash."""
    return name in ("MESSAGE", "MESSAGE_ID") or (name.startswith(_PREFIX) and name != _PREFIX + HASH)


def read_key(path: Path) -> bytes:
    """Return a key.

    Raises:
        OSError: It cannot be read, or is too short.
    """
    key = path.read_bytes()
    if len(key) < _KEY_BYTES:
        raise OSError(f"{path} holds {len(key)} bytes; a key of audit records has at least {_KEY_BYTES}")
    return key


class End(msgspec.Struct, frozen=True):
    """The last record of a chain.

    Attributes:
        number: Its number; 0 if there is none.
        hash: Its hash.
    """

    number: int = 0
    hash: str = NO_HASH


def read_end(path: Path) -> End | None:
    """Return the end of a chain that was stored; None if there is none, or none that makes sense.

    Raises:
        OSError: It cannot be read.
    """
    try:
        found = _END.fullmatch(path.read_text("ascii"))
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return None if found is None else End(int(found[1]), found[2])


class Chain:
    """The chain of the audit records of a state directory; one process at a time writes it.

    Attributes:
        name: Which chain it is.
        end: Its last record.
    """

    # Invariant: the end is stored before the record is written, under a lock. A process that dies in between
    # leaves a gap, never two records of one number.

    def __init__(
        self, directory: Path, *, clean: Callable[[str], str], on_failure: Callable[[str], None]
    ) -> None:
        """Continue the chain of a state directory, or begin it.

        Args:
            directory: Where the key and the end are stored; the key is made if there is none.
            clean: Does to a text what the log does before it is written, so that what is hashed is what is
                read.
            on_failure: Is told once when the end cannot be stored: then the next process leaves a gap.

        Raises:
            OSError: The directory cannot be used, or the key is too short.
            NotNowError: Another process writes this chain.
        """
        self._clean = clean
        self._on_failure = on_failure
        self._has_failed = False
        self._descriptor = os.open(directory / END_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._key = _key_in(directory)
            self.end = read_end(directory / END_FILE) or End()
        except BlockingIOError:
            self.close()
            raise NotNowError(
                f"another daemon chains its audit records in {directory}; give each daemon a state directory "
                f"of its own ({setting('daemon.state_directory')}), or wait until the other one has ended"
            ) from None
        except OSError:
            self.close()
            raise
        self.name: Final = chain_name(self._key)

    def close(self) -> None:
        """Let another process write the chain. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def seal(self, record: Record) -> Record:
        """Return a record as the next one of the chain."""
        number = self.end.number + 1
        text = "\n".join(self._as_written(line) for line in record.text.split("\n"))
        fields = (
            *((name, self._as_written(value)) for name, value in record.fields),
            (CHAIN, self.name),
            (NUMBER, str(number)),
            (PREVIOUS, self.end.hash),
        )
        digest = hash_of(
            self._key,
            [
                ("MESSAGE", text),
                ("MESSAGE_ID", record.message_id),
                (f"{_PREFIX}EVENT", record.event),
                *((_PREFIX + name, value) for name, value in fields),
            ],
        )
        self.end = End(number, digest)
        self._store()
        return msgspec.structs.replace(record, text=text, fields=(*fields, (HASH, digest)))

    def _as_written(self, line: str) -> str:
        """Return a line that the log writes as it is."""
        # A long one is shortened once more, and then stays.
        for _ in range(_MAX_CLEANED):
            if (cleaned := self._clean(line)) == line:
                break
            line = cleaned
        return line

    def _store(self) -> None:
        # Over what was there, in one call: never a part of it.
        try:
            os.pwrite(self._descriptor, f"{self.end.number:020} {self.end.hash}\n".encode(), 0)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                self._on_failure(error.strerror or str(error))
        else:
            self._has_failed = False


def _key_in(directory: Path) -> bytes:
    """Return the key of a state directory; made if there is none.

    Raises:
        OSError: It can be neither read nor made, or is too short.
    """
    path = directory / KEY_FILE
    if not path.exists():
        make_key(path)
    return read_key(path)
