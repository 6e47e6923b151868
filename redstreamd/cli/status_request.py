"""Asks the running daemon for its report, over a connection of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from redstreamd.client.discovery import Access, UnreachableError, open_connection
from redstreamd.client.single_request import exchange, health_request

#: Seconds for the answer. The daemon asks Redis for at most one; beyond this limit it hangs.
_ANSWER_SECONDS: Final = 10.0


class NoReportError(Exception):
    """There is no report; the text says why.

    Attributes:
        exit_status: Of the command: 75, or 78 if the given address is not valid.
    """

    def __init__(self, cause: str, exit_status: int = os.EX_TEMPFAIL) -> None:
        """Say why."""
        super().__init__(cause)
        self.exit_status = exit_status


def ask_for_report(socket: str | None, access: Access) -> dict[str, Any]:
    """Return the daemon's report; takes some seconds while a daemon restarts, and `_ANSWER_SECONDS` at most.

    Args:
        socket: The daemon's address, see `find_daemon`.
        access: What is shown to it over TCP.

    Raises:
        NoReportError: No daemon answers, or not with a report.
    """
    try:
        with open_connection(socket, access) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            return report_in(exchange(connection, health_request("redstreamd-status")))
    except UnreachableError as unreachable:
        raise NoReportError(str(unreachable), unreachable.exit_status) from None
    except OSError as broken:
        raise NoReportError(
            f"the daemon accepts, but does not answer ({broken}); read `journalctl -u redstreamd`"
        ) from broken
    except ValueError as refused:
        raise NoReportError(f"the daemon does not tell: {refused}") from refused


def report_in(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report in a response.

    Raises:
        ValueError: There is none.
    """
    if error := response.get("error"):
        raise ValueError(f"{error.get('message')} ({error.get('code')})")
    try:
        report: dict[str, Any] = json.loads(response["result"]["contents"][0]["text"])
    except LookupError:
        raise ValueError("its answer has no report") from None
    return report
