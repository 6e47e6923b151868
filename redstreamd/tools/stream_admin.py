"""stream_manage: removing entries or whole streams, with regard for those who still need them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import attrs
from msgspec import Meta

from redstreamd.errors import BusError, Code
from redstreamd.policy import Permission
from redstreamd.streams import entry_ids
from redstreamd.streams.admin.stream_admin import Cut, Removal
from redstreamd.streams.bus import Bus
from redstreamd.streams.diagnosis.lag import Shape
from redstreamd.streams.names import check_stream
from redstreamd.tools import shared_arguments
from redstreamd.tools.action_arguments import check_arguments
from redstreamd.tools.annotations import no, writing, yes
from redstreamd.tools.definition import Call, Profile, named_by, tool

_OWN = {
    "trim": ("max_length", "min_id", "max_age_seconds"),
    "delete_entries": ("entry_ids",),
    "delete": ("delete_dead_letters",),
}


@attrs.frozen
class StreamManageArguments:
    """Arguments of stream_manage."""

    stream: shared_arguments.Stream
    action: Literal["trim", "delete_entries", "delete"]
    max_length: Annotated[int, Meta(ge=0, description="trim to the newest entries, this many.")] | None = None
    min_id: Annotated[str, Meta(max_length=64, description="trim entries below this entry ID.")] | None = None
    max_age_seconds: Annotated[float, Meta(ge=0, le=10**10, description="trim older entries.")] | None = None
    entry_ids: (
        Annotated[
            tuple[Annotated[str, Meta(max_length=64)], ...],
            Meta(min_length=1, max_length=100, description="delete_entries: which."),
        ]
        | None
    ) = None
    delete_dead_letters: Annotated[
        bool, Meta(description="delete: the dead letters of its groups go, too.")
    ] = False
    force: Annotated[bool, Meta(description="Even what groups have pending or did not get yet.")] = False
    dry_run: shared_arguments.DryRun = True


@attrs.frozen
class StreamManaged:
    """Answer of stream_manage."""

    dry_run: bool
    effect: Annotated[dict[str, Any], Meta(description="What happened, or in a dry run would happen.")]
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
    streams=named_by("stream"),
    hints=writing(
        "It removes entries or the stream, unless dry_run is true.",
        destructive=yes("It is there to remove entries; with force also what groups have not finished."),
        idempotent=no("A second call removes what was added or grew old since the first."),
    ),
)
async def stream_manage(call: Call[Bus], args: StreamManageArguments) -> StreamManaged:
    """Trim a stream, delete some of its entries, or delete it.

    Tells what would go and who needs it, and does it only if dry_run is false. What a group has pending
    or did not get yet is removed only with force.
    """
    check_stream(args.stream, max_bytes=call.bus.settings.streams.max_name_bytes)
    _check(args)
    admin = call.bus.streams
    shape = await admin.shape(args.stream)
    effect: dict[str, Any] = {"length_before": shape.length}
    if args.action == "trim":
        boundary = await _boundary(call, args, shape)
        removal, what = Removal.TRIM, [boundary]
        effect["first_kept"] = boundary
        if args.dry_run and args.max_length is not None:
            effect["removed"] = max(0, shape.length - args.max_length)
        elif args.dry_run:
            effect |= (await admin.count_below(args.stream, boundary)).json("removed")
    elif args.action == "delete_entries":
        # Each once: one that is named twice can be deleted once.
        named = {_complete(text, "entry_ids"): None for text in args.entry_ids or ()}
        removal, what = Removal.ENTRIES, list(named)
    else:
        removal, what = Removal.DELETE, []
        effect |= {"removed": shape.length, "groups_destroyed": shape.groups, "deleted": args.stream}
    cut = await admin.remove(
        shape,
        removal,
        what,
        really=not args.dry_run,
        force=args.force,
        delete_dead_letters=args.delete_dead_letters,
    )
    if not args.dry_run and cut.needed_by and not args.force:
        raise _refused(args, cut)
    if not args.dry_run or removal is Removal.ENTRIES:
        effect["removed"] = cut.removed
    return StreamManaged(
        args.dry_run,
        effect,
        needed_by=[attrs.asdict(need) for need in cut.needs] or None,
        note=_note(args, cut),
    )


def _check(args: StreamManageArguments) -> None:
    check_arguments(args, _OWN)
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
        raise BusError(
            Code.INVALID_ARGUMENT,
            "entry_ids is missing.",
            cause="delete_entries deletes the entries it names.",
            next_step="Give entry_ids, or trim.",
        )


async def _boundary(call: Call[Bus], args: StreamManageArguments, shape: Shape) -> str:
    if args.max_length is not None:
        return await call.bus.streams.boundary(shape, args.max_length)
    if args.min_id is not None:
        return _complete(args.min_id, "min_id")
    return f"{max(0, shape.now - int((args.max_age_seconds or 0) * 1000))}-0"


def _complete(text: str, argument: str) -> str:
    parts = entry_ids.parse(text)
    if parts is None:
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"{argument}={text[:40]!r} is no entry ID.",
            cause="An entry ID is milliseconds, a dash and a sequence number.",
            next_step="Pass the id of an entry.",
        )
    return f"{parts[0]}-{parts[1]}"


def _refused(args: StreamManageArguments, cut: Cut) -> BusError:
    first = cut.needs[0]
    verb = "has not finished" if first.why == "pending" else "did not get"
    return BusError(
        Code.INVALID_ARGUMENT,
        f"Nothing was removed: {cut.needed_by} group(s) of {args.stream!r} still need some of it.",
        cause=f"Group {first.group[:80]!r} {verb} entry {first.entry_id}.",
        next_step="See pending_list and stream_health; force: true removes it all the same.",
    )


def _note(args: StreamManageArguments, cut: Cut) -> str | None:
    if args.dry_run and cut.needed_by:
        doing = "would be removed all the same" if args.force else "would be refused without force"
        return f"{cut.needed_by} group(s) still need some of it; it {doing}."
    if args.action == "delete" and not args.delete_dead_letters:
        return "Dead letters of its groups stay; dead_letter_replay finds them."
    return None


TOOLS = (stream_manage,)
