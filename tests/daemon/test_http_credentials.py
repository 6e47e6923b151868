"""Tokens at a running daemon: who comes in and for what, what revoking ends, and that no token is seen."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from redstreamd.cli import main
from redstreamd.policy import Permission
from redstreamd.protection.token_file import changed_tokens
from redstreamd.streamable_http.failed_attempts import MAX_FAILURES
from tests.daemon.test_http_listeners import MODERN, Answer, ask, serving
from tests.support.daemon import META, Daemon
from tests.support.issuer import AUDIENCE, Issuer, running_issuer
from tests.support.servers import Server
from tests.support.waiting import wait_until

ADDING = {"stream": "a:b:c", "entries": [{"n": "1"}]}
METADATA_PATH = "/.well-known/oauth-protected-resource"


@attrs.define
class Guarded:
    """A daemon that demands tokens of its HTTP clients."""

    daemon: Daemon
    port: int
    issuer: Issuer
    file: Path
    shown: list[str] = attrs.field(factory=list)

    def new(self, name: str, *, hours: float | None = None, scopes: Any = None) -> str:
        """Make a token, as `redstreamd tokens new` does."""
        expires = None if hours is None else datetime.now(UTC) + timedelta(hours=hours)
        with changed_tokens(str(self.file), may_make=True) as change:
            change.value, token = change.value.with_new(name, expires=expires, scopes=scopes)
        return token

    @contextlib.contextmanager
    def connected(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            yield connection

    def send(
        self,
        connection: http.client.HTTPConnection,
        token: str | None,
        method: str,
        heading: str = "",
        **params: Any,
    ) -> http.client.HTTPResponse:
        """Send a request of revision 2026-07-28; `heading` is the name in its head, if it is another."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params | {"_meta": META}}
        headers = MODERN | {"Mcp-Method": method}
        headers |= {"Mcp-Name": heading or params["name"]} if "name" in params else {}
        if "stream" in params.get("arguments", {}):
            headers["Mcp-Param-Stream"] = params["arguments"]["stream"]
        if token is not None:
            self.shown.append(token)
            headers["Authorization"] = f"Bearer {token}"
        connection.request("POST", "/mcp", json.dumps(message), headers)
        return connection.getresponse()

    def ask(self, token: str | None, method: str, **params: Any) -> tuple[int, str, Any]:
        """Return the status, the challenge and the body of the answer."""
        with self.connected() as connection:
            response = self.send(connection, token, method, **params)
            return response.status, response.headers.get("WWW-Authenticate", ""), json.loads(response.read())

    def call(self, token: str | None, tool: str, **arguments: Any) -> dict[str, Any]:
        status, _, answer = self.ask(token, "tools/call", name=tool, arguments=arguments)
        assert status == 200, answer
        result: dict[str, Any] = answer["result"]
        return result

    def status(self, token: str | None) -> int:
        return self.ask(token, "tools/call", name="stream_add", arguments=ADDING)[0]

    def is_taken_soon(self, token: str) -> None:
        """Wait until the daemon has read the file. Seldom, lest it be answered late."""
        wait_until(lambda: self.status(token) == 200)


@pytest.fixture
def guarded(redis: Server, tmp_path: Path) -> Iterator[Guarded]:
    file = tmp_path / "tokens.json"
    with changed_tokens(str(file), may_make=True) as change:
        change.value, _ = change.value.with_new("nobody", expires=None, scopes=None)
    with running_issuer() as issuer:
        settings = [
            f"http.token_file={file}",
            f"http.oauth_issuer={issuer.url}",
            f"http.resource_url={AUDIENCE}",
            # Silent streams are looked at as often as they get a comment.
            "http.event_pause_seconds=0.5",
            "daemon.log_level=debug",
            "daemon.access_log=true",
        ]
        with serving(redis, *(word for each in settings for word in ("--set", each))) as (daemon, plain):
            yield Guarded(daemon, plain.port, issuer, file)


def test_tokens_say_who_calls_and_what_for_on_every_way(guarded: Guarded) -> None:
    everything, reading = guarded.new("ann"), guarded.new("ben", hours=1, scopes=[Permission.READ])
    publishing = guarded.issuer.token(scope="publish", sub="agent-7")
    guarded.is_taken_soon(reading and everything)
    assert not guarded.call(everything, "stream_add", **ADDING).get("isError")
    assert not guarded.call(publishing, "stream_add", **ADDING).get("isError")
    read = guarded.call(reading, "stream_read", stream="a:b:c")["structuredContent"]
    assert {each["sender"] for each in read["entries"]} == {"http/token:ann", "http/oauth:agent-7"}
    # Calls, listings, resources and subscriptions alike.
    for token, tool, arguments, scope in (
        (reading, "stream_add", ADDING, "publish"),
        (publishing, "stream_read", {"stream": "a:b:c"}, "read"),
    ):
        status, challenge, _ = guarded.ask(token, "tools/call", name=tool, arguments=arguments)
        assert status == 403
        assert f'scope="{scope}"' in challenge
    # Who says another tool in the head than in the body gains nothing.
    message = {"name": "stream_add", "arguments": ADDING}
    assert guarded.ask(reading, "tools/call", heading="stream_read", **message)[0] == 400

    def offered(token: str) -> set[str]:
        return {each["name"] for each in guarded.ask(token, "tools/list")[2]["result"]["tools"]}

    assert "stream_add" in offered(everything) & offered(publishing)
    assert "stream_add" not in offered(reading)
    assert "stream_read" in offered(reading) - offered(publishing)
    uri = "redstream://streams/a:b:c"
    assert "result" in guarded.ask(reading, "resources/read", uri=uri, name=uri)[2]
    assert "error" in guarded.ask(publishing, "resources/read", uri=uri, name=uri)[2]


def test_what_is_no_valid_token_is_answered_with_what_is_wanted(guarded: Guarded) -> None:
    valid, expired = guarded.new("ann"), guarded.new("ann", hours=-1)
    guarded.is_taken_soon(valid)
    issuer = guarded.issuer
    metadata = f"https://mcp.example.org{METADATA_PATH}/mcp"
    status, challenge, _ = guarded.ask(None, "tools/list")
    assert (status, "error=" in challenge) == (401, False)
    assert f'resource_metadata="{metadata}"' in challenge
    # Clients ask for what they are told of: not for what no offered tool needs.
    assert 'scope="read publish consume"' in challenge
    wrong = {
        "expired": expired,
        "wrong": f"{valid[:-4]}AAAA",
        "malformed": "rsd_q9q9q9q9",
        "huge": valid * 150,
        "expired of the issuer": issuer.token(exp=1_000),
        "foreign audience": issuer.token(aud="https://other.example/mcp"),
        "foreign issuer": issuer.token(iss="https://other.example"),
        "forged": issuer.token()[:-6] + "AAAAAA",
    }
    assert len(wrong) < MAX_FAILURES
    for kind, token in wrong.items():
        status, challenge, answer = guarded.ask(token, "tools/list")
        assert status == 401, kind
        assert 'error="invalid_token"' in challenge, kind
        assert f'resource_metadata="{metadata}"' in challenge, kind
        assert "The token is not valid" in answer["error"]["message"], kind
    status, challenge, _ = guarded.ask(issuer.token(scope="openid"), "tools/list")
    assert status == 403
    assert 'error="insufficient_scope"' in challenge
    # A token in the address is none.
    with guarded.connected() as connection:
        guarded.shown.append(valid)
        assert ask(connection, f"/mcp?access_token={valid}", "POST")[0] in (400, 401, 404)
    with guarded.connected() as connection:
        for path in (METADATA_PATH, f"{METADATA_PATH}/mcp"):
            answer: Answer = ask(connection, path)
            assert answer[0] == 200
            document = json.loads(answer[2])
            assert document["resource"] == AUDIENCE
            assert document["authorization_servers"] == [issuer.url]
            assert document["scopes_supported"] == ["read", "publish", "consume", "manage"]
            assert document["bearer_methods_supported"] == ["header"]
    log = guarded.daemon.log
    for told in ("it has expired", "it is wrong", "another audience", "another issuer"):
        assert told in log
    assert_unseen(guarded)


def test_a_revoked_token_ends_within_seconds_and_so_do_its_streams(
    guarded: Guarded, capsys: pytest.CaptureFixture[str]
) -> None:
    token, other = guarded.new("ann"), guarded.new("ben")
    guarded.is_taken_soon(other)
    with guarded.connected() as connection, guarded.connected() as listening, guarded.connected() as staying:
        assert guarded.send(connection, token, "tools/list").read()
        notifications = {"resourcesListChanged": True, "toolsListChanged": True}
        of_token, of_other = (
            guarded.send(each, credential, "subscriptions/listen", notifications=notifications)
            for each, credential in ((listening, token), (staying, other))
        )
        assert [of_token.status, of_other.status] == [200, 200]
        assert main(["tokens", "revoke", "ann", "--file", str(guarded.file), "--config", "/dev/null"]) == 0
        assert token not in "".join(capsys.readouterr())

        def is_refused() -> bool:
            response = guarded.send(connection, token, "tools/list")
            response.read()
            return response.status == 401

        wait_until(is_refused)
        # It ends; the other one has comments still.
        while of_token.readline():
            pass
        while of_other.readline() != b":\n":
            pass
        assert of_other.readline() == b"\n"
        assert of_other.readline() == b":\n"
        assert guarded.status(other) == 200
    assert_unseen(guarded)


def assert_unseen(guarded: Guarded) -> None:
    """Look for the tokens that were shown in all that the daemon has said and in what others see of it."""
    process = Path(f"/proc/{guarded.daemon.process.pid}")
    seen = guarded.daemon.log + guarded.daemon.output
    seen += "".join(
        (process / name).read_bytes().decode("utf-8", "replace") for name in ("cmdline", "environ")
    )
    assert guarded.shown
    for token in guarded.shown:
        assert token not in seen
        # Nor a part of it that is secret.
        secret = token.removeprefix("rsd_").partition("_")[2] or token.rpartition(".")[2]
        assert secret[:20] not in seen, secret
    assert "bearer" in guarded.daemon.log.lower() or "token" in guarded.daemon.log
