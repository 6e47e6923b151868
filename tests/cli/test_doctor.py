"""``redstreamd doctor`` as it is used: text for people, JSON for programs, the status for scripts."""

from __future__ import annotations

import json
import subprocess

import pytest

from redstreamd.doctor import Severity
from tests.cli.test_whole import ready
from tests.doctor.conftest import CHECKS
from tests.support.servers import start_redis


@pytest.mark.limit(60)
async def test_all_is_well_with_a_daemon_and_a_redis_that_keeps_its_data(
    finished, redstreamd, environ, place, tmp_path
):
    with start_redis("--appendonly", "yes") as server:
        environ |= {"REDIS_URL": f"unix://{server.path}", "STATE_DIRECTORY": str(tmp_path)}
        daemon = await redstreamd("serve", "--listen", f"unix:{place}", stderr=subprocess.STDOUT)
        await ready(daemon)
        text = await finished("doctor", "--listen", f"unix:{place}")
        as_json = await finished("doctor", "--json", "--listen", f"unix:{place}")
        daemon.terminate()
        await daemon.wait()
    assert (text.returncode, text.stderr) == (0, b"")
    assert "WARN" not in text.stdout.decode()
    assert f"a daemon answers at {place}" in text.stdout.decode()
    checks = json.loads(as_json.stdout)
    assert as_json.returncode == 0
    assert [check["check"] for check in checks] == CHECKS
    for check in checks:
        assert list(check) == ["check", "severity", "tried", "seen", "todo"]
        assert all(isinstance(value, str) for value in check.values())
        assert check["severity"] in list(Severity)
        assert check["tried"]
        assert check["seen"]


async def test_warnings_are_status_1_and_each_says_what_to_do(finished, environ, redis):
    environ["REDIS_URL"] = f"unix://{redis.path}"
    text = await finished("doctor")
    as_json = await finished("doctor", "--json")
    assert text.returncode == as_json.returncode == 1
    bad = [check for check in json.loads(as_json.stdout) if check["severity"] == "warning"]
    assert {check["check"] for check in bad} == {"persistence", "socket"}
    for check in bad:
        assert check["todo"] in text.stdout.decode()
        assert check["tried"] in text.stdout.decode()


async def test_an_error_is_status_2_and_no_secret_is_printed(finished, environ):
    with start_redis("--requirepass", "hunter2") as server:
        environ |= {"REDIS_URL": f"unix://:hunter3@{server.path}"}
        text = await finished("doctor")
        as_json = await finished("doctor", "--json")
    assert text.returncode == as_json.returncode == 2
    checks = {check["check"]: check for check in json.loads(as_json.stdout)}
    assert checks["login"]["severity"] == "error"
    assert checks["permissions"]["severity"] == "skipped"
    for output in (text, as_json):
        assert b"hunter" not in output.stdout + output.stderr


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("REDIS_PORT", "none", "redis.port"),
        # Known only once it is looked for.
        ("REDIS_PASSWORD_FILE", "redis-password", "redis.password_file"),
    ],
)
async def test_settings_that_are_not_valid_are_status_78_and_the_only_check(
    finished, environ, variable, value, key
):
    environ[variable] = value
    text = await finished("doctor")
    as_json = await finished("doctor", "--json")
    assert text.returncode == as_json.returncode == 78
    (check,) = json.loads(as_json.stdout)
    assert (check["check"], check["severity"]) == ("settings", "error")
    assert key in check["seen"]
    assert check["todo"] in text.stdout.decode()
    # As long as they are not valid, it does not show them.
    assert "shows each value" not in check["todo"]


async def test_the_embedded_server_is_examined_through_its_socket(finished, environ, tmp_path):
    environ["STATE_DIRECTORY"] = str(tmp_path)
    done = await finished("doctor", "--embedded", "--json")
    checks = {check["check"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 2
    assert str(tmp_path / "embedded") in checks["connect"]["tried"]
    # No `unixsocket` of Redis has to be set.
    assert "redstreamd serve --embedded" in checks["connect"]["todo"]
    # Looking does not make it.
    assert not (tmp_path / "embedded").exists()
