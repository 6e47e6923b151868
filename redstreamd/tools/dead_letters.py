"""dead_letter_replay: lists, replays or deletes dead letters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import attrs
from msgspec import Meta

from redstreamd.policy import Permission
from redstreamd.presentation.entries import view, with_key
from redstreamd.presentation.truncation import bound_entries
from redstreamd.streams import entry_ids
from redstreamd.streams.admin.dead_letters import DeadLetterAction, DeadLetterOutcome, DeadLetterResult
from redstreamd.streams.bus import Bus
from redstreamd.tools import shared_arguments
from redstreamd.tools.action_arguments import check_arguments, complete_entry_id
from redstreamd.tools.annotations import no, writing, yes
from redstreamd.tools.definition import Call, Profile, needs_on, tool
from redstreamd.tools.effects import Marked

_ARGUMENTS_BY_ACTION = {"replay": ("entry_ids",), "delete": ("entry_ids",)}
_WHY_NOT_REPLAYABLE = {
    DeadLetterOutcome.LOST: "It was too large to copy, and its original entry {entry} was deleted since.",
    DeadLetterOutcome.STUCK: "It was too large to copy, and the group of its entry {entry} does not exist: "
    "create the group with group_create, then replay.",
    DeadLetterOutcome.LARGE: "Another program wrote it, with more fields than can be copied: list it, "
    "add its data with stream_add, and delete it.",
}


@attrs.frozen
class DeadLetterReplayArguments:
    """Arguments of dead_letter_replay."""

    stream: shared_arguments.Stream
    group: shared_arguments.Group
    action: Annotated[
        Literal["list", "replay", "delete"],
        Meta(description="replay adds the entries to the stream again, for all its groups."),
        Marked.ACTION,
    ] = "list"
    entry_ids: (
        Annotated[
            shared_arguments.SomeEntryIds, Meta(description="IDs of dead letters; default: the oldest.")
        ]
        | None
    ) = None
    count: Annotated[int, Meta(ge=1, le=100, description="Most dead letters.")] = 10
    cursor: shared_arguments.Cursor | None = None
    dry_run: shared_arguments.DryRun = True


@attrs.frozen
class DeadLetterReplayed:
    """Answer of dead_letter_replay."""

    total: Annotated[int, Meta(description="Dead letters of the group before this call.")]
    dry_run: bool | None = None
    entries: (
        Annotated[
            list[dict[str, Any]],
            Meta(
                description="action list: {id, time, fields, sender?, dead_letter: {reason, id, consumer, "
                "attempts, history?: [{attempt, consumer, reason?, time}]}, encrypted?: {key, bound_to}}"
            ),
        ]
        | None
    ) = None
    replayed: (
        Annotated[
            list[dict[str, Any]],
            Meta(description="{id, new_id}, or {id, returned}: that entry is pending in the group again."),
        ]
        | None
    ) = None
    deleted: list[str] | None = None
    gone: Annotated[list[str], Meta(description="No longer dead letters.")] | None = None
    left: Annotated[list[str], Meta(description="Not done, too large for one call: call again.")] | None = (
        None
    )
    not_replayable: Annotated[list[dict[str, Any]], Meta(description="{id, why}")] | None = None
    other_groups: (
        Annotated[int, Meta(description="Groups of the stream that get replayed entries, too.")] | None
    ) = None
    next_cursor: str | None = None
    has_more: bool | None = None


@tool(
    title="List, replay or delete dead letters",
    profile=Profile.OPERATOR,
    permission=Permission.MANAGE,
    needs=needs_on(Permission.MANAGE, "stream"),
    hints=writing(
        "It adds dead letters to their stream again, or deletes them, unless dry_run is true.",
        destructive=yes(
            "delete removes dead letters for good; replay removes them from the list and adds their entries "
            "for all groups."
        ),
        idempotent=no("Without entry_ids each call processes the oldest dead letters that are left."),
    ),
)
async def dead_letter_replay(call: Call[Bus], args: DeadLetterReplayArguments) -> DeadLetterReplayed:
    """List the dead letters of a consumer group, replay them into their stream, or delete them.

    Replay and delete only report what they would do unless dry_run is false. A dead letter is replayed
    once, with its fields and sender unchanged, and is then removed.
    """
    check_arguments(args, _ARGUMENTS_BY_ACTION)
    at = None if args.cursor is None else entry_ids.split_cursor(("",), args.cursor)[0]
    letters = await call.bus.dead_letters.page(args.stream, args.group, cursor=at, count=args.count)
    if args.action == "list":
        shown, cut = bound_entries(
            [
                with_key(view(letters.key, entry), letters.keys.get(entry.id), args.stream)
                for entry in letters.entries
            ],
            call.bus.quotas.result_bytes(call.principal),
            droppable=True,
        )
        return DeadLetterReplayed(
            total=letters.total,
            entries=shown,
            next_cursor=shown[-1]["id"] if shown else at or entry_ids.ZERO,
            has_more=letters.has_more or cut,
        )
    given = dict.fromkeys(complete_entry_id(each, "entry_ids") for each in args.entry_ids or ())
    chosen = list(given) or [entry.id for entry in letters.entries]
    groups = None
    if args.action == "replay":
        # First, because an error here after the replay would hide what was done.
        groups = await call.bus.dead_letters.other_groups(args.stream, args.group)
    results = await call.bus.dead_letters.settle(
        args.stream, args.group, DeadLetterAction(args.action), chosen, dry_run=args.dry_run
    )
    added = any(one.outcome is DeadLetterOutcome.ADDED for one in results)
    return _answer(letters.total, results, args.dry_run, groups if added else None)


def _answer(
    total: int, results: list[DeadLetterResult], dry_run: bool, groups: int | None
) -> DeadLetterReplayed:
    replayed: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for one in results:
        if one.outcome is DeadLetterOutcome.ADDED:
            replayed.append(
                {"id": one.id} if one.entry_id is None else {"id": one.id, "new_id": one.entry_id}
            )
        elif one.outcome is DeadLetterOutcome.RETURNED:
            replayed.append({"id": one.id, "returned": one.entry_id})
        elif one.outcome in _WHY_NOT_REPLAYABLE:
            refused.append({"id": one.id, "why": _WHY_NOT_REPLAYABLE[one.outcome].format(entry=one.entry_id)})
    return DeadLetterReplayed(
        total=total,
        dry_run=dry_run,
        replayed=replayed or None,
        deleted=[one.id for one in results if one.outcome is DeadLetterOutcome.DELETED] or None,
        gone=[one.id for one in results if one.outcome is DeadLetterOutcome.GONE] or None,
        left=[one.id for one in results if one.outcome is DeadLetterOutcome.LEFT] or None,
        not_replayable=refused or None,
        other_groups=groups,
    )


TOOLS = (dead_letter_replay,)
