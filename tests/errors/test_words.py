"""Every record and every error that the connection layer knows, made with all kinds of content and read."""

from __future__ import annotations

import errno
import itertools
import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from redstreamd.errors import BusError
from redstreamd.event_log.declaration import declaration_of
from redstreamd.event_log.kinds import Event
from redstreamd.protection.certificate_files import TlsFileError
from redstreamd.redisio import connect_errors, login
from redstreamd.redisio.error_replies import TABLE, bus_error, reply_error
from redstreamd.redisio.redis_errors import Problem, ServerReplied
from redstreamd.redisio.target import Target
from redstreamd.redisio.tls import Tls
from redstreamd.service.embedded import embedded_problems
from redstreamd.service.embedded.embedded_problems import EmbeddedOperator
from redstreamd.service.embedded.oom_detection import OomCounters, killed_for_memory
from redstreamd.service.embedded.server_loading import Loading
from redstreamd.tools.results import failure as tool_failure
from tests.event_log.examples import event_types, instances_of

LOG = "/var/lib/redstreamd/embedded/server.log"
TCP = Target(host="redis.example", username="ann", tls=Tls(ca_file="/ca.pem", certificate_file="/own.pem"))
PLAIN = Target()
UNIX = Target(path="/run/redis/redis.sock")
OPERATOR = EmbeddedOperator(Path(LOG), lambda: None)
EMBEDDED = Target(path="/var/lib/redstreamd/embedded/server.sock", operator=OPERATOR)

REPLIES = (
    *(f"{row.reply_code or 'ERR'} some {text} words" for row in TABLE for text in row.texts or ("other",)),
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOAUTH Authentication required.",
    "ERR AUTH <password> called without any password configured for the default user. Are you sure?",
    "ERR max number of clients reached",
    "DENIED Redis is running in protected mode because protected mode is enabled.",
    "ERR DB index is out of range",
    "ERR unknown command 'HELLO'",
    "ERR something new.",
)


def at_login(target: Target) -> Iterator[Problem]:
    for text, command, username in itertools.product(REPLIES, ("HELLO", "SELECT", "PING"), (None, "ann")):
        yield login.refused(target, command, reply_error(text), username=username)


def while_connecting(target: Target) -> Iterator[Problem]:
    for number in (errno.ENOENT, errno.EACCES, errno.ECONNREFUSED, errno.EPERM, errno.EHOSTUNREACH):
        yield connect_errors.not_connected(target, OSError(number, os.strerror(number)))
    yield connect_errors.timed_out(target)
    for asked in (False, True):
        yield login.login_timed_out(target, asked=asked)
    yield login.no_credentials("the file is not there.", "Put it there.")


def on_a_connection(target: Target) -> Iterator[Problem]:
    yield connect_errors.CLOSED_BY_SERVER
    yield connect_errors.unanswered("a command", 5.0)
    yield connect_errors.oversized(1000)
    yield connect_errors.unreadable(target, b"what", "no type")
    for error in (None, ConnectionResetError(errno.ECONNRESET, "reset")):
        yield connect_errors.broken(target, error, logged_in=False)
        yield connect_errors.broken(target, error, logged_in=True)


def with_tls(target: Target) -> Iterator[Problem]:
    yield connect_errors.tls_timed_out(target)
    yield connect_errors.unreadable(attrs.evolve(target, tls=None), b"\x15\x03\x01", "no type")
    yield from filter(None, [connect_errors.tls_problem(target, TlsFileError("/ca.pem", "it is not there"))])
    for code in (9, 10, 18, 62, 99):
        error = ssl.SSLCertVerificationError("certificate verify failed")
        error.verify_code, error.verify_message = code, "some detail."
        yield from filter(None, [connect_errors.tls_problem(target, error)])
    for reason in (part for parts, _ in connect_errors.TLS_REASONS for part in parts):
        for tls in (target.tls, Tls()):
            error = ssl.SSLError(1, reason)
            error.reason = reason
            yield from filter(None, [connect_errors.tls_problem(attrs.evolve(target, tls=tls), error)])


OF_ANY_SERVER = [
    each
    for target in (TCP, PLAIN, UNIX)
    for source in (at_login, while_connecting, on_a_connection, *([with_tls] if target.tls else []))
    for each in source(target)
]

OF_THE_EMBEDDED = [
    *(
        OPERATOR.adapted(each)
        for source in (at_login, while_connecting, on_a_connection)
        for each in source(EMBEDDED)
    ),
    embedded_problems.STARTING,
    embedded_problems.loading(Loading()),
    embedded_problems.loading(Loading(5, 0, 3)),
    embedded_problems.loading(Loading(5 << 20, 50 << 20, 3)),
    embedded_problems.ended("was ended by SIGKILL", Path(LOG)),
    *(
        embedded_problems.ended(f"was ended by SIGKILL: {killed}", Path(LOG))
        for killed in (
            killed_for_memory(OomCounters(1, 1), OomCounters(2, 2)),
            killed_for_memory(OomCounters(1, 1), OomCounters(2, 1)),
            killed_for_memory(OomCounters(1, None), OomCounters(2, None)),
        )
    ),
    embedded_problems.disk_full("/var/lib", free_bytes=1, needed_bytes=2),
]


def advised(target: Target) -> list[BusError]:
    """What a command is answered with for each error reply."""
    answers = []
    for text in REPLIES:
        answer = bus_error(reply_error(text))
        if target.operator is not None and isinstance(answer, ServerReplied):
            target.operator.advise(answer)
        answers.append(answer)
    return answers


#: Where something is changed. A sentence that asks for it names one of them.
PLACES = re.compile(
    r"in /etc/redstreamd/|in Redis\b|redis\.conf|systemctl edit|in the configuration of Redis|in the URL"
)
CHANGE = re.compile(r"(?<!is )(?<!was )\b(?:[Ss]et|[Rr]aise|[Ll]ower)\b")


def complaints(text: str) -> list[str]:
    """Return what is wrong with the words of a text."""
    found = []
    if re.search(r"(?<!\.)\.\.(?!\.)|\. \.|[?!…]\.|[.,:;][;,]|  | \.(?: |$)", text.replace("task tree", "")):
        found.append(f"punctuation: {text}")
    if re.search(r"\bfor (?:command|watch|bulk|durable)\b|connection for \w+ed\b", text):
        found.append(f"a connection without words: {text}")
    found += [
        f"no place: {sentence}"
        for sentence in re.split(r"(?<=[.!?…]) (?=[A-Z])", text)
        if CHANGE.search(sentence) and not PLACES.search(sentence)
    ]
    return found


#: What must not be said of a server that nobody but the daemon starts and sets up.
OF_A_SITE = re.compile(
    r"[Ss]tart Redis|requirepass|REDIS_|redis\.conf|redis\.(?:host|port|path|username|password)|firewall|ACL"
    r"|address of a running Redis|Redis host|log in as|Point redstreamd|CONFIG GET|Use Redis"
)


@pytest.mark.parametrize("kind", event_types(Event), ids=lambda kind: kind.__name__)
def test_every_record_is_in_whole_sentences_that_say_where(kind: type) -> None:
    made = [declaration_of(event).record(event).text for event in instances_of(kind)]
    assert made
    assert [each for text in made for each in complaints(text)] == []


def test_every_reason_for_having_no_connection_is_well_told() -> None:
    told = {f"{each.cause.rstrip('.')}. {each.next_step}" for each in (*OF_ANY_SERVER, *OF_THE_EMBEDDED)}
    assert len(told) > 60
    assert [each for text in sorted(told) for each in complaints(text)] == []
    assert [each.next_step for each in (*OF_ANY_SERVER, *OF_THE_EMBEDDED) if each.next_step[-1:] != "."] == []


@pytest.mark.parametrize("target", [PLAIN, EMBEDDED], ids=["redis", "embedded"])
def test_every_error_of_a_command_is_well_told(target: Target) -> None:
    for error in advised(target):
        text = tool_failure(error).text
        assert complaints(text) == []
        assert complaints(str(error)) == []


def test_advice_about_the_embedded_server_fits_it() -> None:
    steps = {each.next_step for each in OF_THE_EMBEDDED} | {each.next_step for each in advised(EMBEDDED)}
    assert [step for step in sorted(steps) if OF_A_SITE.search(step)] == []
    # The same search finds what is said of other servers.
    others = {each.next_step for each in OF_ANY_SERVER} | {each.next_step for each in advised(PLAIN)}
    assert sum(OF_A_SITE.search(step) is not None for step in others) > 15


@pytest.mark.parametrize(
    "text",
    [
        "it broke.. Wait.",
        "it broke. . Wait.",
        "no connection for bulk: gone",
        "Raise limits.max_waits.",
        "Trim streams, or raise maxmemory.",
    ],
)
def test_the_judge_finds_what_it_is_for(text: str) -> None:
    assert complaints(text)
