"""redis-py's builders of commands whose key comes first. Imported after all that a plain call needs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from redis.commands.core import AsyncBasicKeyCommands, AsyncStreamCommands


class Builder(AsyncStreamCommands, AsyncBasicKeyCommands):
    """The builders, over one role and one rule for lost replies."""

    # Declared by redis-py's protocol for what its own client reports; nothing used here reads it.
    _event_dispatcher: Any = None

    def __init__(self, execute: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        """Send by `execute`, which takes the words of a command, and its key."""
        self._execute = execute

    def execute_command(self, *args: Any, **_options: Any) -> Coroutine[Any, Any, Any]:
        # "XINFO STREAM" comes as one argument. The options tell redis-py's own client how to parse.
        command, key, *rest = args
        return self._execute(*command.split(" "), key, *rest, key=key)
