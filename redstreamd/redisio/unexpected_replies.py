"""Replies that no Redis gives: of another type, or in another form than the command has.

They come from a proxy in between, from another program at the address, or from a server that is broken. What
reads replies says so by one error, in which nothing of the reply is repeated. A defect of ours in reading
looks the same, so the exception is reported to the log with its traceback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from redstreamd.errors import BusError, Code
from redstreamd.errors.defects import report_defect

ArgumentsT = ParamSpec("ArgumentsT")
ResultT = TypeVar("ResultT")

#: What reading a reply of another type or form raises.
UNREADABLE: Final = (TypeError, ValueError, LookupError, AttributeError, OverflowError)


class UnexpectedReply(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """The server replied something that the command cannot have as its reply."""

    def __init__(self, *, outcome_known: bool = True) -> None:
        """Say so.

        Args:
            outcome_known: Whether the command changes nothing, or may be repeated.
        """
        super().__init__(
            Code.CONNECTION_ERROR if outcome_known else Code.OUTCOME_UNKNOWN,
            "Redis gave a reply that the command does not have.",
            cause="The reply has another type or form: a proxy in between changed it, or what answers at the "
            "address of Redis is no Redis or Valkey."
            + ("" if outcome_known else " The call may have had its effect."),
            next_step="Ask the operator to run `redstreamd doctor`."
            if outcome_known
            else "Check whether it took effect before repeating it, and ask the operator to run `redstreamd "
            "doctor`.",
        )


def unexpected_reply(error: Exception, *, outcome_known: bool = True) -> UnexpectedReply:
    """Report an exception that arose in reading a reply, and return what to raise; see `UnexpectedReply`."""
    if not isinstance(error, UnexpectedReply):
        # The text of the exception may quote an entry; its traceback has lines of code only.
        told = TypeError(type(error).__name__).with_traceback(error.__traceback__)
        report_defect("a reply of Redis has another type or form than its command gives", told)
    return UnexpectedReply(outcome_known=outcome_known)


def readable(read: Callable[ArgumentsT, Awaitable[ResultT]]) -> Callable[ArgumentsT, Awaitable[ResultT]]:
    """Make a function that sends a command without effects, and reads its reply, raise `UnexpectedReply`."""

    @wraps(read)
    async def reading(*args: ArgumentsT.args, **kwargs: ArgumentsT.kwargs) -> ResultT:
        try:
            return await read(*args, **kwargs)
        except UNREADABLE as error:
            raise unexpected_reply(error) from error

    return reading
