"""The commands that need settings, and what the command line says when it is used wrongly."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib

import pytest

import redstreamd as package
from redstreamd.cli import main
from redstreamd.settings.definitions import DEFINITIONS


async def test_the_version_is_printed(finished):
    done = await finished("--version")
    assert (done.returncode, done.stdout.decode()) == (0, f"redstreamd {package.__version__}\n")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["sevre"],
        ["connect", "--sock", "/x"],
        ["connect", "more"],
        ["call"],
        ["serve", "--set"],
        ["check-config", "--confi", "x"],
    ],
)
async def test_wrong_usage_is_told_apart_by_its_status(finished, words):
    done = await finished(*words)
    assert done.returncode == 64
    assert done.stderr.decode().startswith("usage: redstreamd")


async def test_an_unknown_option_of_a_command_shows_that_commands_usage(finished):
    done = await finished("call", "stream_list", "--sockt")
    assert done.stderr.decode() == (
        "usage: redstreamd call [-h] [--socket PATH] [--token-file FILE]\n"
        "                       [--ca-file FILE] [--certificate-file FILE]\n"
        "                       [--key-file FILE] [--server-name NAME]\n"
        "                       TOOL [JSON]\n"
        "redstreamd call: unrecognized arguments: --sockt\n"
        "redstreamd call --help says more\n"
    )


@pytest.mark.parametrize(
    "word",
    [
        "--embedded=hunter2",
        "--embedded=redis://:hunter2@h",
        "--embedded=it's hunter2",
        "--listen=redis://:hunter2@h",
        "--password=hunter2",
        "-phunter2",
        "-hhunter2",
        "hunter2",
    ],
)
def test_wrong_usage_shows_no_value(capsys, word):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--set", "a", word, "--wrong"])
    assert ended.value.code == 64
    assert "hunter2" not in capsys.readouterr().err


async def test_check_config_prints_a_file_with_the_source_of_each_value(finished, environ, tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("[limits]\nmax_waits = 7\n[redis]\npassword = 'hunter2'\n")
    environ["REDIS_URL"] = "redis://user:hunter3@h:7000"
    done = await finished(
        "check-config",
        *("--config", str(file), "--set", "streams.naming=off", "--set", "redis.password=hunter4"),
        *("--listen", "unix:/run/a.sock", "--listen", "tcp:[::1]:5", "--embedded"),
    )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert "hunter" not in text
    shown = tomllib.loads(text)
    assert shown["limits"]["max_waits"] == 7
    assert shown["redis"] == {
        **shown["redis"],
        "url": "redis://user:***@h:7000",
        "host": "h",
        "password": "***",
    }
    assert shown["daemon"]["listen"] == ["unix:/run/a.sock", "tcp:[::1]:5"]
    assert shown["daemon"]["embedded"] is True
    *given, unix, tcp = text.splitlines()
    assert unix.startswith("# unix:/run/a.sock demands")
    assert tcp == "# tcp:[::1]:5 demands nothing; one principal"
    lines = {line.removeprefix("# ").partition(" = ")[0]: line for line in given}
    assert list(lines) == list(DEFINITIONS)
    for key, source in {
        "limits.max_waits": f"file {file}",
        "redis.host": "environment variable REDIS_URL",
        "streams.naming": "command line (--set streams.naming)",
        "redis.password": "command line (--set redis.password)",
        "daemon.listen": "command line (--listen)",
        "tools.profile": "default",
        "redis.path": "default",
    }.items():
        assert lines[key].endswith(f" # {source}"), lines[key]


@pytest.mark.parametrize("command_name", ["check-config", "serve", "stdio"])
async def test_a_wrong_setting_is_one_line_and_status_78(finished, environ, command_name):
    environ["REDIS_PORT"] = "tcp://10.0.0.1:6379"
    done = await finished(command_name)
    assert (done.returncode, done.stdout) == (78, b"")
    message = done.stderr.decode()
    assert message.count("\n") == 1
    assert message.startswith("redstreamd: ")
    for part in ("redis.port", "tcp://10.0.0.1:6379", "REDIS_PORT", "from 1 to 65535", "Kubernetes"):
        assert part in message


@pytest.mark.parametrize(
    "words", [["--set", "redis.prot=1"], ["--set", "daemon.state_directory=/proc/nowhere"]]
)
async def test_the_client_of_stdio_is_told_of_wrong_settings_in_answer_to_its_handshake(finished, words):
    request = {"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": {}}
    done = await finished("stdio", *words, stdin=json.dumps(request).encode() + b"\n")
    assert done.returncode == 78
    answer = json.loads(done.stdout)
    assert answer["id"] == 7
    reason = done.stderr.decode().strip().removeprefix("redstreamd: ")
    assert answer["error"]["message"] == f"redstreamd cannot start: {reason}"


@pytest.mark.parametrize("words", [["serve"], ["serve", "--embedded"], ["stdio", "--embedded"]])
async def test_a_state_directory_that_cannot_be_used_is_told_with_the_systems_reason(finished, words):
    done = await finished(*words, "--set", "daemon.state_directory=/proc/nowhere")
    assert done.returncode == 78
    assert done.stderr.decode() == (
        "redstreamd: setting daemon.state_directory cannot be used: /proc/nowhere: No such file or "
        "directory; allowed: a directory that redstreamd may create files in\n"
    )


@pytest.mark.parametrize("name", ["serve", "stdio"])
@pytest.mark.parametrize("wrong", ["tools.profile=wrker", "daemon.state_directory=/proc/nowhere"])
def test_what_is_wrong_is_found_out_before_the_heavy_imports(command, environ, name, wrong):
    """They take a second of a core, and a service that cannot start is started again with each client."""
    code = (
        "import sys\n"
        "from redstreamd.cli import main\n"
        f"status = main([{name!r}, '--set', {wrong!r}])\n"
        "print(status, *{'trio', 'mcp', 'redis'}.intersection(sys.modules))"
    )
    words = [command[0], "-c", code]
    done = subprocess.run(
        words, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.stdout == "78\n"


async def test_a_setting_with_line_breaks_stays_one_line(finished, tmp_path):
    file = tmp_path / "my.toml"
    file.write_text('[redis]\n"a\\n\\u001b[2J" = 1\n')
    done = await finished("check-config", "--config", str(file))
    assert done.returncode == 78
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr


DAEMON = """
import sys, types
daemon = types.ModuleType("redstreamd.daemon.daemon")
def act(name):
    def run(loaded, **told):
        print(name, loaded.settings.limits.max_waits, loaded.settings.daemon.embedded)
        return 42
    return run
daemon.serve, daemon.stdio = act("serve"), act("stdio")
import redstreamd.daemon
redstreamd.daemon.daemon = sys.modules["redstreamd.daemon.daemon"] = daemon
from redstreamd.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("name", ["serve", "stdio"])
def test_the_daemon_gets_the_settings_and_decides_the_status(command, environ, name):
    """What the daemon does with them is tested where it lives; here it is replaced."""
    words = [command[0], "-c", DAEMON, name, "--set", "limits.max_waits=9", "--embedded"]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (42, f"{name} 9 True\n", "")


def test_a_closed_standard_output_is_no_traceback(command, environ):
    closed = ["sh", "-c", '"$@" >&-', "sh", *command, "check-config"]
    done = subprocess.run(closed, env=environ, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


async def test_output_that_nobody_reads_is_no_traceback(redstreamd):
    reading, writing = os.pipe()
    os.close(reading)
    process = await redstreamd("check-config", stdout=writing)
    os.close(writing)
    assert await process.wait() == 1
    assert await process.stderr.receive_some() == b""
