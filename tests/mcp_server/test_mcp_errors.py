"""What a request that is no tool call fails with."""

from __future__ import annotations

import pytest

from redstreamd.errors import BusError, Code
from redstreamd.mcp_server.mcp_errors import request_error, resource_error


@pytest.mark.parametrize(
    ("message", "cause", "told"),
    [
        ("Redis is not available", "no reply to a command", "Redis is not available: no reply to a command"),
        ("There is no stream 's'.", "It was deleted.", "There is no stream 's'. It was deleted."),
    ],
)
@pytest.mark.parametrize("code", [Code.STREAM_NOT_FOUND, Code.CONNECTION_ERROR])
def test_what_happened_and_why_read_as_one_text(code: Code, message: str, cause: str, told: str) -> None:
    error = BusError(code, message, cause=cause, next_step="Wait.")
    assert request_error(error).error.message == told
    assert resource_error(error, "redstream://streams", "2025-11-25").error.message.endswith(told)
