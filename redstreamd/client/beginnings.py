"""How a client begins: a message begins with a brace or a bracket, and nothing else is worth remembering."""

from __future__ import annotations

from typing import Final

_BLANK: Final = b" \t\r\n"
#: U+FEFF in UTF-8, which some editors and shells write before a text (RFC 8259, section 8.1).
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Beginning:
    """The first bytes of a client, until it is known whether it sends JSON.

    Attributes:
        held: What was read so far; blank lines and a byte order mark before the first message are left out.
        is_known: Whether it is known.
        is_foreign: Whether it is known, and no message begins so.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.held = b""
        self.is_known = self.is_foreign = False

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        self.held += data
        while not self.is_known:
            self.held = self.held.lstrip(_BLANK)
            if _BYTE_ORDER_MARK.startswith(self.held[: len(_BYTE_ORDER_MARK)]):
                # It may be blank, or a part of the mark.
                if len(self.held) < len(_BYTE_ORDER_MARK):
                    return
                self.held = self.held[len(_BYTE_ORDER_MARK) :]
                continue
            self.is_known = True
            self.is_foreign = self.held[:1] not in (b"{", b"[")
