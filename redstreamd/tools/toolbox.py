"""The tools of the active profiles, and the first steps of a call: find, then begin.

Owns what is checked of every call before its tool runs: the form of the arguments, the names in them, and the
permissions on the streams that they name. Knows neither the SDK nor sockets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, NoReturn, TypeVar

import msgspec

from redstreamd import strict_json
from redstreamd.admission.accounts import Account
from redstreamd.errors import BusError, Code
from redstreamd.policy import Need, Permission, Policy, Principal
from redstreamd.streams.bus import Bus
from redstreamd.streams.lease_tokens import Lease
from redstreamd.streams.name_rules import NameRules
from redstreamd.streams.ownership import check_owner
from redstreamd.tools.compiled_tools import CompiledTools, Prepared
from redstreamd.tools.definition import Profile, Progress, Registry, Tool, UnknownToolError
from redstreamd.tools.instructions import instructions
from redstreamd.tools.invocation import (
    Admit,
    CallEnded,
    CheckRate,
    Invocation,
    OnEnded,
    Rules,
    Untold,
    as_bus_error,
)
from redstreamd.tools.offers import Offers
from redstreamd.tools.results import Result, failure

BusT = TypeVar("BusT")

#: Permitted needs that are remembered; with names of 512 bytes about 3 MiB.
_MAX_REMEMBERED: Final = 4_096

_Key = tuple[Principal, str, object]


class Toolbox(Generic[BusT]):
    """The tools of the active profiles, ready to be called.

    Attributes:
        timeout_seconds: The time limit of a call.
        prepared: The tools that were compiled, by name.
        rules: What every call is subject to.
        policy: Says which tools a principal may use, and on which streams.
        hidden: The tools that are not offered to a principal, by principal; None if all are to everybody.
        permitted: What was found right, by principal, tool and what `Prepared.named` returns (or each need);
            the oldest is forgotten first.
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
        on_ended: OnEnded | None = None,
        untold: Untold | None = None,
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
            untold: See `Rules`; None: each call is told to `on_ended`.
            timeout_seconds: See `Rules`.
            default_wait_seconds: See `Rules`.
            check_rate: See `Rules`.
            max_nesting: How deep a message may be, including values given as JSON text.
            max_values: How many JSON values such texts may hold, as `json_cost.measure_structure` counts.
        """
        self._registry = registry
        self._names = names or NameRules()
        self._read_lease = read_lease
        self.policy = policy or Policy()
        self.rules = Rules(
            bus,
            self.policy,
            admit,
            on_ended,
            timeout_seconds,
            default_wait_seconds,
            check_rate,
            untold=untold or Untold(),
        )
        self._compiled = CompiledTools(registry, self._names, takes_leases=read_lease is not None)
        self.prepared = self._compiled.prepared
        self.permitted: dict[_Key, Sequence[Need]] = {}
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
        self._offers = Offers(self._registry, profiles, self.policy)
        self._offered = self._offers.tools
        self.hidden = self._offers.hidden
        self.rules = msgspec.structs.replace(
            self.rules,
            timeout_seconds=timeout_seconds,
            default_wait_seconds=default_wait_seconds,
            check_rate=check_rate,
            hidden=self.hidden,
        )
        self._compiled.reconfigure(self._offered, max_nesting=max_nesting, max_values=max_values)
        self.forget_verdicts()

    @property
    def listing(self) -> Mapping[str, dict[str, Any]]:
        """Every offered tool by name, as ``tools/list`` gives it; each is made when it is first asked for."""
        return self._compiled.listed

    def offered_to(self, principal: Principal) -> Registry:
        """Return the tools that a principal may use; the same value for those who may use the same."""
        return self._offers.to(principal)

    @property
    def permissions(self) -> frozenset[Permission]:
        """What the offered tools need."""
        return self._offers.permissions

    def missing_scope(self, principal: Principal, name: str) -> Permission | None:
        """Return the scope for a tool that the token of a principal lacks, if that is all that it lacks."""
        return self._offers.missing_scope(principal, name)

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
        self._compiled.compile(self._offered)

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
            return self._offers.to(principal).get(name)
        except UnknownToolError as unknown:
            if name in self._offered and (on_ended := self.rules.on_ended) is not None:
                on_ended(CallEnded(principal, name, (), 0.0, str(Code.PERMISSION_DENIED), 0, account=account))
            raise UnknownToolError(name, unknown.nearest, self._offers.explain(unknown, principal)) from None

    def prepare(self, name: str) -> Prepared | None:
        """Return the tool of this name, compiled; None if it is not offered."""
        return self.prepared[name] if name in self._offered else None

    def headers_of(self, name: str) -> Mapping[str, str]:
        """Return which arguments of a tool have headers of HTTP; see `argument_headers`."""
        prepared = self.prepared.get(name) or self.prepare(name)
        return {} if prepared is None else prepared.headers

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
        rules = self.rules
        call = Invocation(rules, tool, None, principal, (), None, time.perf_counter(), rules.bus, account)
        try:
            call.arguments = self._compiled.structure[tool.name](arguments)
        except Exception as error:  # noqa: BLE001 - the boundary: a defect must not end the connection
            self._refuse(call, as_bus_error(tool, error))
        self.check(self.prepared[tool.name], call)
        return call

    def check(self, prepared: Prepared, call: Invocation[BusT]) -> None:
        """Check the names and the permissions that a call needs, and note them; then it may be admitted.

        A call that is refused here has ended, and was reported.

        Args:
            prepared: The tool.
            call: Has the arguments, as `Prepared.decode` or a `Structurer` returned them.

        Raises:
            BusError: As `begin`.
        """
        tool, arguments, principal = call.tool, call.arguments, call.principal
        try:
            if prepared.named is not None and (named := prepared.named(arguments)) is not None:
                key = (principal, tool.name, named)
                known = self.permitted.get(key)
                if known is None:
                    # Known before they are permitted, for the report of a refusal.
                    call.needs = tool.needs(arguments, None)
                    self._permit(key, principal, call.needs, None)
                else:
                    call.needs = known
            else:
                if prepared.lease is not None and self._read_lease is not None:
                    call.lease = self._read_lease(getattr(arguments, prepared.lease), principal)
                call.needs = tool.needs(arguments, call.lease)
                for need in call.needs:
                    key = (principal, tool.name, need)
                    if key not in self.permitted:
                        self._permit(key, principal, (need,), call.lease)
            for argument, check in prepared.checks:
                name = getattr(arguments, argument)
                if name is not None:
                    check(name)
            # Last: what is not permitted costs nothing, and what is refused takes no place of a call.
            if self.rules.check_rate is not None:
                self.rules.check_rate(tool.name, principal, call.began)
        except Exception as error:  # noqa: BLE001 - the boundary: a defect must not end the connection
            self._refuse(call, as_bus_error(tool, error))

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
        return await invocation.carry_out(progress)

    def forget_verdicts(self) -> None:
        """Ask ``authorise`` anew for every principal and stream, because its answers may have changed."""
        self.permitted.clear()

    def _permit(self, key: _Key, principal: Principal, needs: Sequence[Need], lease: Lease | None) -> None:
        """Check the names of streams and the permissions for them, and remember that all are right."""
        may_be_remembered = True
        for need in needs:
            held = lease is not None and lease.stream == need.stream
            if not held:
                self._names.check_stream(need.stream, creates=need.creates)
            elif need.stream not in self._names.creatable:
                # It was checked by the rules of when the lease was taken.
                may_be_remembered = False
            self.policy.authorise(principal, need.stream, need.permission)
            check_owner(principal, need.stream)
        if may_be_remembered:
            if len(self.permitted) >= _MAX_REMEMBERED:
                del self.permitted[next(iter(self.permitted))]
            self.permitted[key] = needs

    def _refuse(self, call: Invocation[BusT], error: BusError) -> NoReturn:
        """Report the end of a call that was refused, and raise the error as the caller gets it."""
        if self.hidden is not None:
            error = error.without(self.hidden[call.principal])
        # It did nothing to a group, and nothing that is audited as done.
        call.group_and_action = None, None
        call.end(str(error.code), 0 if self.rules.on_ended is None else failure(error).size)
        try:
            raise error
        finally:
            # Its traceback has this frame, so they would be a cycle.
            del error


def toolbox_over(
    bus: Bus,
    registry: Registry,
    profiles: Iterable[Profile],
    *,
    policy: Policy | None = None,
    admit: Admit | None = None,
    check_rate: CheckRate | None = None,
    on_ended: OnEnded | None = None,
    untold: Untold | None = None,
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
        untold=untold,
        timeout_seconds=bus.settings.tools.call_timeout_seconds,
        default_wait_seconds=bus.settings.tools.default_wait_seconds,
        check_rate=check_rate,
        max_nesting=bus.settings.limits.max_nesting,
        max_values=bus.settings.limits.max_message_values,
    )
