"""The settings of HTTP listeners: what they may be, and what is demanded of them together."""

from __future__ import annotations

import re

import attrs
import pytest

from redstreamd.settings import HttpSettings, Settings
from redstreamd.streamable_http.http_limits import HttpLimits

OAUTH = ["http.oauth_issuer=https://login.example.org", "http.resource_url=https://mcp.example.org/mcp"]


def test_the_limits_have_the_names_and_defaults_of_the_transport():
    settings = HttpSettings()
    for each in attrs.fields(HttpLimits):
        assert getattr(settings, each.name) == each.default, each.name


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("allowed_hosts", "mcp.example.org,mcp.example.org:8443,192.0.2.1,[2001:db8::1]:443"),
        ("allowed_origins", "https://app.example.org,http://localhost:3000,vscode-webview://abc"),
        ("oauth_jwks_url", "https://login.example.org/keys"),
        ("oauth_jwks_url", "http://127.0.0.1:8000/keys"),
        ("resource_url", "https://[2001:db8::1]:8443/a/mcp"),
        ("path", "/a/mcp-1"),
    ],
)
def test_names_and_urls_are_taken(load_from, key, text):
    value = load_from(assignments=[*OAUTH, f"http.{key}={text}"]).value(f"http.{key}")
    assert value == (tuple(text.split(",")) if isinstance(value, tuple) else text)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("allowed_hosts", each) for each in ("a b", "https://a", "a/b", "::1", "*", "a:x")),
        *(
            ("allowed_origins", each)
            for each in ("a.example", "https://a/", "https://a/b", "*", "https://u@a", "null")
        ),
        *(
            ("resource_url", each)
            for each in ("http://a", "https://u:p@a", "https://a?b", "https://a#b", "a")
        ),
        *(
            ("path", each)
            for each in ("mcp", "/", "/mcp/", "/a//b", "/a?b", "/healthz", "/readyz", "/metrics")
        ),
        *(("path", each) for each in ("/.well-known", "/.well-known/x")),
    ],
)
def test_what_is_no_name_or_url_is_refused(refusal, key, text):
    assert refusal(assignments=[f"http.{key}={text}"]).key == f"http.{key}"


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ("http.oauth_issuer=https://login.example.org", "http.resource_url"),
        ("http.oauth_audience=us", "http.oauth_issuer"),
        ("http.oauth_jwks_url=https://login.example.org/keys", "http.oauth_issuer"),
    ],
)
def test_a_setting_that_means_nothing_without_another_is_refused(refusal, given, needed):
    error = refusal(assignments=[given])
    assert error.key == given.partition("=")[0]
    assert needed in error.allowed


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "[::ffff:192.0.2.1]"])
def test_beyond_loopback_http_clients_must_have_a_credential(load_from, refusal, host):
    listen = [f"http:{host}:8080"]
    tls = ["listeners.certificate_file=/c"]
    for without in ([], tls, ["listeners.token_file=/t"]):
        error = refusal(assignments=without, listen=listen)
        assert error.key == "daemon.listen"
        assert "http.token_file" in error.allowed
        assert "listeners.client_ca_file" in error.allowed
    for credential in (
        ["http.token_file=/t"],
        OAUTH,
        [*tls, "listeners.client_ca_file=/ca"],
        ["listeners.allow_unprotected_tcp=true"],
    ):
        assert load_from(assignments=credential, listen=listen).settings.daemon.listen


@pytest.mark.parametrize("text", ["http:127.0.0.1:80", "http:[::1]:80", "http:/run/http.sock"])
def test_on_this_host_they_need_none(load_from, text):
    assert str(load_from(listen=[text]).settings.daemon.listen[0]) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("http://127.0.0.1:80/mcp", "http.path"),
        ("https://127.0.0.1:80", "listeners.certificate_file"),
        ("http:relative/x.sock", "http:PATH"),
    ],
)
def test_an_address_that_looks_like_a_url_is_refused_with_what_to_write(refusal, text, hint):
    assert hint in refusal(listen=[text]).allowed


def _patterns(sections):
    for section in attrs.fields(sections):
        for each in attrs.fields(section.type) if attrs.has(section.type) else ():
            for _, text in re.findall(r"""pattern=(['"])(.*?)\1""", repr(each.type)):
                yield f"{section.name}.{each.name}", text


def test_no_pattern_of_a_setting_takes_a_newline_at_the_end():
    patterns = dict(_patterns(attrs.resolve_types(Settings)))
    assert {"http.path", "http.resource_url", "http.allowed_hosts", "redis.username"} <= patterns.keys()
    assert [name for name, pattern in patterns.items() if not pattern.endswith(r"\\Z")] == []
