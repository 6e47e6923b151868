"""Who may call over HTTP: host, origin and token together, and what becomes of tokens that are not valid."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Peer
from redstreamd.mcpio.connection_events import ClientRefused, CredentialsNotRenewed, KeysNotFetched
from redstreamd.policy import Permission, Principal
from redstreamd.protection import key_sets
from redstreamd.protection.bearer_tokens import BearerTokens
from redstreamd.protection.oauth_tokens import OAuthOptions, OAuthTokens
from redstreamd.protection.token_records import read_tokens
from redstreamd.streamable_http import failed_attempts, http_access, known_tokens
from redstreamd.streamable_http.http_access import HttpAccess
from redstreamd.streamable_http.http_messages import Answer, Client, RequestHead
from redstreamd.streamable_http.http_places import Hosts, Origins
from tests.protection.test_bearer_tokens import made, write
from tests.support.issuer import AUDIENCE, Issuer, SigningKey, running_issuer
from tests.support.waiting import until

HTTP = Principal("http", "http")
PEER = Peer(address="192.0.2.7")
READ = Permission.READ


class Read:
    """A client that has read everything."""

    size = 0

    async def wait_written(self) -> None:
        """There is nothing to read."""


def client_of(principal: Principal = HTTP, peer: Peer = PEER) -> Client:
    return Client("c1", principal, peer, lambda *_: True, Read())


def head_of(
    authority: str = "localhost:8080",
    *,
    origin: str | None = None,
    token: str | None = None,
    fields: Mapping[str, str] | None = None,
    repeated: frozenset[str] = frozenset(),
) -> RequestHead:
    given = {"host": authority, **(fields or {})}
    if origin is not None:
        given["origin"] = origin
    if token is not None:
        given["authorization"] = f"Bearer {token}"
    return RequestHead("POST", "/mcp", "", authority, given, repeated)


class Asked:
    """An `HttpAccess` with what it has reported."""

    def __init__(self, tokens: BearerTokens | None = None, **options: Any) -> None:
        self.events: list[Any] = []
        self.access = HttpAccess(tokens=tokens, report=self.events.append, **options)

    def admit(self, *args: Any, client: Client | None = None, **options: Any) -> Principal | Answer:
        result = self.access.admit(head_of(*args, **options), client or client_of())
        assert isinstance(result, Principal | Answer)
        return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


# Host.

OURS = ("mcp.example.org", "edge.example.org:8443", "192.0.2.1", "[2001:db8::1]")


@pytest.mark.parametrize(
    ("authority", "is_ours"),
    [
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("localhost.:8080", True),
        ("127.0.0.1:8080", True),
        ("127.9.8.7", True),
        ("[::1]:8080", True),
        ("[0:0:0:0:0:0:0:1]", True),
        ("mcp.example.org", True),
        ("MCP.example.org.:99", True),
        ("edge.example.org:8443", True),
        ("192.0.2.1:8080", True),
        ("[2001:DB8:0::1]:1", True),
        ("", False),
        ("edge.example.org", False),
        ("edge.example.org:443", False),
        ("a.mcp.example.org", False),
        ("evil.example", False),
        ("mcp.example.org.evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost:8080@evil.example", False),
        ("evil.example#localhost", False),
        ("localhost:", False),
        ("localhost:123456", False),
        ("localhost, evil.example", False),
        ("[::1", False),
        ("[::1%25lo]", False),
        ("192.0.2.2", False),
        ("0.0.0.0:8080", False),
        ("2130706433", False),
        ("0x7f.1", False),
        ("[::ffff:192.0.2.2]", False),
    ],
)
def test_hosts_of_ours_and_no_others(authority, is_ours):
    hosts = Hosts(OURS)
    # The second time it is remembered.
    assert [authority in hosts, authority in hosts] == [is_ours, is_ours]


def test_behind_every_address_an_address_is_ours_and_a_name_is_not():
    for listening in ("0.0.0.0", "[::]", "0.0.0.0:8080"):
        hosts = Hosts([listening])
        assert "203.0.113.9:8080" in hosts
        assert "[2001:db8::9]:8080" in hosts
        assert "evil.example:8080" not in hosts
        assert "999.0.2.1" not in hosts


def test_what_is_remembered_of_hosts_and_origins_is_bounded():
    hosts, origins = Hosts(()), Origins(())
    for number in range(2_000):
        assert f"h{number}.example" not in hosts
        assert f"https://h{number}.example" not in origins
    assert max(len(hosts._remembered), len(origins._remembered)) <= 256
    assert "localhost" in hosts
    assert "http://localhost" in origins


@pytest.mark.parametrize("wrong", ["", "*", "a b", "http://example.org", "example.org/", "*.x", "::1", "a@b"])
def test_what_is_no_host_is_a_wrong_setting(wrong):
    with pytest.raises(ValueError, match="is no host"):
        Hosts([wrong])


# Origin.


@pytest.mark.parametrize(
    ("origin", "may_call"),
    [
        ("http://localhost:6274", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:3000", True),
        ("https://app.example.org", True),
        ("https://app.example.org:443", True),
        ("vscode-webview://app", True),
        ("null", False),
        ("", False),
        ("http://app.example.org", False),
        ("https://app.example.org:8443", False),
        ("https://app.example.org.evil.example", False),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://localhost:1@evil.example", False),
        ("file://localhost", False),
        ("chrome-extension://localhost", False),
        ("https://app.example.org/", False),
        ("http://localhost, https://evil.example", False),
        ("localhost", False),
        ("http://0.0.0.0", False),
    ],
)
def test_origins_of_ours_and_no_others(origin, may_call):
    origins = Origins(["https://App.example.org", "vscode-webview://app"])
    # The second time it is remembered.
    assert [origin in origins, origin in origins] == [may_call, may_call]


@pytest.mark.parametrize("wrong", ["", "null", "*", "app.example.org", "https://a.example/", "https://a b"])
def test_what_is_no_origin_is_a_wrong_setting(wrong):
    with pytest.raises(ValueError, match="is no origin"):
        Origins([wrong])


def test_the_origin_that_may_read_a_response_is_the_one_that_asked():
    access = Asked(origins=["https://app.example.org"]).access
    assert access.origin_allowed(head_of(origin="https://app.example.org")) == "https://app.example.org"
    assert access.origin_allowed(head_of(origin="http://localhost:1")) == "http://localhost:1"
    assert access.origin_allowed(head_of(origin="https://evil.example")) is None
    assert access.origin_allowed(head_of(origin="null")) is None
    assert access.origin_allowed(head_of()) is None


# Host, origin and token together.

HOSTS = {"ours": "mcp.example.org", "loopback": "127.0.0.1:8080", "foreign": "evil.example", "none": ""}
ORIGINS = {"absent": None, "ours": "https://app.example.org", "loopback": "http://localhost:1"} | {
    "foreign": "https://evil.example",
    "null": "null",
}
TOKENS = ("valid", "absent", "wrong", "expired", "revoked", "malformed", "huge", "other scheme")


@pytest.mark.parametrize(("host", "origin"), list(itertools.product(HOSTS, ORIGINS)))
async def test_the_table_of_host_origin_and_token(path, host, origin):
    tokens = {"valid": made(path), "revoked": made(path)}
    listed = read_tokens(str(path))
    write(path, listed.without("ann", listed.tokens[1].id))
    tokens["expired"] = made(path, expires=datetime.now(UTC) - timedelta(seconds=1))
    tokens["wrong"] = tokens["valid"][:-3] + ("AAA" if tokens["valid"][-3:] != "AAA" else "AAE")
    tokens["malformed"] = f'rsd_"{tokens["valid"][4:]}'
    tokens["huge"] = tokens["valid"] * 200
    for kind in TOKENS:
        asked = Asked(BearerTokens(str(path)), hosts=["mcp.example.org"], origins=["https://app.example.org"])
        fields = {"authorization": f"Basic {tokens['valid']}"} if kind == "other scheme" else None
        answer = asked.admit(HOSTS[host], origin=ORIGINS[origin], token=tokens.get(kind), fields=fields)
        if host in ("foreign", "none"):
            expected = 421
        elif origin in ("foreign", "null"):
            expected = 403
        else:
            expected = None if kind == "valid" else 401
        if expected is None:
            assert answer == Principal("http/token:ann", "http", "http")
            assert asked.events == []
            continue
        assert isinstance(answer, Answer)
        assert answer.status == expected
        [event] = asked.events
        assert isinstance(event, ClientRefused)
        assert event.peer == PEER
        head = head_of(token=tokens.get(kind), fields=fields)
        said = repr((answer, asked.events, asked.access, vars(asked.access), head))
        for token in tokens.values():
            assert token not in said
            assert token[13:56] not in said
        challenge = dict(answer.fields).get("WWW-Authenticate")
        assert (challenge is not None) == (expected == 401)
        error = json.loads(answer.body)
        assert error["id"] is None
        assert error["error"]["message"].endswith(".")
        if expected == 401:
            assert challenge.startswith('Bearer realm="redstreamd"')
            assert ('error="invalid_token"' in challenge) == (kind != "absent")


def test_without_tokens_clients_are_who_their_listener_says():
    asked = Asked()
    assert asked.admit() == HTTP
    by_certificate = HTTP.proved("cert:ann")
    assert asked.admit(client=client_of(by_certificate)) == by_certificate
    # A token that nobody asks for says nothing.
    assert asked.admit(token="rsd_x") == HTTP


def test_a_token_says_more_than_the_listener_and_its_certificate(path):
    token = made(path, scopes=[READ])
    asked = Asked(BearerTokens(str(path)))
    for principal in (HTTP, HTTP.proved("cert:proxy"), Principal("edge", "http")):
        admitted = asked.admit(token=token, client=client_of(principal))
        name = principal.socket or principal.name
        assert admitted == Principal(f"{name}/token:ann", "http", name, frozenset({READ}))
    client = client_of()
    first = asked.admit(token=token, client=client)
    assert asked.admit(token=token, client=client) is first
    assert isinstance(first, Principal)
    assert first.owns("http")


async def test_the_scheme_is_read_as_http_writes_it_and_two_headers_are_refused(path):
    token = made(path)
    asked = Asked(BearerTokens(str(path)))
    for authorization in (f"bearer {token}", f"BEARER  {token}"):
        assert isinstance(asked.admit(fields={"authorization": authorization}), Principal)
    for authorization in (token, f"Bearer{token}", f"Bearer {token}, Bearer {token}", "Bearer", "Bearer "):
        assert asked.admit(fields={"authorization": authorization}).status == 401
    twice = asked.admit(
        fields={"authorization": f"Bearer {token}, Bearer {token}"}, repeated=frozenset({"authorization"})
    )
    assert b"is there twice" in twice.body


def test_a_foreign_host_or_origin_is_named_on_one_line_and_not_in_the_log():
    asked = Asked()
    hidden = "evil.example\u202e" + "x" * 500
    for answer in (asked.admit(hidden), asked.admit(origin=f"https://{hidden}")):
        assert "\u202e".encode() not in answer.body
        assert len(answer.body) < 500
    assert "evil" not in repr(asked.events)


async def test_a_revoked_token_is_refused_and_its_streams_know(path):
    token, other = made(path), made(path, "ben")
    tokens = BearerTokens(str(path))
    asked = Asked(tokens)
    async with trio.open_nursery() as nursery:
        await nursery.start(asked.access.run)
        assert isinstance(asked.admit(token=token), Principal)
        assert isinstance(asked.admit(token=other), Principal)
        of_ann, of_ben = (asked.access.validity(head_of(token=each)) for each in (token, other))
        assert [of_ann(), of_ben()] == [True, True]
        write(path, read_tokens(str(path)).without("ann"))
        await until(lambda: not of_ann())
        assert asked.admit(token=token).status == 401
        assert of_ben()
        assert isinstance(asked.admit(token=other), Principal)
        # What cannot be read revokes nothing, and is told.
        path.chmod(0o644)
        await until(lambda: isinstance(asked.events[-1], CredentialsNotRenewed))
        assert of_ben()
        path.chmod(0o600)
        late = made(path, "late")
        await until(lambda: tokens.has(read_tokens(str(path)).tokens[-1]))
        assert isinstance(asked.admit(token=late), Principal)
        nursery.cancel_scope.cancel()
    assert Asked().access.validity(head_of())()


def test_what_is_asked_late_for_its_validity_is_not_valid_for_ever(path, monkeypatch):
    """A response opens when the body is there, long after its head was judged, if the client wants."""
    token = made(path)
    tokens = BearerTokens(str(path))
    asked = Asked(tokens)
    head = head_of(token=token)
    assert isinstance(asked.admit(token=token), Principal)
    write(path, read_tokens(str(path)).without("ann"))
    assert tokens.renew()
    assert not asked.access.validity(head)()
    # So is one that is forgotten, because there were many others.
    monkeypatch.setattr(known_tokens, "_MAX_KNOWN", 1)
    first, second = made(path, "first"), made(path, "second")
    assert tokens.renew()
    for each in (first, second):
        assert isinstance(asked.admit(token=each), Principal)
    assert not asked.access.validity(head_of(token=first))()
    assert asked.access.validity(head_of(token=second))()


def test_what_was_opened_without_a_token_ends_when_tokens_are_asked_for(path):
    made(path)
    asked = Asked()
    is_valid = asked.access.validity(head_of())
    assert is_valid()
    usual = {"hosts": (), "origins": (), "oauth": None, "metadata_url": None}
    asked.access.reconfigure(tokens=BearerTokens(str(path)), **usual)
    assert not is_valid()


async def test_a_token_expires_while_it_is_used(path):
    token = made(path, expires=datetime.now(UTC) + timedelta(seconds=1.5))
    asked = Asked(BearerTokens(str(path)))
    if isinstance(asked.admit(token=token), Principal):
        is_valid = asked.access.validity(head_of(token=token))
        await until(lambda: not is_valid())
    assert asked.admit(token=token).status == 401


def test_whoever_fails_often_is_answered_late_and_others_are_not(path):
    token = made(path)
    asked = Asked(BearerTokens(str(path)))

    async def failing(peer: Peer) -> tuple[Answer, float]:
        began = trio.current_time()
        answer = asked.access.admit(head_of(token="rsd_wrong"), client_of(peer=peer))
        answer = await answer if inspect.isawaitable(answer) else answer
        assert isinstance(answer, Answer)
        assert answer.status == 401
        return answer, trio.current_time() - began

    async def main() -> None:
        for _ in range(failed_attempts.MAX_FAILURES):
            answer, seconds = await failing(PEER)
            assert (answer.closes, seconds) == (False, 0)
        for _ in range(3):
            answer, seconds = await failing(PEER)
            assert (answer.closes, seconds) == (True, http_access.LATE_SECONDS)
        assert (await failing(Peer(address="192.0.2.8")))[1] == 0
        # Who shows a valid token does not wait, though its peer may be the same reverse proxy.
        assert isinstance(asked.admit(token=token), Principal)
        # Nor does who asks what is wanted.
        assert isinstance(asked.admit(), Answer)
        await trio.sleep(failed_attempts.PERIOD_SECONDS)
        assert (await failing(PEER))[1] == 0
        for number in range(3_000):
            await failing(Peer(address=f"peer {number}"))
        assert len(asked.access._failures._peers) <= 1_024

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_is_remembered_of_tokens_is_bounded(path, monkeypatch):
    monkeypatch.setattr(known_tokens, "_MAX_KNOWN", 3)
    tokens = [made(path, f"n{number}") for number in range(8)]
    asked = Asked(BearerTokens(str(path)))
    for _ in range(2):
        for token in tokens:
            assert isinstance(asked.admit(token=token), Principal)
    assert len(asked.access._tokens._known) == 3
    assert not any(token in repr(asked.access._tokens._known) for token in tokens)


def test_a_tool_that_the_head_names_is_refused_with_the_scope_that_it_needs(path):
    limited, everything = made(path, scopes=[READ]), made(path, "ben")
    asked_for = []

    def missing_scope(principal: Principal, tool: str) -> Permission | None:
        asked_for.append((principal.name, tool))
        return Permission.PUBLISH if tool == "stream_add" else None

    asked = Asked(BearerTokens(str(path)), missing_scope=missing_scope)
    call = {"mcp-method": "tools/call", "mcp-name": "stream_add"}
    answer = asked.admit(token=limited, fields=call)
    assert answer.status == 403
    challenge = dict(answer.fields)["WWW-Authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="publish"' in challenge
    [event] = asked.events
    assert (event.principal.name, event.why) == (
        "http/token:ann",
        "its token does not have the scope publish",
    )
    for fields in (call | {"mcp-name": "stream_read"}, {"mcp-method": "tools/list"}, {}):
        assert isinstance(asked.admit(token=limited, fields=fields), Principal)
    # Without scopes nothing is asked.
    assert isinstance(asked.admit(token=everything, fields=call), Principal)
    assert asked_for == [("http/token:ann", "stream_add"), ("http/token:ann", "stream_read")]


# Tokens of an authorization server.

METADATA_URL = "https://mcp.example.org/.well-known/oauth-protected-resource/mcp"


def asking(issuer: Issuer, file: BearerTokens | None = None, audience: str = AUDIENCE) -> Asked:
    oauth = OAuthTokens(OAuthOptions(issuer.url, audience))
    return Asked(file, oauth=oauth, metadata_url=METADATA_URL)


async def answered(asked: Asked, **options: Any) -> Principal | Answer:
    result = asked.access.admit(head_of(**options), client_of())
    return await result if inspect.isawaitable(result) else result


async def test_tokens_of_the_file_and_of_a_server_are_taken_side_by_side(path):
    own = made(path)
    with running_issuer() as issuer:
        asked = asking(issuer, BearerTokens(str(path)))
        both = frozenset({READ, Permission.PUBLISH})
        foreign = issuer.token()
        assert await answered(asked, token=foreign) == Principal("http/oauth:ann", "http", "http", both)
        assert await answered(asked, token=own) == Principal("http/token:ann", "http", "http")
        # Known tokens are taken at once.
        assert isinstance(asked.admit(token=foreign), Principal)
        assert asked.access.validity(head_of(token=foreign))()
        assert asked.events == []


async def test_clients_learn_where_tokens_are_issued_and_what_is_wrong_with_theirs():
    with running_issuer() as issuer:
        asked = asking(issuer)
        answer = await answered(asked)
        assert isinstance(answer, Answer)
        assert answer.status == 401
        challenge = dict(answer.fields)["WWW-Authenticate"]
        assert f'resource_metadata="{METADATA_URL}"' in challenge
        assert 'scope="read publish consume manage"' in challenge
        assert "error=" not in challenge
        assert asked.events == []
        for token in (
            issuer.token(exp=1),
            issuer.token(aud="https://other.example"),
            "q9q9",
            "rsd_q9q9",
            "q9.q9.q9",
        ):
            answer = await answered(asked, token=token)
            assert isinstance(answer, Answer)
            assert answer.status == 401
            challenge = dict(answer.fields)["WWW-Authenticate"]
            assert 'error="invalid_token"' in challenge
            assert f'resource_metadata="{METADATA_URL}"' in challenge
            assert token not in repr((answer, asked.events))
        assert len(asked.events) == 5
        for _ in range(2):
            answer = await answered(asked, token=issuer.token(scope="openid"))
            assert isinstance(answer, Answer)
            assert answer.status == 403
            challenge = dict(answer.fields)["WWW-Authenticate"]
            assert 'error="insufficient_scope"' in challenge
            assert 'scope="read publish consume manage"' in challenge


async def test_without_keys_a_token_is_not_refused_for_good_and_the_cause_is_told():
    with running_issuer() as issuer:
        issuer.replies["/keys"] = (500, {}, b"")
        asked = asking(issuer)
        for _ in range(2):
            answer = await answered(asked, token=issuer.token())
            assert isinstance(answer, Answer)
            assert answer.status == 503
            assert ("Retry-After", "5") in answer.fields
        [event] = asked.events
        assert isinstance(event, KeysNotFetched)
        assert "status 500" in event.cause


async def test_what_nobody_foresaw_in_fetching_keys_does_not_end_the_daemon(path, defects):
    class Broken:
        options = None
        asked = 0

        async def keep_keys(self) -> None:
            self.asked += 1
            raise UnicodeError("label empty or too long")

    broken = Broken()
    asked = Asked(BearerTokens(str(path)) if made(path) else None, oauth=broken)
    async with trio.open_nursery() as nursery:
        await nursery.start(asked.access.run)
        await until(lambda: broken.asked == 2)
        nursery.cancel_scope.cancel()
    assert {type(each.error) for each in defects} == {UnicodeError}


async def test_keys_are_fetched_before_anybody_asks_and_a_withdrawn_key_ends_what_it_has_signed():
    with running_issuer() as issuer:
        asked = asking(issuer)
        async with trio.open_nursery() as nursery:
            await nursery.start(asked.access.run)
            await until(lambda: issuer.count())
            token = issuer.token()
            await answered(asked, token=token)
            is_valid = asked.access.validity(head_of(token=token))
            assert is_valid()
            issuer.keys = [SigningKey("ES256", "k2")]
            keys = asked.access._tokens.oauth._keys  # type: ignore[union-attr]
            await until(lambda: not keys._fetching.locked())
            keys._fetched_at -= key_sets.FRESH_SECONDS
            keys._tried_at -= key_sets.FRESH_SECONDS
            await until(lambda: not is_valid())
            assert isinstance(await answered(asked, token=token), Answer)
            nursery.cancel_scope.cancel()


async def test_a_reload_ends_what_the_former_settings_let_in(path):
    own = made(path)
    with running_issuer() as issuer:
        file, oauth = BearerTokens(str(path)), OAuthTokens(OAuthOptions(issuer.url, AUDIENCE))
        asked = Asked(file, oauth=oauth)
        token = issuer.token()
        for each in (own, token):
            assert isinstance(await answered(asked, token=each), Principal)
        of_own, of_foreign = (asked.access.validity(head_of(token=each)) for each in (own, token))

        def changed(**options: Any) -> list[bool]:
            usual = {"hosts": (), "origins": (), "tokens": file, "oauth": oauth, "metadata_url": None}
            asked.access.reconfigure(**(usual | options))
            return [of_own(), of_foreign()]

        requests = len(issuer.requests)
        same = {"tokens": BearerTokens(str(path)), "oauth": OAuthTokens(OAuthOptions(issuer.url, AUDIENCE))}
        assert changed(**same) == [True, True]
        assert isinstance(asked.admit(token=token), Principal)
        assert len(issuer.requests) == requests
        assert changed(tokens=None) == [False, True]
        assert changed(oauth=OAuthTokens(OAuthOptions(issuer.url, "other"))) == [True, False]
        assert changed(tokens=None, oauth=None) == [False, False]
        # Nobody is asked for a token any more.
        assert asked.admit() == HTTP
        with pytest.raises(ValueError, match="is no host"):
            changed(hosts=["a b"], tokens=file)
        assert asked.admit() == HTTP
