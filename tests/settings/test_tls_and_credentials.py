"""TLS and the places a password can come from: what wins, and what is a contradiction."""

from __future__ import annotations

from pathlib import Path

import pytest

from redstreamd.errors import SettingsError
from redstreamd.redisio.configured_target import target_for
from redstreamd.redisio.credentials import PasswordFile
from redstreamd.redisio.tls import Tls
from redstreamd.settings import RedisSettings

CA = "[redis]\ntls = true\nca_file = '/ca.pem'\n"


def test_a_rediss_url_is_tls(load_from):
    loaded = load_from(environ={"REDIS_URL": "rediss://u:p@h:6380/2"})
    redis = loaded.settings.redis
    assert (redis.tls, redis.host, redis.port, redis.database) == (True, "h", 6380, 2)
    assert str(loaded.sources["redis.tls"]) == "environment variable REDIS_URL"


def test_a_later_url_decides_about_tls_and_a_part_beside_it_more_so(load_from):
    assert load_from(CA, {"REDIS_URL": "redis://h"}).settings.redis.tls is False
    environ = {"REDIS_URL": "redis://h", "REDSTREAMD_REDIS_TLS": "true"}
    assert load_from(environ=environ).settings.redis.tls is True
    assert load_from(CA, {"REDIS_HOST": "h"}).settings.redis.tls is True


def test_a_socket_ends_tls_if_it_comes_later_and_contradicts_it_otherwise(load_from, refusal):
    loaded = load_from(CA, {"REDSTREAMD_REDIS_PATH": "/r.sock"})
    assert (loaded.settings.redis.tls, loaded.settings.redis.path) == (False, Path("/r.sock"))
    error = refusal("[redis]\npath = '/r.sock'\ntls = true")
    assert error.key == "redis.tls"
    assert "/r.sock is a Unix socket" in error.allowed


@pytest.mark.parametrize("key", ["ca_file", "certificate_file", "key_file", "server_name"])
def test_what_only_tls_uses_is_refused_without_it(refusal, key):
    error = refusal(f"[redis]\n{key} = '{'x' if key == 'server_name' else '/x'}'")
    assert error.key == f"redis.{key}"
    assert "nothing is encrypted" in error.allowed


def test_a_key_without_a_certificate_is_refused(refusal):
    assert refusal("[redis]\ntls = true\nkey_file = '/k'").key == "redis.key_file"


def test_the_name_to_verify_belongs_to_the_address(load_from):
    toml = "[redis]\ntls = true\nserver_name = 'old'\n"
    assert load_from(toml, {"REDIS_URL": "rediss://new"}).settings.redis.server_name is None
    assert load_from(CA, {"REDIS_URL": "rediss://new"}).settings.redis.ca_file == Path("/ca.pem")


@pytest.mark.parametrize("version", ["1.1", "1.0", "TLSv1.2"])
def test_versions_that_are_no_longer_safe_are_refused(refusal, version):
    assert refusal(assignments=[f"redis.tls_min_version={version}"]).key == "redis.tls_min_version"


def test_of_password_and_password_file_the_later_decides(load_from, refusal):
    def words(loaded):
        return (loaded.settings.redis.password, loaded.settings.redis.password_file)

    file = Path("/p")
    assert words(load_from("[redis]\npassword = 'p'", {"REDIS_PASSWORD_FILE": "/p"})) == (None, file)
    assert words(load_from("[redis]\npassword_file = '/p'", {"REDIS_PASSWORD": "p"})) == ("p", None)
    environ = {"REDIS_URL": "redis://:in-url@h", "REDIS_PASSWORD_FILE": "/p"}
    assert words(load_from(environ=environ)) == (None, file)
    # Another server is not given a password that was meant for the first.
    assert words(load_from("[redis]\npassword_file = '/p'", {"REDIS_URL": "redis://h"})) == (None, None)
    error = refusal("[redis]\npassword = 'hunter2'\npassword_file = '/p'")
    assert error.key == "redis.password_file"
    assert "hunter2" not in str(error)


def test_the_path_of_a_password_file_may_be_shown(load_from):
    assert load_from(environ={"REDIS_PASSWORD_FILE": "/p"}).shown("redis.password_file") == "/p"


@pytest.mark.parametrize("value", ["a/b", "./a", "..", "."])
def test_a_relative_path_is_neither_a_file_nor_a_credential(refusal, value):
    error = refusal(environ={"REDIS_PASSWORD_FILE": value})
    assert error.key == "redis.password_file"
    assert "an absolute path, or the name of a credential" in error.allowed


def test_names_are_found_among_the_credentials_of_the_service(load_from):
    environ = {
        "REDIS_PASSWORD_FILE": "redis-password",
        "REDIS_USERNAME": "agent",
        "REDSTREAMD_REDIS_CERTIFICATE_FILE": "redis-cert",
        "REDSTREAMD_REDIS_KEY_FILE": "/k.pem",
    }
    redis = load_from(CA, environ).settings.redis
    target = target_for(redis, environ={"CREDENTIALS_DIRECTORY": "/run/credentials/r"})
    assert isinstance(target.credentials, PasswordFile)
    assert target.credentials.path == "/run/credentials/r/redis-password"
    assert target.tls == Tls(
        ca_file="/ca.pem", certificate_file="/run/credentials/r/redis-cert", key_file="/k.pem"
    )


def test_a_name_without_credentials_says_what_systemd_would_need():
    with pytest.raises(SettingsError) as raised:
        target_for(RedisSettings(tls=True, ca_file=Path("redis-ca")), environ={})
    assert raised.value.key == "redis.ca_file"
    assert "LoadCredential=redis-ca:FILE" in raised.value.allowed
    assert "redis.ca_file='redis-ca' cannot be used" in str(raised.value)


def test_a_password_where_its_file_is_asked_for_is_not_shown():
    with pytest.raises(SettingsError) as raised:
        target_for(RedisSettings(password_file=Path("hunter2")), environ={"CREDENTIALS_DIRECTORY": ""})
    assert "hunter2" not in str(raised.value)
    assert "a password itself is redis.password" in str(raised.value)


def test_plain_settings_are_a_plain_target():
    target = target_for(RedisSettings(password="p", username="u"), environ={})
    assert (target.tls, target.credentials, target.username, target.password) == (None, None, "u", "p")
