"""The tools of the active profiles, compiled, and the first steps of a call: find, then begin.

A tool is compiled when it is first called, or by `Toolbox.compile`, which a daemon runs on a thread: all of
them take a tenth of a start, and the first plain call needs a hundredth of it.

Owns what is checked of every call before its tool runs: the form of the arguments, the names in them, and the
permissions on the streams that they name. Knows neither the SDK nor sockets.
"""

from __future__ import annotations

import functools
import json
import time
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, Generic, NoReturn, TypeVar

import attrs

from redstreamd import strict_json
from redstreamd.admission.accounts import Account
from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.policy import Need, Permission, Policy, Principal
from redstreamd.streams.bus import Bus
from redstreamd.streams.lease_tokens import Lease
from redstreamd.streams.name_rules import NameRules
from redstreamd.streams.ownership import check_owner
from redstreamd.tools.argument_text import ArgumentDecoder
from redstreamd.tools.argument_types import NameOf, names_in
from redstreamd.tools.arguments import Structurer
from redstreamd.tools.definition import Profile, Progress, Registry, StreamNeeds, Tool, UnknownToolError
from redstreamd.tools.instructions import instructions
from redstreamd.tools.invocation import (
    Admit,
    CallEnded,
    CheckRate,
    Invocation,
    OnEnded,
    Rules,
    as_bus_error,
    streams_of,
)
from redstreamd.tools.results import Result, failure
from redstreamd.tools.tool_listing import listed

BusT = TypeVar("BusT")
ValueT = TypeVar("ValueT")

#: Characters of an unknown name that an error repeats.
_NAME_SHOWN: Final = 80
#: Permitted needs that are remembered; with names of 512 bytes about 3 MiB.
_MAX_REMEMBERED: Final = 4_096
#: Principals of which it is remembered what they may not use.
_MAX_PRINCIPALS: Final = 1_024
#: Argument classes of which it is remembered what was compiled; there are some forty.
_MAX_COMPILED: Final = 256


_Key = tuple[Principal, str, object]


@attrs.frozen
class Prepared:
    """A tool as it is compiled.

    Attributes:
        tool: The tool.
        decode: Builds its arguments from plain text.
        named: Returns the streams in the arguments, if these alone decide what the tool needs, and they are
            few; else None, as if it is not given.
        lease: The argument that holds a lease, if there is one.
        checks: The arguments that name groups and consumers, with the function that checks each.
    """

    tool: Tool[Any]
    decode: ArgumentDecoder
    named: Callable[[object], object] | None
    lease: str | None
    checks: tuple[tuple[str, Callable[[str], None]], ...]


# What follows from a class alone costs more than many calls, so all toolboxes of a process share it. (Classes
# are hashable, which mypy does not know of those that attrs makes.)


@functools.lru_cache(_MAX_COMPILED)
def _structurer_of(arguments: type[Any], max_nesting: int, max_values: int) -> Structurer[Any]:
    return Structurer(arguments, max_nesting=max_nesting, max_values=max_values)


@functools.lru_cache(_MAX_COMPILED)
def _decoder_of(arguments: type[Any]) -> ArgumentDecoder:
    return ArgumentDecoder(arguments)


class _Made(dict[str, ValueT]):
    """Values by the name of a tool, each made when it is first asked for. Two threads may make the same."""

    def __init__(self, make: Callable[[str], ValueT]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> ValueT:
        value = self[name] = self._make(name)
        return value


class _Hidden(dict[Principal, frozenset[str]]):
    """The names of the tools that a principal may not use, each found when it is first asked for."""

    def __init__(self, offered: Registry, policy: Policy) -> None:
        super().__init__()
        self._offered = offered
        self._policy = policy

    def __missing__(self, principal: Principal) -> frozenset[str]:
        permissions = self._policy.somewhere(principal)
        hidden = frozenset(each.name for each in self._offered if each.permission not in permissions)
        if len(self) >= _MAX_PRINCIPALS:
            del self[next(iter(self))]
        self[principal] = hidden
        return hidden


class Toolbox(Generic[BusT]):
    """The tools of the active profiles, ready to be called.

    Attributes:
        timeout_seconds: The time limit of a call.
        prepared: The tools that were compiled, by name.
        rules: What every call is subject to.
        policy: Says which tools a principal may use, and on which streams.
        hidden: The tools that are not offered to a principal, by principal; None if all are to everybody.
    """

    def __init__(
        self,
        registry: Registry,
        profiles: Iterable[Profile],
        bus: BusT,
        *,
        names: NameRules | None = None,
        read_lease: Callable[[str, Principal], Lease] | None = None,
        policy: Policy | None = None,
        admit: Admit | None = None,
        on_ended: Sequence[OnEnded] = (),
        timeout_seconds: float = 60.0,
        default_wait_seconds: float = 20.0,
        check_rate: CheckRate | None = None,
        max_nesting: int = strict_json.MAX_NESTING,
        max_values: int = strict_json.MAX_VALUES,
    ) -> None:
        """Offer the tools of the profiles.

        Args:
            registry: All tools.
            profiles: The active profiles.
            bus: What handlers get as ``call.bus``.
            names: Checks names; None for the default settings.
            read_lease: ``(token, principal)``; needed if a tool takes a lease.
            policy: See `Rules`; None: everything is granted.
            admit: See `Rules`.
            on_ended: See `Rules`.
            timeout_seconds: See `Rules`.
            default_wait_seconds: See `Rules`.
            check_rate: See `Rules`.
            max_nesting: How deep a message may be, including values given as JSON text.
            max_values: How many JSON values such texts may hold, as `strict_json.measure_structure` counts.
        """
        self._registry = registry
        self._names = names or NameRules()
        self._read_lease = read_lease
        self.policy = policy or Policy()
        self.rules = Rules(
            bus, self.policy, admit, on_ended, timeout_seconds, default_wait_seconds, check_rate
        )
        self.prepared = _Made(self._prepare)
        self._structure = _Made(self._structurer)
        self._listed = _Made(self._list)
        # What was found right, by principal, tool and names; the oldest is forgotten first.
        self._permitted: dict[_Key, Sequence[Need]] = {}
        self.reconfigure(
            profiles,
            timeout_seconds=timeout_seconds,
            default_wait_seconds=default_wait_seconds,
            check_rate=check_rate,
            max_nesting=max_nesting,
            max_values=max_values,
        )

    def reconfigure(
        self,
        profiles: Iterable[Profile],
        *,
        timeout_seconds: float,
        default_wait_seconds: float,
        check_rate: CheckRate | None,
        max_nesting: int,
        max_values: int,
    ) -> None:
        """Offer the tools of other profiles, and subject calls to other rules, from the next call on.

        Also to be called when the policy or the rules of names have changed: what was found right is
        forgotten. Calls under way are not affected. For the arguments see above; `compile` then makes what is
        new.
        """
        self.timeout_seconds = timeout_seconds
        self._profiles = tuple(sorted(profiles))
        self._offered = self._registry.for_profiles(self._profiles)
        self.hidden = _Hidden(self._offered, self.policy) if self.policy.restricts else None
        self.rules = attrs.evolve(
            self.rules,
            timeout_seconds=timeout_seconds,
            default_wait_seconds=default_wait_seconds,
            check_rate=check_rate,
            hidden=self.hidden,
        )
        self._offered_to: dict[frozenset[Permission], Registry] = {}
        self._max_nesting = max_nesting
        self._max_values = max_values
        for made in (self.prepared, self._listed):
            for name in [each for each in made if each not in self._offered]:
                del made[name]
        # Depends on the nesting.
        self._structure.clear()
        self.forget_verdicts()

    @property
    def listing(self) -> Mapping[str, dict[str, Any]]:
        """Every offered tool by name, as ``tools/list`` gives it; each is made when it is first asked for."""
        return self._listed

    def offered_to(self, principal: Principal) -> Registry:
        """Return the tools that a principal may use; the same value for those who may use the same."""
        if not self.policy.restricts:
            return self._offered
        permissions = self.policy.somewhere(principal)
        offered = self._offered_to.get(permissions)
        if offered is None:
            offered = Registry(each for each in self._offered if each.permission in permissions)
            self._offered_to[permissions] = offered
        return offered

    def instructions(self, principal: Principal) -> str:
        """Return how a principal may use together what it may use."""
        return instructions(self.offered_to(principal))

    def compile(self) -> None:
        """Make what calls and the listing need of every tool, as far as it is not there. On any thread.

        Raises:
            TypeError: A tool's argument or result class has no schema.
            ValueError: A tool takes a lease, and nothing is given that reads it; or it does not say which of
                its calls are audited.
        """
        for tool in self._offered:
            self.prepared[tool.name], self._structure[tool.name], self._listed[tool.name]

    def find(self, name: str, principal: Principal, account: Account | None = None) -> Tool[Any]:
        """Return the tool of this name.

        A call of a tool that the policy hides from the principal has ended, and was reported.

        Args:
            name: What the client calls.
            principal: On whose behalf.
            account: That of the connection it came through.

        Raises:
            UnknownToolError: It does not exist for this principal (the text names similar tools), or not in
                the active profiles (the text names the profile that has it).
        """
        try:
            return self.offered_to(principal).get(name)
        except UnknownToolError as unknown:
            if name in self._offered:
                hidden = CallEnded(principal, name, (), 0.0, str(Code.PERMISSION_DENIED), 0, account=account)
                for tell in self.rules.on_ended:
                    tell(hidden)
            raise UnknownToolError(name, unknown.nearest, self._explain(unknown, principal)) from None

    def prepare(self, name: str) -> Prepared | None:
        """Return the tool of this name, compiled; None if it is not offered."""
        return self.prepared[name] if name in self._offered else None

    def begin(
        self, tool: Tool[Any], arguments: object, principal: Principal, account: Account | None = None
    ) -> Invocation[BusT]:
        """Structure the arguments, and check the names in them and the permissions that the call needs.

        A call that is refused here has ended, and was reported.

        Args:
            tool: One that `find` returned.
            arguments: The decoded ``arguments`` member; None if absent. Not modified.
            principal: On whose behalf the call is made.
            account: That of the connection it came through, for reports; None if it came through none.

        Raises:
            BusError: INVALID_ARGUMENT, INVALID_STREAM, INVALID_GROUP, PERMISSION_DENIED, RATE_LIMITED;
                INTERNAL for a defect.
        """
        began = time.perf_counter()
        try:
            structured = self._structure[tool.name](arguments)
        except Exception as error:  # noqa: BLE001 - the boundary: a defect must not end the connection
            self._refuse(tool, principal, (), began, as_bus_error(tool, error), account)
        return self.check(self.prepared[tool.name], structured, principal, began, account)

    def check(
        self,
        prepared: Prepared,
        structured: Any,
        principal: Principal,
        began: float,
        account: Account | None = None,
    ) -> Invocation[BusT]:
        """Check the names and the permissions, and return the call that may be admitted.

        A call that is refused here has ended, and was reported.

        Args:
            prepared: The tool.
            structured: The arguments, as `Prepared.decode` or a `Structurer` returned them.
            principal: On whose behalf the call is made.
            began: When the call began, by `time.perf_counter`.
            account: See `begin`.

        Raises:
            BusError: As `begin`.
        """
        tool = prepared.tool
        needs: Sequence[Need] = ()
        lease: Lease | None = None
        try:
            if prepared.named is not None and (named := prepared.named(structured)) is not None:
                key = (principal, tool.name, named)
                known = self._permitted.get(key)
                if known is None:
                    # Known before they are permitted, for the report of a refusal.
                    needs = tool.needs(structured, None)
                    self._permit(key, principal, needs, None)
                else:
                    needs = known
            else:
                if prepared.lease is not None and self._read_lease is not None:
                    lease = self._read_lease(getattr(structured, prepared.lease), principal)
                needs = tool.needs(structured, lease)
                for need in needs:
                    key = (principal, tool.name, need)
                    if key not in self._permitted:
                        self._permit(key, principal, (need,), lease)
            for argument, check in prepared.checks:
                name = getattr(structured, argument)
                if name is not None:
                    check(name)
            # Last: what is not permitted costs nothing, and what is refused takes no place of a call.
            if self.rules.check_rate is not None:
                self.rules.check_rate(tool.name, principal, began)
        except Exception as error:  # noqa: BLE001 - the boundary: a defect must not end the connection
            self._refuse(tool, principal, needs, began, as_bus_error(tool, error), account)
        rules = self.rules
        return Invocation(rules, tool, structured, principal, needs, lease, began, rules.bus, account)

    async def call(
        self,
        tool: Tool[Any],
        arguments: object,
        principal: Principal,
        progress: Progress,
        account: Account | None = None,
    ) -> Result:
        """Take all steps of a call and return the result, also if the call failed.

        Args:
            tool: See `begin`.
            arguments: See `begin`.
            principal: See `begin`.
            progress: Sends progress notifications.
            account: See `begin`.

        If cancelled, the handler is cancelled, and whether it had an effect is not known.
        """
        try:
            invocation = self.begin(tool, arguments, principal, account)
        except BusError as error:
            return failure(error)
        return await invocation.answer(progress)

    def forget_verdicts(self) -> None:
        """Ask ``authorise`` anew for every principal and stream, because its answers may have changed."""
        self._permitted.clear()

    def _structurer(self, name: str) -> Structurer[Any]:
        arguments = self._registry.get(name).arguments
        return _structurer_of(arguments, self._max_nesting, self._max_values)  # type: ignore[arg-type]

    def _list(self, name: str) -> dict[str, Any]:
        return listed(self._registry.get(name))

    def _prepare(self, name: str) -> Prepared:
        tool = self._registry.get(name)
        named = names_in(tool.arguments)
        # Compiled here, not at the end of its first call.
        tool.effects  # noqa: B018
        lease = next((argument for argument, what in named.items() if what is NameOf.LEASE), None)
        if lease is not None and self._read_lease is None:
            raise ValueError(f"tool {tool.name} takes a lease, and nothing is given that reads it")
        checks = {NameOf.GROUP: self._names.check_group, NameOf.CONSUMER: self._names.check_consumer}
        return Prepared(
            tool,
            _decoder_of(tool.arguments),  # type: ignore[arg-type]
            None if lease is not None else _names_streams(tool),
            lease,
            # What a lease names was checked when it was taken, and settling does not depend on today's rules.
            ()
            if lease is not None
            else tuple((argument, checks[what]) for argument, what in named.items() if what in checks),
        )

    def _permit(self, key: _Key, principal: Principal, needs: Sequence[Need], lease: Lease | None) -> None:
        """Check the names of streams and the permissions for them, and remember that all are right."""
        may_be_remembered = True
        for need in needs:
            held = lease is not None and lease.stream == need.stream
            if not held:
                self._names.check_stream(need.stream, creates=need.creates)
            elif need.stream not in self._names.plain:
                # It was checked by the rules of when the lease was taken.
                may_be_remembered = False
            self.policy.authorise(principal, need.stream, need.permission)
            check_owner(principal, need.stream)
        if may_be_remembered:
            if len(self._permitted) >= _MAX_REMEMBERED:
                del self._permitted[next(iter(self._permitted))]
            self._permitted[key] = needs

    def _refuse(
        self,
        tool: Tool[Any],
        principal: Principal,
        needs: Sequence[Need],
        began: float,
        error: BusError,
        account: Account | None,
    ) -> NoReturn:
        """Report the end of a call that was refused, and raise the error as the caller gets it."""
        if self.hidden is not None:
            error = error.without(self.hidden[principal])
        if self.rules.on_ended:
            size, seconds = failure(error).size, time.perf_counter() - began
            code = str(error.code)
            ended = CallEnded(principal, tool.name, streams_of(needs), seconds, code, size, account=account)
            for tell in self.rules.on_ended:
                tell(ended)
        try:
            raise error
        finally:
            # Its traceback has this frame, so they would be a cycle.
            del error

    def _explain(self, unknown: UnknownToolError, principal: Principal) -> str:
        shown = json.dumps(unknown.name[:_NAME_SHOWN]).strip('"')
        active = ", ".join(self._profiles)
        if (
            unknown.name in self._registry
            and unknown.name not in self._offered
            and self._registry.get(unknown.name).permission in self.policy.somewhere(principal)
        ):
            profile = self._registry.get(unknown.name).profile
            return (
                f"Unknown tool: {shown}. It belongs to the profile {profile}; active here: {active}. "
                f"The daemon's setting {setting('tools.profile')} chooses them."
            )
        if not unknown.nearest:
            return f"Unknown tool: {shown}. No tool is offered to you; tools/list is empty."
        nearest = ", ".join(unknown.nearest)
        return (
            f"Unknown tool: {shown}. Nearest: {nearest}. Active profile: {active}; tools/list has them all."
        )


def _names_streams(tool: Tool[Any]) -> Callable[[object], object] | None:
    """Return what returns the streams in a tool's arguments, see `Prepared.named`."""
    if not isinstance(tool.needs, StreamNeeds) or not tool.needs.terms:
        return None
    arguments = list(dict.fromkeys(argument for argument, _, _ in tool.needs.terms))
    hints = typing.get_type_hints(tool.arguments)
    if all(hints[each] in (str, str | None) for each in arguments):
        return attrgetter(*arguments)
    streams_in = attrgetter(*arguments)
    if len(arguments) > 1 or hints[arguments[0]] != list[str]:
        return None

    def only(given: object) -> object:
        streams = streams_in(given)
        return streams[0] if len(streams) == 1 else None

    return only


def toolbox_over(
    bus: Bus,
    registry: Registry,
    profiles: Iterable[Profile],
    *,
    policy: Policy | None = None,
    admit: Admit | None = None,
    check_rate: CheckRate | None = None,
    on_ended: Sequence[OnEnded] = (),
) -> Toolbox[Bus]:
    """Return the toolbox of a domain: names, leases, time limits and nesting follow from its settings."""
    return Toolbox(
        registry,
        profiles,
        bus,
        names=bus.names,
        read_lease=bus.work.read_lease,
        policy=policy,
        admit=admit,
        on_ended=on_ended,
        timeout_seconds=bus.settings.tools.call_timeout_seconds,
        default_wait_seconds=bus.settings.tools.default_wait_seconds,
        check_rate=check_rate,
        max_nesting=bus.settings.limits.max_nesting,
        max_values=bus.settings.limits.max_message_values,
    )
