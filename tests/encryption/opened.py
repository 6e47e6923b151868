"""What encrypted streams hold, read by the program in contrib/, which shares no code with redstreamd."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.encryption.rings import KeyDirectory
from tests.support.servers import Server


def _reader() -> Any:
    path = Path(__file__).parents[2] / "contrib" / "read_encrypted.py"
    spec = importlib.util.spec_from_file_location("read_encrypted", path)
    assert spec is not None
    assert spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    return reader


_READER = _reader()


def sealed_with(flat: Sequence[bytes]) -> str | None:
    """Return the ID of the key that an entry is encrypted with; None if it is not."""
    header = dict(zip(flat[::2], flat[1::2], strict=True)).get(b"_rs.enc")
    return None if header is None else header.split(b" ")[1].decode()


def members_in(stream: str, flat: Sequence[bytes], keys: KeyDirectory | None) -> dict[str, Any]:
    """Return the object in an entry that was written to a stream, encrypted or not, from its words."""
    words = [word.decode() for word in flat]
    fields = list(zip(words[::2], words[1::2], strict=True))
    members: dict[str, Any] = _READER.open_entry(_secrets(keys), stream, fields)
    return members


def opened_text(text: str, keys: KeyDirectory | None, *places: str) -> str:
    """Return a text that is not of an entry, such as a reason of a stream, a group and a consumer."""
    if not text.startswith("_rs.enc "):
        return text
    opened: str = _READER.open_text(_secrets(keys), text, *places)
    return opened


def opened_entries(server: Server, stream: str, keys: KeyDirectory) -> list[tuple[str, dict[str, Any]]]:
    """Read a whole stream, as `tests.support.history.entries_of` does where nothing is encrypted."""
    entries = server.command("XRANGE", stream, "-", "+")
    return [(entry_id.decode(), members_in(stream, flat, keys)) for entry_id, flat in entries]


def _secrets(keys: KeyDirectory | None) -> dict[str, bytes]:
    return {} if keys is None else {key_id: keys.secret(key_id) for key_id in keys.known}
