"""Values where people see them: masked secrets, and the reference of all settings."""

from __future__ import annotations

import tomllib

import attrs
import pytest

from redstreamd.addresses.address_syntax import MASK
from redstreamd.settings import RedisSettings, Settings, as_markdown, as_toml, describe, load
from redstreamd.settings.definitions import DEFINITIONS
from redstreamd.settings.masking import masked_url


def test_no_representation_holds_the_password(load_from):
    loaded = load_from(environ={"REDIS_URL": "redis://user:hunter2@h", "REDIS_PASSWORD": "hunter3"})
    assert loaded.settings.redis.password == "hunter3"
    shown = [repr(loaded), str(loaded.settings), *(str(loaded.shown(key)) for key in loaded.sources)]
    assert not any("hunter" in text for text in shown)
    assert loaded.shown("redis.password") == "***"
    assert loaded.shown("redis.url") == "redis://user:***@h"
    assert "hunter" not in repr(RedisSettings(url="redis://:hunter2@h", password="hunter2"))


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://user@h", "redis://user@h"),
        ("redis://user:secret@h:1/0?db=2", "redis://user:***@h:1/0?db=2"),
        ("unix://:secret@/run/r.sock", "unix://:***@/run/r.sock"),
        ("redis://u:se/cret@h", "redis://***"),
        ("redis://u:se@cret@h", "redis://***"),
        ("redis://h?password=secret", "redis://***"),
        ("secret", "***"),
    ],
)
def test_a_url_is_shown_without_its_password(url, masked):
    assert masked_url(url) == masked


def test_the_reference_has_every_setting_with_range_default_meaning_and_variable():
    described = {setting.key: setting for setting in describe()}
    assert list(described) == list(DEFINITIONS)
    for key, setting in described.items():
        assert setting.allowed, key
        assert setting.meaning.endswith("."), key
        assert setting.environment[-1] == "REDSTREAMD_" + key.replace(".", "_").upper()
        leaf = DEFINITIONS[key]
        if leaf.kind in (int, float):
            assert leaf.meta.ge is not None, key
            assert leaf.meta.le is not None, key
    secrets = [key for key, setting in described.items() if setting.secret]
    assert secrets == ["redis.password", "redis.sentinel_password"]


def test_the_documented_defaults_are_a_valid_file_and_the_real_defaults(tmp_path):
    lines = []
    for setting in describe():
        group, _, key = setting.key.partition(".")
        if setting.default.startswith(("(not set)", "$")):
            continue
        lines.append(f"{group}.{key} = {setting.default}")
    # A host and a port in one source are no contradiction unless a socket is named too.
    file = tmp_path / "redstreamd.toml"
    file.write_text("\n".join(lines))
    assert tomllib.loads(file.read_text())["redis"]["port"] == 6379
    loaded = load(config=file, environ={"HOME": "/h"})
    assert attrs.evolve(loaded.settings, daemon=Settings().daemon) == Settings()


def test_the_reference_can_be_rendered():
    text = as_markdown()
    for key in DEFINITIONS:
        assert f"### {key.partition('.')[2]}\n" in text
    assert "REDIS_DB" in text


def test_control_characters_survive_in_toml():
    for text in ('"\\', "\x00\x1f\x7f\x85\u2028", "é"):
        assert tomllib.loads(f"x = {as_toml(text)}") == {"x": text}


@pytest.mark.parametrize("key", [key for key in DEFINITIONS if DEFINITIONS[key].names_credential])
def test_a_secret_in_the_place_of_its_file_is_not_shown(load_from, key):
    server = "sentinel://h" if "sentinel" in key else "redis://h"
    others = [
        f"redis.url={server}",
        "redis.tls=true",
        "listeners.certificate_file=/c.pem",
        "redis.certificate_file=/c.pem",
    ]
    others = [each for each in others if not each.startswith(f"{key}=")]
    for secret in (
        "gH7kq2LmZp90aVbX",
        "0123456789abcdef0123456789abcdef",
        "correcthorsebatterystaple",
        "Passw0rd",
    ):
        assert load_from(assignments=[*others, f"{key}={secret}"]).shown(key) == MASK
    for name in ("listener-token", "redstreamd.token", "token2", "ca_2026", "/run/gH7kq2LmZp90aVbX"):
        assert str(load_from(assignments=[*others, f"{key}={name}"]).shown(key)) == name


def test_an_error_of_a_file_without_what_it_needs_does_not_show_a_secret(refusal):
    for key in ("listeners.key_file", "redis.key_file"):
        assert MASK in str(refusal(assignments=[f"{key}=gH7kq2LmZp90aVbX", "redis.tls=true"]))
