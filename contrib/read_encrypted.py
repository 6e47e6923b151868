#!/usr/bin/env python3
"""Reads encrypted entries of redstreamd without redstreamd: needs only Python and the package `cryptography`.

    redis-cli --json XRANGE orders:new - + | ./read_encrypted.py --keys DIRECTORY --stream orders:new

Prints a line of JSON for each entry: its ID and the object that was added, or why it cannot be read.
docs/design.md specifies the format. --stream is the stream that the entries were written to: of dead letters
the stream that they come from, in quarantine the one that they wait for.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

#: Fields that are added to an entry after it was encrypted.
LATER = {"_rs.quarantine", "_rs.released", "_rs.dead"}

Keys = Mapping[str, bytes]
Fields = Sequence[tuple[str, str]]


class UnreadableError(Exception):
    """An entry cannot be read."""


def read_keys(directory: str) -> Keys:
    """Return the 32 bytes of each key by its ID."""
    return {path.stem: base64.b64decode(path.read_text()) for path in Path(directory).glob("*.key")}


def from_base64(text: str) -> bytes:
    """Return the bytes of a text in base64, with or without padding."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise UnreadableError("a value is not in base64") from error


def is_member(field: str) -> bool:
    """Return whether a field is a member of the object, and not one that redstreamd added."""
    return not field.startswith("_rs.") or field.startswith("_rs.=")


def decrypt(keys: Keys, header: str, box: bytes, bound: Sequence[str]) -> bytes:
    """Return what is in `box`, for what `_rs.enc` says and the texts that it is bound to."""
    version, key_id, *parts = header.split(" ")
    if version != "1" or key_id not in keys:
        raise UnreadableError(f"there is no key {key_id!r}, or no version {version!r} of the format")
    series, nonce, tag = map(from_base64, parts)
    texts = [text.encode() for text in bound]
    associated = ",".join(str(len(text)) for text in texts).encode() + b":" + b"".join(texts)
    key = HKDF(SHA256(), 32, series, b"redstreamd entries 1").derive(keys[key_id])
    try:
        return AESGCM(key).decrypt(nonce, box + tag, associated)
    except (InvalidTag, ValueError) as error:
        raise UnreadableError(f"it was changed or moved, or {key_id!r} is another key") from error


def open_entry(keys: Keys, stream: str, fields: Fields) -> dict[str, Any]:
    """Return the object that an entry holds, encrypted or not."""
    values = dict(fields)
    clear = json.loads(values.get("_rs.clear", "[]"))
    header = values.get("_rs.enc")
    if header is not None:
        boxes: list[bytes] = []
        sealed: list[str] = []
        bound = ["redstreamd entry", stream, header.rpartition(" ")[0]]
        for field, value in fields:
            if field == "_rs.sealed" or (is_member(field) and field not in clear):
                sealed.append(field)
                boxes.append(from_base64(value))
                bound += [field, str(len(boxes[-1]))]
            elif field != "_rs.enc" and field not in LATER:
                bound += [field, value]
        plain = decrypt(keys, header, b"".join(boxes), bound)
        for field, box in zip(sealed, boxes, strict=True):
            values[field], plain = plain[: len(box)].decode(), plain[len(box) :]
    as_json = json.loads(values.get("_rs.json", "[]"))
    # The object of the members whose names are encrypted, too.
    members: dict[str, Any] = json.loads(values.get("_rs.sealed", "{}"))
    for field, text in values.items():
        if is_member(field):
            name = field.removeprefix("_rs.=")
            members[name] = json.loads(text) if name in as_json else text
    return members


def open_text(keys: Keys, text: str, *places: str) -> str:
    """Return a text that was encrypted for itself, such as the reason in a dead letter."""
    header, _, box = text.removeprefix("_rs.enc ").rpartition(" ")
    bound = ["redstreamd text", header.rpartition(" ")[0], *places]
    return decrypt(keys, header, from_base64(box), bound).decode()


def main() -> None:
    """Read entries from standard input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", required=True, help="the directory of the keys, files ID.key")
    parser.add_argument("--stream", required=True, help="the stream that the entries were written to")
    options = parser.parse_args()
    keys = read_keys(options.keys)
    for entry_id, words in json.load(sys.stdin):
        fields = list(zip(words[::2], words[1::2], strict=True))
        try:
            line = {"id": entry_id, "members": open_entry(keys, options.stream, fields)}
        except UnreadableError as error:
            line = {"id": entry_id, "unreadable": str(error)}
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
