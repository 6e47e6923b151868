"""The file of bearer tokens: what it holds, what is refused, and how a change takes effect."""

from __future__ import annotations

import json
import os
import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from redstreamd.errors import SettingsError
from redstreamd.policy import Permission
from redstreamd.protection.bearer_tokens import BearerTokens
from redstreamd.protection.token_records import TokenList, read_tokens
from redstreamd.protection.verified_tokens import WrongTokenError

PAST, LATER = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))


def write(path: Path, tokens: TokenList) -> None:
    """Write a file whole, as `redstreamd tokens` does: readers see the old or the new one."""
    new = path.with_suffix(".new")
    new.write_bytes(tokens.text())
    new.chmod(0o600)
    new.rename(path)


def made(path: Path, name: str = "ann", expires=None, scopes=None) -> str:
    tokens, token = (read_tokens(str(path)) if path.exists() else TokenList.empty()).with_new(
        name, expires=expires, scopes=scopes
    )
    write(path, tokens)
    return token


def why(tokens: BearerTokens, token: str) -> str:
    with pytest.raises(WrongTokenError) as wrong:
        tokens.verify(token)
    assert token not in repr(wrong.value) or not token
    return wrong.value.why


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def test_a_token_is_verified_and_says_who_it_is_and_what_for(path):
    everything = made(path)
    reading = made(path, "ben", expires=LATER, scopes=[Permission.READ])
    tokens = BearerTokens(str(path))
    assert everything.startswith("rsd_")
    verified = tokens.verify(everything)
    assert (verified.proved, verified.permissions, verified.expires_at) == ("token:ann", None, float("inf"))
    verified = tokens.verify(reading)
    assert (verified.proved, verified.permissions) == ("token:ben", {Permission.READ})
    assert verified.expires_at == LATER.timestamp()


def test_what_is_no_valid_token_is_refused_by_a_reason_without_it(path):
    token = made(path)
    expired = made(path, expires=PAST)
    tokens = BearerTokens(str(path))
    prefix, token_id, secret = token.split("_", 2)
    assert why(tokens, expired) == "it has expired"
    wrong_secret = secret[:-1] + ("A" if secret[-1] != "A" else "E")
    assert why(tokens, f"{prefix}_{token_id}_{wrong_secret}") == "it is wrong"
    other_id = "00000000" if token_id != "00000000" else "11111111"
    assert why(tokens, f"{prefix}_{other_id}_{secret}") == "it is unknown, or was revoked"
    for malformed in (
        "",
        "rsd_",
        "x",
        token + "x",
        token[:-1],
        f" {token}",
        f"{token}\n",
        "\ud800",
        "é" * 47,
    ):
        assert why(tokens, malformed) == "it is not one of this daemon's tokens"


def test_the_file_holds_neither_tokens_nor_what_they_can_be_found_by(path):
    tokens = [made(path, f"name{number}") for number in range(3)]
    content = path.read_text()
    for token in tokens:
        assert token not in content
        assert token.split("_", 2)[2] not in content
    listed = read_tokens(str(path))
    shown = repr(listed) + repr(BearerTokens(str(path))) + repr(listed.tokens[0])
    assert listed.key not in shown
    assert listed.tokens[0].hash not in shown
    # The hash is keyed: with another key it says nothing.
    other = TokenList(TokenList.empty().key, listed.tokens)
    write(path, other)
    assert why(BearerTokens(str(path)), tokens[0]) == "it is wrong"


def test_a_changed_file_is_read_again_and_a_wrong_one_leaves_the_former_tokens(path):
    first = made(path)
    tokens = BearerTokens(str(path))
    verified = tokens.verify(first)
    assert not tokens.renew()
    second = made(path, "ben")
    assert tokens.renew()
    assert tokens.verify(second).proved == "token:ben"
    assert tokens.has(verified.record)
    path.with_suffix(".x").write_text("{")
    path.with_suffix(".x").chmod(0o600)
    path.with_suffix(".x").rename(path)
    with pytest.raises(SettingsError, match="it is not JSON"):
        tokens.renew()
    assert not tokens.renew()  # it is told once
    assert tokens.verify(first).proved == "token:ann"
    path.unlink()
    with pytest.raises(SettingsError, match="no such file"):
        tokens.renew()
    assert tokens.has(verified.record)


def test_a_change_that_cannot_be_read_now_is_read_once_it_can(path):
    """Without a descriptor, say: clients can bring that about, and a revocation must not be lost by it."""
    token = made(path)
    tokens = BearerTokens(str(path))
    verified = tokens.verify(token)
    write(path, read_tokens(str(path)).without("ann"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        with pytest.raises(SettingsError, match="Too many open files"):
            tokens.renew()
        assert not tokens.renew()  # it is told once
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert tokens.has(verified.record)
    assert tokens.renew()
    assert not tokens.has(verified.record)
    assert not tokens.renew()


def test_a_revoked_token_is_unknown_and_others_of_its_name_are_not(path):
    first, second = made(path), made(path)
    tokens = BearerTokens(str(path))
    verified = tokens.verify(first)
    listed = read_tokens(str(path))
    write(path, listed.without("ann", listed.tokens[0].id))
    assert tokens.renew()
    assert why(tokens, first) == "it is unknown, or was revoked"
    assert not tokens.has(verified.record)
    assert tokens.verify(second).proved == "token:ann"
    write(path, listed.without("ann"))
    assert tokens.renew()
    assert why(tokens, second) == "it is unknown, or was revoked"


def test_a_token_whose_record_was_changed_is_verified_anew(path):
    token = made(path)
    tokens = BearerTokens(str(path))
    verified = tokens.verify(token)
    document = json.loads(path.read_bytes())
    document["tokens"][0]["scopes"] = ["read"]
    path.write_text(json.dumps(document))
    assert tokens.renew()
    assert not tokens.has(verified.record)
    assert tokens.verify(token).permissions == {Permission.READ}


@pytest.mark.parametrize(
    ("mode", "is_private"), [(0o600, True), (0o640, True), (0o644, False), (0o602, False)]
)
def test_a_file_that_others_may_read_is_refused_until_that_is_corrected(path, mode, is_private):
    token = made(path)
    path.chmod(mode)
    if is_private:
        assert BearerTokens(str(path)).verify(token)
        return
    with pytest.raises(SettingsError, match=f"mode {mode:04o}.*chmod o="):
        BearerTokens(str(path))
    path.chmod(0o600)
    tokens = BearerTokens(str(path))
    path.chmod(mode)
    with pytest.raises(SettingsError, match="chmod o="):
        tokens.renew()
    path.chmod(0o600)
    # It is the file that was read.
    assert not tokens.renew()
    path.chmod(mode)
    with pytest.raises(SettingsError, match="chmod o="):
        tokens.renew()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda document: document.update(key="c2hvcnQ="), "its key is not 32 bytes"),
        (lambda document: document.update(key="*"), "its key is not 32 bytes"),
        (lambda document: document.pop("key"), "missing required field `key`"),
        (lambda document: document.update(more=1), "unknown field `more`"),
        (lambda document: document["tokens"][0].update(name="a b"), "the name of token 1 is not valid"),
        (lambda document: document["tokens"][0].update(hash="x"), "the ID or hash of token 1 .ann."),
        (lambda document: document["tokens"][0].update(id="x"), "the ID or hash of token 1 .ann."),
        (lambda document: document["tokens"][0].update(expires="2026-01-01T00:00:00"), "timezone"),
        (lambda document: document["tokens"][0].update(scopes=["admin"]), "Invalid enum value"),
        (
            lambda document: document["tokens"].append(document["tokens"][0]),
            "token 2 .ann. has the ID of another",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told_without_what_is_secret_in_it(path, change, told):
    made(path)
    document = json.loads(path.read_bytes())
    secrets = document["key"], document["tokens"][0]["hash"]
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(SettingsError, match=told) as wrong:
        BearerTokens(str(path))
    assert str(path) in str(wrong.value)
    assert not any(secret in str(wrong.value) for secret in secrets)


def test_a_file_of_bare_tokens_or_garbage_is_refused_without_showing_it(path):
    token = made(path)
    for content in (token.encode(), b"\xff\xfe", b"", b"[" * 10_000, b" " * (4 * 1024 * 1024 + 1)):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(SettingsError) as wrong:
            BearerTokens(str(path))
        assert token not in str(wrong.value)
        assert len(str(wrong.value)) < 500


def test_what_is_missing_is_said_with_what_makes_it(path, tmp_path):
    with pytest.raises(SettingsError, match="redstreamd tokens new NAME"):
        BearerTokens(str(path))
    if os.geteuid() != 0:
        made(path)
        path.chmod(0)
        with pytest.raises(SettingsError, match="Permission denied"):
            BearerTokens(str(path))
    with pytest.raises(SettingsError, match="Is a directory"):
        BearerTokens(str(tmp_path))
