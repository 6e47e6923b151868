"""What the records of the audit and of the access log mean to an administrator.

Audit records are notices, and are written whatever `daemon.log_level` says. Those of the access log are debug
records: journald limits the rate of each unit for notices and below apart from debug records, so that calls
never keep an audit record out of the journal.
"""

from __future__ import annotations

from typing import Final

from redstreamd.audit import audit_events as audit
from redstreamd.errors.remedies import sentences, setting, shortened
from redstreamd.event_log.declaration import declared
from redstreamd.mcpio.peers import UNKNOWN
from redstreamd.service.log_record import Severity

#: How much a sentence says of names; the fields have them all.
_NAMES_SHOWN: Final = 3
_NAME_SHOWN: Final = 100
_NONE: Final = "None."
_EXPLAIN: Final = "`redstreamd policy explain PRINCIPAL TOOL STREAM` says what decides."


@declared(
    audit.CallAudited,
    "98387ff879cef04721a2ad82f35b3def",
    Severity.NOTICE,
    cause="A client changed or removed what others rely on, or tried to: it managed a stream or a group, "
    "or gave an argument that trims, deletes or forces. The outcome is ok, or the code of the error that "
    "it got. Calls of everyday work that are equal are one record, and then one that says how many there "
    "were.",
    remedy="If nobody should have done that, `journalctl REDSTREAMD_PRINCIPAL=NAME` shows what else the "
    f"principal did, and {setting('policy.rules')} says what it may do.",
)
def call_audited(event: audit.CallAudited) -> str:
    action = f" ({event.action})" if event.action else ""
    return (
        f"{_repeated(event.repeats)}{_who(event)} called "
        f"{event.tool}{action}{_on(event.streams, event.group)}: {event.outcome} after "
        f"{event.seconds:.3f} s"
    )


@declared(
    audit.CallRefused,
    "81c0aa2885b7694a2f24fee13d1c1845",
    Severity.NOTICE,
    cause="A client called a tool that its principal may not use, or on a stream on which it may not do "
    "that. Nothing was done. Where the policy grants it, the user of Redis may lack the permission. "
    "Refusals of one principal and tool are one record, and then one that says how many there were.",
    remedy=f"Find out whether the client is set up wrongly, or tries what it should not. {_EXPLAIN}",
)
def call_refused(event: audit.CallRefused) -> str:
    return (
        f"{_repeated(event.repeats)}refused {_who(event)} a call of {event.tool}{_on(event.streams)}: "
        f"{event.error_code}"
    )


@declared(
    audit.RequestRefused,
    "c7f502ab0ebc3c92b16d62eba4ac60a9",
    Severity.NOTICE,
    cause="A client asked for a resource, a prompt, a subscription or a completion about a stream on "
    "which its principal may not do that. Nothing was told to it. Refusals of one principal and method "
    "are one record, and then one that says how many there were.",
    remedy=f"Find out whether the client is set up wrongly, or tries what it should not. {_EXPLAIN}",
)
def request_refused(event: audit.RequestRefused) -> str:
    return (
        f"{_repeated(event.repeats)}refused {_who(event)} {event.method}{_on(event.streams)}: "
        f"{event.error_code}"
    )


@declared(
    audit.CallServed,
    "eb2589ca9aeee25dfb0afb2e390ef970",
    Severity.DEBUG,
    cause=f"A call ended. Each is a record while {setting('daemon.access_log')} is true and there are few; "
    "where there are many, several are one record (calls_served).",
    remedy=_NONE,
)
def call_served(event: audit.CallServed) -> str:
    return (
        f"{event.principal.name} called {event.tool}{_on(event.streams, event.group)}: "
        f"{event.outcome} after {event.seconds:.3f} s"
    )


@declared(
    audit.CallsServed,
    "b251cff18c37410d8350e49c04c8a520",
    Severity.DEBUG,
    cause="Several calls ended that have principal, connection, tool, streams, group and outcome in common. "
    "So calls are recorded while there are more than the access log records one by one. COUNT says how many "
    "there were, SECONDS and BYTES are those of all together, LONGEST_SECONDS is that of the longest, and "
    "the first ended PERIOD_SECONDS before the record. Calls on many different streams are one record that "
    "names up to 100 of them; UNNAMED_COUNT says how many calls used others. It has no CONNECTION if "
    "the calls came through several, which happens only if thousands of such records are due at once.",
    remedy=_NONE,
)
def calls_served(event: audit.CallsServed) -> str:
    groups = f" groups {_names(event.groups)}" if event.groups else ""
    unnamed = f", {event.unnamed_count} of them on others" if event.unnamed_count else ""
    return (
        f"{event.principal.name} called {event.tool} {event.count} times{_on(event.streams)}{groups}"
        f"{unnamed}: {event.outcome} after at most {event.longest_seconds:.3f} s each"
    )


@declared(
    audit.AccessRecordsDropped,
    "234d4e57b1d83ffdb5f62ff56e391aea",
    Severity.WARNING,
    cause="The daemon ended while journald did not read, so calls that the access log had still to record "
    "are in no record. The calls were served; audit records are not concerned.",
    remedy="`systemctl status systemd-journald` and `journalctl -u systemd-journald` say how journald is.",
)
def access_records_dropped(event: audit.AccessRecordsDropped) -> str:
    return (
        f"{event.count} calls were not recorded in the access log, because nobody read the log when the "
        "daemon ended"
    )


@declared(
    audit.AuditChained,
    "9bba5a1de12fac577f14893122aeac45",
    Severity.NOTICE,
    cause=f"The daemon started and chains its audit records, because {setting('daemon.audit_chain')} is "
    "true.",
    remedy="None. `journalctl -o export | redstreamd audit verify` says whether the chain is intact.",
)
def audit_chained(event: audit.AuditChained) -> str:
    where = f"after record {event.after}" if event.after else "from its beginning"
    return f"audit records continue chain {event.chain} {where}"


@declared(
    audit.AuditChainNotKept,
    "3f323244a1b14b1f7088d808b7bec993",
    Severity.ERROR,
    cause="The end of the chain of audit records could not be stored in the state directory. Records are "
    "chained all the same; if the daemon is killed now, the next one counts some numbers twice.",
    remedy=f"Find out what is wrong with {setting('daemon.state_directory')}, such as a full disk.",
)
def audit_chain_not_kept(event: audit.AuditChainNotKept) -> str:
    return "cannot store the end of the chain of audit records: " + sentences(
        event.cause, f"See to {setting('daemon.state_directory')}"
    )


def _who(event: audit.AuditEvent) -> str:
    peer = event.peer
    if peer is None or peer == UNKNOWN:
        return event.principal.name
    # Not the name of the process: it may have ended, and a look into /proc takes time.
    return f"{event.principal.name} ({peer.address or f'process {peer.pid}, uid {peer.uid}'})"


def _on(streams: tuple[str, ...], group: str | None = None) -> str:
    where = f" on {_names(streams)}" if streams else ""
    return f"{where} group {shortened(group, _NAME_SHOWN)!r}" if group else where


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(repr(shortened(name, _NAME_SHOWN)) for name in names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _repeated(times: int | None) -> str:
    return f"{times} more, the last one: " if times else ""
