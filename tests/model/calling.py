"""How the model's rules call a tool: JSON in, JSON out, each answer checked for its form and size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import attrs
import jsonschema
import msgspec
from hypothesis.stateful import RuleBasedStateMachine

from redstreamd.errors import Code
from redstreamd.streams.entry_decoding import Decoded, decode
from redstreamd.tools.schema import always_present, result_schema
from redstreamd.tools.toolbox import Toolbox
from tests.encryption.opened import members_in, sealed_with
from tests.encryption.rings import KeyDirectory
from tests.model.choices import NO_STREAM
from tests.model.world import World
from tests.support.buses import BusThread
from tests.support.calls import ME, no_progress
from tests.support.topologies import Deployed

MAX_RESULT_BYTES = 2_048
#: What an answer has beside its entries: a lease token, cursors, the names of members.
BESIDE = 2_048


@cache
def check(result: type[attrs.AttrsInstance]) -> jsonschema.Draft202012Validator:
    """Return what an answer of this class is held against; made once, since it costs more than the call."""
    return jsonschema.Draft202012Validator(result_schema(result))


class Calling(RuleBasedStateMachine):
    """A machine that begins with an empty server and an empty world. Its rules are in classes made of this.

    Attributes:
        server: The real server.
        threads: The daemon's domain on it.
        toolbox: The tools over that.
        keys: Those that the entries are encrypted with; None where nothing is.
        clear: The names of fields that are not encrypted; None where nothing is.
        succeeded: Names of the tools that ever succeeded, shared by all machines of a run.
        world: What the server must hold.
    """

    server: Deployed
    threads: BusThread
    toolbox: Toolbox[Any]
    succeeded: set[str]
    keys: KeyDirectory | None = None
    clear: frozenset[str] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.server.flush()
        self.server.command("SET", NO_STREAM, "x")
        self.world = World()

    def answer(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool with JSON, check the form of its answer, and return the whole."""
        found = self.toolbox.find(tool, ME)
        given = json.loads(json.dumps(arguments))
        result = self.threads.call(partial(self.toolbox.call, found, given, ME, no_progress))
        whole: dict[str, Any] = json.loads(result.opened + b"}")
        content = whole.get("structuredContent")
        if whole["isError"]:
            assert content is not None
            assert content.keys() == {"code", "message", "cause", "next_step"}
            assert content["code"] in set(Code) - {Code.INTERNAL}, content
        else:
            self.succeeded.add(tool)
        if found.result is not None:
            check(found.result).validate(content)
            assert whole["isError"] or set(always_present(found.result)) <= content.keys()
            assert len(json.dumps(content, ensure_ascii=False).encode()) <= MAX_RESULT_BYTES + BESIDE
        return whole

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must succeed."""
        whole = self.answer(tool, **arguments)
        assert not whole["isError"], whole["content"]
        content: dict[str, Any] = whole["structuredContent"]
        return content

    def expect(self, code: str | None, tool: str, **arguments: Any) -> dict[str, Any] | None:
        """Call a tool that must fail with `code`, and return None; with None it must succeed."""
        if code is None:
            return self.call(tool, **arguments)
        whole = self.answer(tool, **arguments)
        assert whole["isError"], (code, whole["structuredContent"])
        assert whole["structuredContent"]["code"] == code, whole["content"]
        return None

    def texts(self, tool: str, code: str | None = None, **arguments: Any) -> Any:
        """Call a tool of the original Red-Stream server; return the JSON in its text, None if refused."""
        whole = self.answer(tool, **arguments)
        if code is not None:
            assert whole["structuredContent"]["code"] == code, whole["content"]
            return None
        assert not whole["isError"], whole["content"]
        return json.loads(whole["content"][0]["text"])

    def consumers(self, stream: str, group: str) -> set[str]:
        """Return the consumers of a group that exists."""
        known = self.server.command("XINFO", "CONSUMERS", stream, group)
        return {dict(zip(one[::2], one[1::2], strict=True))[b"name"].decode() for one in known}

    def stored(self, stream: str, flat: Sequence[bytes]) -> Decoded:
        """Return what an entry holds that was written to a stream, from its words in Redis."""
        # What waited in quarantine was written there by the test itself.
        assert (sealed_with(flat) is None) is (self.keys is None or b"_rs.released" in flat)
        fields = list(zip(flat[::2], flat[1::2], strict=True))
        return msgspec.structs.replace(decode(fields), members=members_in(stream, flat, self.keys))

    def refusal_of(self, wanted: Mapping[str, Any] | None) -> str | None:
        """Return the code of the error for a filter by encrypted fields, or None if there are none in it."""
        return None if self.clear is None or self.clear.issuperset(wanted or ()) else "INVALID_ARGUMENT"

    def check_shown(self, shown: dict[str, Any], members: dict[str, Any]) -> None:
        """An entry is shown as it was given, or says what was cut and where the whole is."""
        if "cut" not in shown and "omitted" not in shown:
            assert shown["fields"] == members
        else:
            assert len(json.dumps(members)) > MAX_RESULT_BYTES // 10
