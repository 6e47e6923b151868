"""Lua scripts that run inside the server.

Owns a script's text and its digest. What a script does is its author's business; sending it is
``Manager.run_script``'s.
"""

from __future__ import annotations

import hashlib
import importlib.resources

import attrs


@attrs.frozen
class Script:
    """A Lua script, known to the server by the SHA-1 of its text.

    Attributes:
        source: The Lua text, exactly as it is sent.
        sha: Lower-case hexadecimal SHA-1 of it, which EVALSHA asks for
            (https://redis.io/commands/evalsha).
    """

    source: str
    sha: str = attrs.field(init=False, repr=False)

    @sha.default
    def _digest(self) -> str:
        # The server's own naming of scripts; nothing is secured by it.
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def from_resource(cls, package: str, name: str) -> Script:
        """Read the script `name` that lies beside the modules of `package`.

        Raises:
            FileNotFoundError: The installed package lacks the file.
        """
        return cls(importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8"))
