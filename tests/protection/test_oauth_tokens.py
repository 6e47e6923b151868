"""Access tokens of an authorization server: which are taken, and how its keys are had."""

from __future__ import annotations

import base64
import hashlib
import hmac
import inspect
import json
import math
import time
from collections.abc import Iterator

import jwt
import pytest
import trio
import trio.testing

from redstreamd.policy import Permission
from redstreamd.protection import key_fetching, key_sets
from redstreamd.protection.key_fetching import KeyFetcher, metadata_urls
from redstreamd.protection.key_sets import usable
from redstreamd.protection.oauth_tokens import OAuthOptions, OAuthTokens
from redstreamd.protection.verified_tokens import KeysUnavailableError, VerifiedToken, WrongTokenError
from tests.support.certificates import Authority
from tests.support.issuer import AUDIENCE, Issuer, SigningKey, running_issuer
from tests.support.waiting import until

READ, PUBLISH = Permission.READ, Permission.PUBLISH


@pytest.fixture(scope="module")
def shared() -> Iterator[Issuer]:
    """An issuer that tests do not change."""
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


def tokens_of(issuer: Issuer, **options: str) -> OAuthTokens:
    return OAuthTokens(OAuthOptions(issuer.url, AUDIENCE, **options))


async def verified(tokens: OAuthTokens, token: str) -> VerifiedToken:
    shown = tokens.verify(token)
    return await shown if inspect.isawaitable(shown) else shown


async def why(tokens: OAuthTokens, token: str) -> str:
    with pytest.raises(WrongTokenError) as wrong:
        await verified(tokens, token)
    assert wrong.value.__cause__ is None
    assert wrong.value.__suppress_context__ or wrong.value.__context__ is None
    return wrong.value.why


# Tokens.


async def test_a_token_says_who_it_is_and_what_for(shared):
    tokens = tokens_of(shared)
    token = shared.token()
    shown = await verified(tokens, token)
    assert (shown.proved, shown.permissions) == ("oauth:ann", {READ, PUBLISH})
    assert shown.expires_at == jwt.decode(token, options={"verify_signature": False})["exp"] + 30
    # The keys are known now.
    assert isinstance(tokens.verify(token), VerifiedToken)
    assert tokens.has(shown)


@pytest.mark.parametrize(
    ("changes", "permissions"),
    [
        ({"scope": "openid read  email manage"}, {READ, Permission.MANAGE}),
        ({"scope": None, "scp": ["publish", "x", 1]}, {PUBLISH}),
        ({"scope": None, "scp": "read"}, {READ}),
        ({"scope": ""}, set()),
        ({"scope": None}, set()),
        ({"scope": "READ readx read:all submit"}, set()),
        ({"scope": 1}, set()),
        ({"scope": {"read": 1}}, set()),
    ],
)
async def test_scopes_become_permissions(shared, changes, permissions):
    assert (await verified(tokens_of(shared), shared.token(**changes))).permissions == permissions


NOW = time.time()
_NO_SUBJECT = "its subject is not 1 to 128 printable characters of ASCII without spaces"
_LACKS = "it lacks a claim: exp, iss, aud and sub are needed"
_MALFORMED = "it is no JSON Web Token that can be read"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"exp": NOW - 60}, "it has expired"),
        ({"exp": None}, _LACKS),
        ({"exp": "never"}, _MALFORMED),
        ({"exp": math.inf}, _MALFORMED),
        ({"exp": math.nan}, _MALFORMED),
        ({"nbf": NOW + 3_600}, "it is not valid yet"),
        ({"iat": NOW + 3_600}, "it is not valid yet"),
        ({"aud": "https://other.example/mcp"}, "it was issued for another audience"),
        ({"aud": AUDIENCE + "/"}, "it was issued for another audience"),
        ({"aud": []}, _LACKS),
        ({"aud": None}, _LACKS),
        ({"iss": "https://evil.example"}, "it is of another issuer"),
        ({"iss": None}, _LACKS),
        ({"sub": None}, _LACKS),
        ({"sub": ""}, _NO_SUBJECT),
        ({"sub": "a b"}, _NO_SUBJECT),
        ({"sub": "é"}, _NO_SUBJECT),
        ({"sub": "a\n"}, _NO_SUBJECT),
        ({"sub": "x" * 129}, _NO_SUBJECT),
        ({"sub": 7}, _MALFORMED),
        ({"cnf": {"jkt": "x"}}, "it is bound to a key of its client, of which nothing here asks a proof"),
    ],
)
async def test_what_claims_are_refused(shared, changes, told):
    assert await why(tokens_of(shared), shared.token(**changes)) == told


async def test_clocks_may_differ_a_little_and_an_audience_may_be_one_of_several(shared):
    tokens = tokens_of(shared)
    now = time.time()
    for changes in ({"exp": now - 10}, {"nbf": now + 10}, {"iat": now + 10}, {"aud": ["x", AUDIENCE]}):
        assert (await verified(tokens, shared.token(**changes))).proved == "oauth:ann"


@pytest.mark.parametrize("kind", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
async def test_each_asymmetric_algorithm_verifies_and_a_changed_token_does_not(issuer, kind):
    issuer.keys = [SigningKey(kind)]
    tokens = tokens_of(issuer)
    token = issuer.token()
    assert (await verified(tokens, token)).proved == "oauth:ann"
    head, claims, signature = token.split(".")
    forged = base64.urlsafe_b64encode(json.dumps(issuer.claims(sub="root")).encode()).rstrip(b"=").decode()
    assert await why(tokens, f"{head}.{forged}.{signature}") == "its signature is wrong"
    middle = len(signature) // 2
    changed = signature[:middle] + ("A" if signature[middle] != "A" else "B") + signature[middle + 1 :]
    assert await why(tokens, f"{head}.{claims}.{changed}") in ("its signature is wrong", _MALFORMED)


_NO_ALGORITHM = "it is not signed by an algorithm that is taken (RS, PS, ES or EdDSA)"


def by_hand(header: object, claims: object, signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


async def test_no_algorithm_and_shared_secrets_are_refused(shared):
    tokens = tokens_of(shared)
    claims = shared.claims()
    assert await why(tokens, by_hand({"alg": "none", "kid": "k1"}, claims)) == _NO_ALGORITHM
    assert await why(tokens, by_hand({"alg": "None"}, claims, b"x")) == _NO_ALGORITHM
    for algorithm in ("", None, ["RS256"], {"RS256": 1}, "ES256K", "HS256"):
        assert await why(tokens, by_hand({"alg": algorithm, "kid": "k1"}, claims, b"x")) == _NO_ALGORITHM
    assert await why(tokens, by_hand({"kid": "k1"}, claims, b"x")) == _NO_ALGORITHM
    # The confusion of algorithms: a hash keyed with the public key, which everybody has.
    public = json.dumps(shared.keys[0].document).encode()
    unsigned = by_hand({"alg": "HS256", "kid": "k1"}, claims)[:-1]
    mac = hmac.digest(public, unsigned.encode(), hashlib.sha256)
    signature = base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
    assert await why(tokens, f"{unsigned}.{signature}") == _NO_ALGORITHM


async def test_a_key_is_used_with_its_own_algorithms_only(issuer):
    issuer.keys = [SigningKey("RS256", "k1"), SigningKey("ES256", "k2")]
    tokens = tokens_of(issuer)
    assert await verified(tokens, issuer.token())
    unknown = "it is signed with a key that its issuer does not have"
    assert await why(tokens, issuer.keys[0].sign(issuer.claims(), alg="PS256")) == unknown
    assert await why(tokens, issuer.keys[0].sign(issuer.claims(), kid="k2")) == unknown
    assert await why(tokens, SigningKey("RS256", "k1").sign(issuer.claims())) == "its signature is wrong"


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"typ": "dpop+jwt"}, "it is no access token by its type"),
        ({"typ": "logout+jwt"}, "it is no access token by its type"),
        ({"crit": ["exp"]}, _MALFORMED),
        ({"kid": "other"}, "it is signed with a key that its issuer does not have"),
    ],
)
async def test_what_headers_are_refused(shared, headers, told):
    tokens = tokens_of(shared)
    assert await verified(tokens, shared.token())
    assert await why(tokens, shared.keys[0].sign(shared.claims(), **headers)) == told


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "\u00e9.\u00e9.\u00e9",
        by_hand([], {}),
        by_hand("x", {}),
        by_hand({"alg": "RS256", "kid": 7}, {}),
        by_hand({"alg": "RS256", "kid": {}}, {}),
        base64.urlsafe_b64encode(b'{"a":' + b"[" * 3_000).decode().rstrip("=") + ".e30.x",
        base64.urlsafe_b64encode(b"\xff\xfe").decode().rstrip("=") + ".e30.x",
        "A" * 8_000,
    ],
)
async def test_garbage_is_malformed(shared, token):
    assert await why(tokens_of(shared), token) == _MALFORMED


async def test_claims_that_are_no_object_are_refused_though_they_are_signed(shared):
    tokens = tokens_of(shared)
    key = shared.keys[0]
    for payload in (b"[]", b'"x"', b"\xff", b"[" * 2_000, b'{"exp": 1e400}', b"{"):
        token = jwt.PyJWS().encode(payload, key.private, key.algorithm, {"kid": key.id})
        assert await why(tokens, token) in (_MALFORMED, _LACKS)


# Keys.


def test_keys_that_cannot_verify_are_left_out():
    good = SigningKey("RS256").document
    for wrong in (
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": None},
        {"kty": ["RSA"]},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": ["RS256"]},
        {"n": "AQAB"},
        {"n": 7},
        {"n": "!"},
        {"e": "AQ"},
        {"d": "AQAB"},
        {"kid": 7},
        {"n": good["n"] * 8},
    ):
        assert usable([good | wrong]) == [], wrong
    assert usable([SigningKey("ES256K").document, None, 7, [], {}]) == []
    assert [each.id for each in usable([{"kty": "x"}, good, 7])] == ["k1"]
    assert usable([{} for _ in range(key_sets.MAX_KEYS)] + [good]) == []


async def test_a_token_without_the_id_of_a_key_is_taken_if_one_key_fits(issuer):
    issuer.keys = [SigningKey("RS256", None), SigningKey("ES256", "k2")]
    tokens = tokens_of(issuer)
    assert await verified(tokens, issuer.token())
    issuer.keys = [SigningKey("RS256", None), SigningKey("RS256", "k2")]
    assert "does not have" in await why(tokens_of(issuer), issuer.token())


async def test_a_new_key_is_found_once_it_is_used_and_a_withdrawn_one_is_forgotten(issuer):
    tokens = tokens_of(issuer)
    old = issuer.token()
    shown = await verified(tokens, old)
    issuer.keys = [SigningKey("RS256", "k2")]
    new = issuer.token()
    # Too early: whoever shows unknown keys causes no requests.
    requests = len(issuer.requests)
    assert "does not have" in await why(tokens, new)
    assert len(issuer.requests) == requests
    tokens._keys._tried_at -= key_sets.PAUSE_SECONDS
    assert (await verified(tokens, new)).proved == "oauth:ann"
    assert not tokens.has(shown)
    assert "does not have" in await why(tokens, old)


async def test_many_that_need_the_keys_fetch_them_once(issuer):
    tokens = tokens_of(issuer)
    token = issuer.token()
    issuer.may_answer.clear()
    shown = []

    async def ask() -> None:
        shown.append(await verified(tokens, token))

    async def ask_first() -> None:
        with first:
            await verified(tokens, token)

    first = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_first)
        await until(lambda: issuer.requests)
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        # Whoever asked first may go; the next one fetches.
        first.cancel()
        issuer.may_answer.set()
    assert first.cancelled_caught
    assert len(shown) == 5
    assert issuer.count() == 1


async def test_while_the_issuer_is_down_known_keys_are_used_for_a_bounded_time(issuer):
    tokens = tokens_of(issuer)
    token = issuer.token()
    await verified(tokens, token)
    for path in list(issuer.requests):
        issuer.replies[path] = (500, {}, b"")
    tokens._keys._fetched_at -= key_sets.FRESH_SECONDS
    tokens._keys._tried_at -= key_sets.FRESH_SECONDS
    with pytest.raises(KeysUnavailableError, match="status 500"):
        await tokens.keep_keys()
    await tokens.keep_keys()  # not again at once
    shown = tokens.verify(token)
    assert isinstance(shown, VerifiedToken)
    assert tokens.has(shown)
    tokens._keys._fetched_at -= key_sets.STALE_SECONDS
    # Nor is what was verified before.
    assert not tokens.has(shown)
    with pytest.raises(KeysUnavailableError, match="status 500"):
        await verified(tokens, token)
    issuer.replies.clear()
    tokens._keys._tried_at -= key_sets.PAUSE_SECONDS
    await tokens.keep_keys()
    assert isinstance(tokens.verify(token), VerifiedToken)


@pytest.mark.parametrize("path", ["", "/tenant"])
async def test_metadata_are_looked_for_where_mcp_says(path):
    with running_issuer(path) as issuer:
        keys = await KeyFetcher(issuer.url).fetch()
        assert [each["kid"] for each in keys] == ["k1"]
        origin = issuer.url.removesuffix(path)
        wanted = [f"{origin}/.well-known/oauth-authorization-server{path}"]
        wanted += [f"{origin}/.well-known/openid-configuration{path}"]
        wanted += [f"{issuer.url}/.well-known/openid-configuration"] if path else []
        assert list(metadata_urls(issuer.url)) == list(metadata_urls(issuer.url + "/")) == wanted
        # Each of them is enough, and the keys themselves are.
        for url in wanted:
            issuer.requests.clear()
            first = wanted[0].removeprefix(origin)
            issuer.replies = {first: (404, {}, b"")} if url != wanted[0] else {}
            body = json.dumps({"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}).encode()
            issuer.replies[url.removeprefix(origin)] = (200, {}, body)
            assert await KeyFetcher(issuer.url).fetch()
            assert issuer.requests[-2:] == [url.removeprefix(origin), f"{path}/keys"]
        issuer.requests.clear()
        assert await KeyFetcher(issuer.url, f"{issuer.url}/keys").fetch()
        assert issuer.requests == [f"{path}/keys"]


META = "/.well-known/oauth-authorization-server"


@pytest.mark.parametrize(
    ("path", "reply", "told"),
    [
        (META, (200, {}, b'{"issuer": "https://evil.example"}'), "is of another issuer"),
        (META, (200, {}, b"[]"), "no JSON object"),
        (META, (200, {}, b"<html>"), "is not JSON"),
        (META, (200, {}, b"[" * 100_000), "is not JSON"),
        (META, (302, {"Location": "http://127.0.0.1:9/"}, b""), "status 302"),
        (META, (404, {}, b""), "has no metadata; set http.oauth_jwks_url"),
        ("/keys", (404, {}, b""), "there are no keys"),
        ("/keys", (503, {}, b""), "status 503"),
        ("/keys", (200, {}, b'{"keys": 7}'), "no JSON Web Key Set"),
        ("/keys", (200, {}, b" " * (key_fetching.MAX_BYTES + 1)), "longer than"),
        ("/keys", (200, {"Content-Encoding": "gzip"}, b"{}"), "is encoded"),
        ("/keys", (200, {"Content-Length": "1000"}, b"{"), "not correct HTTP"),
        ("/keys", (200, {"Content-Length": "x"}, b"{"), "not correct HTTP"),
        ("/keys", (200, {"X": "x" * 60_000}, b"{}"), "not correct HTTP"),
    ],
)
async def test_what_cannot_be_used_is_refused_with_its_address(issuer, path, reply, told):
    issuer.replies[path] = reply
    with pytest.raises(KeysUnavailableError, match=told) as missing:
        await KeyFetcher(issuer.url).fetch()
    assert "127.0.0.1" in missing.value.why


@pytest.mark.parametrize(
    "url", ["http://keys.example/", "file:///etc/passwd", "ftp://127.0.0.1/", "//x", 7, "http://[", ""]
)
async def test_keys_come_over_https_or_from_loopback_only(issuer, url):
    issuer.replies[META] = (200, {}, json.dumps({"issuer": issuer.url, "jwks_uri": url}).encode())
    with pytest.raises(KeysUnavailableError, match="names no https: URL"):
        await KeyFetcher(issuer.url).fetch()
    assert issuer.count() == 0


@pytest.mark.parametrize("host", ["foo..bar", ".x.example", f"{'a' * 70}.example"])
async def test_a_host_that_no_name_can_be_is_an_issuer_that_cannot_be_reached(issuer, host):
    with pytest.raises(KeysUnavailableError, match="is no name of a host"):
        await KeyFetcher(f"https://{host}").fetch()
    # Also where the metadata name it.
    document = {"issuer": issuer.url, "jwks_uri": f"https://{host}/keys"}
    issuer.replies[META] = (200, {}, json.dumps(document).encode())
    with pytest.raises(KeysUnavailableError, match="is no name of a host"):
        await verified(tokens_of(issuer), issuer.token())


async def test_a_slow_issuer_is_given_up(issuer, monkeypatch):
    monkeypatch.setattr(key_fetching, "FETCH_SECONDS", 0.2)
    issuer.may_answer.clear()
    with pytest.raises(KeysUnavailableError, match="took longer than"):
        await KeyFetcher(issuer.url).fetch()


async def test_an_issuer_that_does_not_listen_is_named_with_what_may_be_the_reason():
    with pytest.raises(KeysUnavailableError, match="IPAddressAllow"):
        await KeyFetcher("http://127.0.0.1:9").fetch()


async def test_keys_are_fetched_over_tls_from_whom_the_certificate_says(tmp_path):
    authority = Authority(tmp_path)
    for name, is_right in (("127.0.0.1", True), ("localhost", False)):
        with running_issuer("", authority.issue(name, name)) as issuer:
            if is_right:
                tokens = tokens_of(issuer, ca_file=authority.certificate)
                assert (await verified(tokens, issuer.token())).proved == "oauth:ann"
            with pytest.raises(KeysUnavailableError, match="its certificate: "):
                await KeyFetcher(issuer.url, ca_file=None if is_right else authority.certificate).fetch()
