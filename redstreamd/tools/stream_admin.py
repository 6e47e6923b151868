"""stream_manage: removes entries or a stream, unless a group still needs them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import attrs
import msgspec
from msgspec import Meta

from redstreamd.errors import BusError, Code
from redstreamd.policy import Permission
from redstreamd.streams.admin.stream_admin import Removal, RemovalResult
from redstreamd.streams.bus import Bus
from redstreamd.streams.diagnosis.lag import StreamInfo
from redstreamd.tools import shared_arguments
from redstreamd.tools.action_arguments import check_arguments, complete_entry_id, missing_argument
from redstreamd.tools.annotations import no, writing, yes
from redstreamd.tools.definition import Call, Profile, needs_on, tool
from redstreamd.tools.effects import Marked

_ARGUMENTS_BY_ACTION = {
    "trim": ("max_length", "min_id", "max_age_seconds"),
    "delete_entries": ("entry_ids",),
    "delete": ("delete_dead_letters",),
}


@attrs.frozen
class StreamManageArguments:
    """Arguments of stream_manage."""

    stream: shared_arguments.Stream
    action: Annotated[Literal["trim", "delete_entries", "delete"], Marked.ACTION]
    max_length: (
        Annotated[int, Meta(ge=0, description="trim: keep this many of the newest entries."), Marked.REMOVES]
        | None
    ) = None
    min_id: (
        Annotated[str, Meta(max_length=64, description="trim: remove entries below this ID."), Marked.REMOVES]
        | None
    ) = None
    max_age_seconds: (
        Annotated[float, Meta(ge=0, le=10**10, description="trim: remove older entries."), Marked.REMOVES]
        | None
    ) = None
    entry_ids: (
        Annotated[shared_arguments.SomeEntryIds, Meta(description="delete_entries: their IDs.")] | None
    ) = None
    delete_dead_letters: Annotated[
        bool, Meta(description="delete: also delete the dead letters of its groups."), Marked.REMOVES
    ] = False
    force: Annotated[
        bool,
        Meta(description="Remove even what groups have pending or have not received yet."),
        Marked.REMOVES,
    ] = False
    dry_run: shared_arguments.DryRun = True


@attrs.frozen
class StreamManaged:
    """Answer of stream_manage."""

    dry_run: bool
    effect: shared_arguments.Effect
    needed_by: (
        Annotated[
            list[dict[str, str]],
            Meta(description="{group, why: pending | unread, entry_id}: groups that need some of it."),
        ]
        | None
    ) = None
    note: str | None = None


@tool(
    title="Trim or delete a stream",
    profile=Profile.OPERATOR,
    permission=Permission.MANAGE,
    needs=needs_on(Permission.MANAGE, "stream"),
    hints=writing(
        "It removes entries or the stream, unless dry_run is true.",
        destructive=yes("It removes entries; with force also those that groups have not finished."),
        idempotent=no("A second call removes what was added or became too old since the first."),
    ),
)
async def stream_manage(call: Call[Bus], args: StreamManageArguments) -> StreamManaged:
    """Trim a stream, delete some of its entries, or delete it.

    Reports what would be removed and who needs it, and does it only if dry_run is false. What a group has
    pending or has not received yet is removed only with force.
    """
    _check(args)
    admin = call.bus.streams
    info = await admin.info(args.stream)
    effect: dict[str, Any] = {"length_before": info.length}
    if args.action == "trim":
        boundary = await _boundary(call, args, info)
        removal, what = Removal.TRIM, [boundary]
        effect["first_kept"] = boundary
        if args.dry_run and args.max_length is not None:
            effect["removed"] = max(0, info.length - args.max_length)
        elif args.dry_run:
            effect |= (await admin.count_below(args.stream, boundary)).json("removed")
    elif args.action == "delete_entries":
        # Without repetitions: an entry can be deleted once.
        named = dict.fromkeys(complete_entry_id(each, "entry_ids") for each in args.entry_ids or ())
        removal, what = Removal.ENTRIES, list(named)
    else:
        removal, what = Removal.DELETE, []
        effect |= {"removed": info.length, "groups_destroyed": info.groups, "deleted": args.stream}
    result = await admin.remove(
        info,
        removal,
        what,
        execute=not args.dry_run,
        force=args.force,
        delete_dead_letters=args.delete_dead_letters,
    )
    if not args.dry_run and not args.force:
        if result.needed_by:
            raise _refused(args, result)
        if result.waiting:
            raise _something_waits(args, result)
    if result.waiting:
        effect["quarantined"] = result.waiting
    if not args.dry_run or removal is Removal.ENTRIES:
        effect["removed"] = result.removed
    return StreamManaged(
        args.dry_run,
        effect,
        needed_by=[msgspec.structs.asdict(need) for need in result.needs] or None,
        note=_note(args, result),
    )


def _check(args: StreamManageArguments) -> None:
    check_arguments(args, _ARGUMENTS_BY_ACTION)
    bounds = [args.max_length, args.min_id, args.max_age_seconds]
    given = sum(bound is not None for bound in bounds)
    if args.action == "trim" and given != 1:
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"trim takes one bound, and {given} were given.",
            cause="Each of max_length, min_id and max_age_seconds says what stays.",
            next_step="Give one of them.",
        )
    if args.action == "delete_entries" and args.entry_ids is None:
        raise missing_argument("entry_ids", "It says which entries to delete.")


async def _boundary(call: Call[Bus], args: StreamManageArguments, info: StreamInfo) -> str:
    if args.max_length is not None:
        return await call.bus.streams.boundary(info, args.max_length)
    if args.min_id is not None:
        return complete_entry_id(args.min_id, "min_id")
    return f"{max(0, info.now - int((args.max_age_seconds or 0) * 1000))}-0"


def _refused(args: StreamManageArguments, result: RemovalResult) -> BusError:
    first = result.needs[0]
    verb = "has not finished" if first.why == "pending" else "has not received"
    return BusError(
        Code.INVALID_ARGUMENT,
        f"Nothing was removed: {result.needed_by} group(s) of {args.stream!r} still need some of it.",
        cause=f"Group {first.group[:80]!r} {verb} entry {first.entry_id}.",
        next_step="See pending_list and stream_health; force: true removes it anyway.",
    )


def _something_waits(args: StreamManageArguments, result: RemovalResult) -> BusError:
    return BusError(
        Code.INVALID_ARGUMENT,
        f"Nothing was removed: {result.waiting} entries wait in the quarantine of {args.stream!r}.",
        cause="The quarantine is removed with its stream.",
        next_step="See quarantine_release; force: true removes them, too.",
    )


def _note(args: StreamManageArguments, result: RemovalResult) -> str | None:
    if args.dry_run and result.needed_by:
        outcome = "would be removed anyway" if args.force else "would be refused without force"
        return f"{result.needed_by} group(s) still need some of it; it {outcome}."
    if args.dry_run and result.waiting:
        outcome = "are removed with it" if args.force else "keep it from being removed without force"
        return f"{result.waiting} entries wait in its quarantine; they {outcome}."
    if args.action == "delete" and not args.delete_dead_letters:
        return "Dead letters of its groups stay; dead_letter_replay finds them."
    return None


TOOLS = (stream_manage,)
