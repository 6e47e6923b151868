"""Which calls are audited follows from the definition of each tool there is."""

from __future__ import annotations

import json
from typing import Annotated, Any

import attrs
import pytest
from msgspec import Meta

from redstreamd.policy import Permission
from redstreamd.tools import shared_arguments
from redstreamd.tools.annotations import Hints, no, reading, writing, yes
from redstreamd.tools.argument_text import ONLY_REQUIRED, ArgumentDecoder
from redstreamd.tools.arguments import Structurer
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import NO_NEEDS, Call, Profile, Tool, tool
from redstreamd.tools.effects import Marked
from tests.tools.test_argument_text import values_of

DESTRUCTIVE = writing("It acts.", destructive=yes("It removes."), idempotent=no("Again."))
HARMLESS = writing("It acts.", destructive=no("It adds."), idempotent=no("Again."))


@attrs.frozen
class Arguments:
    action: Annotated[str, Marked.ACTION] = "look"
    limit: Annotated[int | None, Meta(description="Keep."), Marked.REMOVES] = None
    reason: Annotated[str, Marked.REMOVES] = ""
    force: Annotated[bool, Marked.REMOVES] = False
    dry_run: shared_arguments.DryRun = False


@attrs.frozen
class Unmarked:
    force: bool = False


def tool_with(
    arguments: type[attrs.AttrsInstance],
    hints: Hints,
    permission: Permission = Permission.PUBLISH,
    unaudited: str = "",
) -> Tool[Any]:
    async def act(call: Call[None], args: Any) -> dict[str, Any]:
        """Act."""
        return {}

    act.__annotations__["args"] = arguments
    define = tool(
        title="Act",
        profile=Profile.WORKER,
        permission=permission,
        needs=NO_NEEDS,
        hints=hints,
        unaudited=unaudited,
    )
    return define(act)


@pytest.mark.parametrize("each", REGISTRY, ids=lambda each: each.name)
def test_every_tool_says_which_of_its_calls_are_audited(each: Tool[Any]) -> None:
    effects = each.effects
    audited = effects.always or bool(effects.removing)
    if each.permission is Permission.MANAGE and not each.hints.read_only.value:
        assert effects.always
    if each.hints.destructive.value:
        assert audited or each.unaudited.endswith(".")
    else:
        assert not audited or each.permission is Permission.MANAGE
    if each.hints.read_only.value:
        assert not audited
    # A force or a dry run that is not marked would be forgotten.
    marked = {name for name, _, _ in effects.removing} | {effects.dry_run, effects.action}
    names = {field.name for field in attrs.fields(each.arguments)}
    assert not (names & {"force", "dry_run"}) - marked
    if effects.always and "action" in names:
        assert effects.action == "action"


def test_a_destructive_tool_that_says_nothing_cannot_be_called() -> None:
    with pytest.raises(ValueError, match="needs the permission to manage, or arguments marked"):
        assert tool_with(Unmarked, DESTRUCTIVE).effects
    assert tool_with(Unmarked, DESTRUCTIVE, unaudited="It removes its own.").effects.removing == ()
    assert tool_with(Unmarked, DESTRUCTIVE, Permission.MANAGE).effects.always


@pytest.mark.parametrize("permission", [Permission.MANAGE, Permission.PUBLISH])
def test_a_reason_against_records_does_not_overrule_what_is_audited(permission: Permission) -> None:
    with pytest.raises(ValueError, match="or else a reason why"):
        assert tool_with(Arguments, DESTRUCTIVE, permission, unaudited="It is harmless.").effects


@pytest.mark.parametrize(
    ("given", "by_anybody", "by_a_manager"),
    [
        ({}, None, "look"),
        ({"limit": 0}, "look limit=0", "look limit=0"),
        ({"force": True, "limit": 5}, "look limit=5 force", "look limit=5 force"),
        ({"reason": "a secret"}, "look reason", "look reason"),
        ({"force": True, "dry_run": True}, None, None),
    ],
)
def test_an_action_tells_what_removes_and_no_texts(
    given: dict[str, Any], by_anybody: str | None, by_a_manager: str | None
) -> None:
    arguments = Arguments(**given)
    assert tool_with(Arguments, DESTRUCTIVE).effects.action_of(arguments) == by_anybody
    managing = tool_with(Arguments, HARMLESS, Permission.MANAGE)
    assert managing.effects.action_of(arguments) == by_a_manager


def test_a_tool_that_manages_and_only_reads_is_not_audited() -> None:
    reader = tool_with(Unmarked, reading("It reads."), Permission.MANAGE)
    assert reader.effects.action_of(Unmarked(force=True)) is None


@pytest.mark.parametrize("each", REGISTRY, ids=lambda each: each.name)
def test_arguments_of_which_nothing_is_told_are_known_by_their_class(each: Tool[Any]) -> None:
    structure, decode = Structurer(each.arguments), ArgumentDecoder(each.arguments)
    schema = structure.schema
    required = {name: values_of(schema["properties"][name])[0] for name in schema.get("required", ())}
    given = decode(json.dumps(required, separators=(",", ":")).encode())
    assert type(given) in ONLY_REQUIRED
    effects = each.effects
    assert (type(given) in effects.usual_classes) == (effects.given(given) == effects.usual)
    if type(given) in effects.usual_classes:
        assert effects.of_call(given, None) == (None, None)


def test_a_required_argument_that_removes_is_looked_at() -> None:
    @attrs.frozen
    class Removing:
        limit: Annotated[int, Meta(description="Keep."), Marked.REMOVES]

    effects = tool_with(Removing, DESTRUCTIVE).effects
    given = ArgumentDecoder(Removing)(b'{"limit":5}')
    assert type(given) not in effects.usual_classes
    assert effects.of_call(given, None) == (None, "limit=5")
