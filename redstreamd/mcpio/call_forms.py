"""Recognises plain calls that a client writes as those before them.

In the calls of one tool by one client all text but the id and the arguments is the same, to the last space:
their form. Who finds it at its places need not decode the message, which takes twice as long. Whatever has
another form is for `plain_calls.decode`, which is the truth about plain calls; a property test compares both.
"""

from __future__ import annotations

import functools
from typing import Final

import msgspec

from redstreamd.mcpio.connection_state import Era
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.plain_calls import NESTING_AROUND, PlainCall, decode, most_levels
from redstreamd.strict_json import LONG, text_is_plain

#: So many calls of a tool that come one after the other show the form of the next: to find it costs as much
#: as it spares three calls, and where tools take turns it would be of no use.
_ALIKE: Final = 8
#: Where a form was looked for in vain, after so many more.
_IN_VAIN: Final = 1_000
#: Forms that are kept once for all who have them, and how many bytes one may have.
_SHARED: Final = 256
_LONGEST: Final = 1_024
#: Integers of so many digits are ids like others.
_MOST_DIGITS: Final = 15
_BACKSLASH, _ZERO = ord("\\"), ord("0")


class _Form(msgspec.Struct, frozen=True, gc=False):
    """The text of a call around its id and its arguments, whichever of them is the first.

    Attributes:
        head: What is before the first of them.
        between: What is between them.
        tail: What is behind the second.
        is_id_last: Whether the arguments are the first.
        era: As in `PlainCall`.
        tool: As in `PlainCall`.
        begin: Where the first begins.
        stop: The character that ends it, if it is the id; no digit.
        skip: How far the second is from the end of the first.
        end: Where the second ends, counted from the end of the line.
    """

    head: bytes
    between: bytes
    tail: bytes
    is_id_last: bool
    era: Era
    tool: str
    begin: int
    stop: int
    skip: int
    end: int


class CallForms:
    """Recognises the plain calls of one client."""

    __slots__ = ("_alike", "_form", "_tool")

    def __init__(self) -> None:
        """Begin with no form."""
        self._form: _Form | None = None
        # The tool of the last calls that had another form, and how many came one after the other.
        self._tool = ""
        self._alike = 0

    def decode(self, line: bytes, limits: Limits) -> PlainCall | None:
        """Return what `plain_calls.decode` does, unless the arguments are no JSON value.

        They may have spaces around them. If they are refused, the line may still be a plain call, such as one
        with more members, whose arguments only begin there: `forget`, and decode it again.
        """
        form, size = self._form, len(line)
        if form is not None and size < LONG and line.startswith(form.head) and line.endswith(form.tail):
            if form.is_id_last:
                stop = line.rfind(form.between, form.begin)
                digits, arguments = line[stop + form.skip : form.end], line[form.begin : stop]
                is_whole = stop >= 0
            else:
                stop = line.find(form.stop, form.begin)
                digits, arguments = line[form.begin : stop], line[stop + form.skip : form.end]
                is_whole = line.startswith(form.between, stop)
            if (
                is_whole
                and digits.isdigit()
                and (digits[0] != _ZERO or digits == b"0")
                and len(digits) <= _MOST_DIGITS
                # Not if what is behind them begins before their own place.
                and arguments
            ):
                most = limits.max_nesting - NESTING_AROUND
                if (
                    # See there for these bounds.
                    49 * size > 16 * limits.max_values
                    or (len(arguments) > 2 * most and most_levels(arguments) > most)
                    or ((_BACKSLASH in arguments or not arguments.isascii()) and not text_is_plain(arguments))
                ):
                    return decode(line, limits)
                self._alike = 0
                return PlainCall(form.era, int(digits), form.tool, arguments, None)
        call = decode(line, limits)
        if call is not None:
            if call.tool != self._tool:
                self._tool, self._alike = call.tool, 0
            self._alike += 1
            if self._alike == _ALIKE:
                form = _form_of(line, call)
                self._alike = -_IN_VAIN if form is None else 0
                self._form = form or self._form
        return call

    def forget(self) -> None:
        """Forget the form, because a call was refused that may not be of it."""
        self._form, self._alike = None, 0


def _form_of(line: bytes, call: PlainCall) -> _Form | None:
    """Return the form of a plain call; None if it has none of which that is sure."""
    arguments = call.arguments
    if not arguments or call.progress_token is not None or type(call.id) is not int:
        return None
    if len(line) >= LONG or len(line) - len(bytes(arguments)) > _LONGEST:
        return None
    arguments, own_id = bytes(arguments), b"%d" % call.id
    first, second, at = arguments, own_id, line.rfind(arguments)
    id_at = line.find(b'"id"', at + len(arguments))
    is_id_last = id_at >= 0
    if is_id_last:
        second_at = line.find(own_id, id_at)
    else:
        first, second, second_at = own_id, arguments, at
        at = line.find(own_id, line.find(b'"id"'))
    head, between, tail = line[:at], line[at + len(first) : second_at], line[second_at + len(second) :]
    if not between or between[:1].isdigit() or not tail:
        return None
    # That these are their places is shown by others in them.
    other_id, other = (b"1" if call.id != 1 else b"2"), b'{"":[]}'
    put = (other, other_id) if is_id_last else (other_id, other)
    shown = decode(b"".join((head, put[0], between, put[1], tail)), Limits())
    if shown != PlainCall(call.era, int(other_id), call.tool, other, None):
        return None
    return _shared(head, between, tail, is_id_last, call.era, call.tool)


@functools.lru_cache(_SHARED)
def _shared(head: bytes, between: bytes, tail: bytes, is_id_last: bool, era: Era, tool: str) -> _Form:
    skip = len(between)
    return _Form(head, between, tail, is_id_last, era, tool, len(head), between[0], skip, -len(tail))
