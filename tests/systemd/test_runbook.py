"""docs/runbook.md: every command of the page is run in its order, and shows what the page promises."""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from tests.support.counts import long
from tests.support.daemon import call
from tests.systemd.harness import PATIENCE_SECONDS, PREFIX, REPOSITORY, Container, install_units

SERVICE, SOCKET, REDIS = "redstreamd.service", "redstreamd.socket", "redis-server.service"
OPERATORS, METRICS = "redstreamd-operators.socket", "redstreamd-metrics.socket"
DROP_INS = f"/run/systemd/system/{SERVICE}.d"
STATE = "/var/lib/private/redstreamd"
STREAM = "shop:orders:paid"
ENCRYPTION = """
[encryption]
keys = "/var/lib/redstreamd/keys"
writing_key = "2026-11"
streams = ["shop:* are encrypted"]
"""
PLACE = {"stream": STREAM, "group": "shipping"}


def commands(page: str) -> dict[str, list[str]]:
    """Return the commands of a page below each of its headings: its indented lines."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in page.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif re.match(" {4,}", line):
            found.setdefault(heading, []).append(line.strip())
    return found


COMMANDS = commands((REPOSITORY / "docs" / "runbook.md").read_text("utf-8"))


@pytest.fixture(scope="module")
def host(container: Container) -> Iterator[Container]:
    """A site as the page has it: two sockets, and a Redis with a user for the daemon."""
    install_units(container)
    # The container has no sudo; whoever runs there is root.
    container.write("/usr/local/bin/sudo", '#!/bin/sh\nexec env "$@"\n', mode=0o755)
    container.path("/usr/local/bin/redstreamd").unlink(missing_ok=True)
    container.path("/usr/local/bin/redstreamd").symlink_to(f"{PREFIX}/bin/redstreamd")
    container.write(
        "/etc/redstreamd/redstreamd.toml",
        textwrap.dedent("""
            [redis]
            username = "redstreamd"
            password_file = "redis-password"
            [tools]
            profile = "operator"
            [policy]
            rules = [
                "mcp may read publish consume on shop:*",
                "operators may read publish consume manage on *",
            ]
        """),
    )
    container.write("/etc/redstreamd/redis-password", "first\n", mode=0o600)
    credential = "[Service]\nLoadCredential=redis-password:/etc/redstreamd/redis-password\n"
    container.write(f"{DROP_INS}/credential.conf", credential)
    container.write(
        f"/run/systemd/system/{OPERATORS}",
        textwrap.dedent(f"""
            [Socket]
            FileDescriptorName=operators
            ListenStream=/run/redstreamd/operators.sock
            Service={SERVICE}
            TriggerLimitIntervalSec=0
        """),
    )
    container.systemctl("daemon-reload")
    configuration = container.path("/etc/redis/redis.conf")
    original = configuration.read_text()
    configuration.write_text(f"{original}\nuser redstreamd on >first allkeys allchannels allcommands\n")
    container.systemctl("restart", REDIS)
    container.systemctl("start", SOCKET, OPERATORS, SERVICE)
    yield container
    container.systemctl("stop", SOCKET, OPERATORS, SERVICE)
    container.run("redis-cli", "FLUSHALL")
    container.systemctl("stop", REDIS)
    configuration.write_text(original)
    container.run("rm", "-rf", DROP_INS, "/etc/redstreamd", STATE, f"/run/systemd/system/{OPERATORS}")
    container.run("rm", "-f", "/usr/local/bin/sudo", "/var/lib/redis/dump.rdb")
    container.systemctl("daemon-reload")
    container.systemctl("reset-failed")


def tool(host: Container, name: str, **arguments: Any) -> dict[str, Any]:
    answer = call(str(host.path("/run/redstreamd/operators.sock")), name, arguments)
    assert not answer.get("isError"), answer
    content: dict[str, Any] = answer["structuredContent"]
    return content


def publish(host: Container, count: int = 1) -> None:
    tool(host, "stream_add", stream=STREAM, entries=[{"order": number} for number in range(count)])


def be_empty(host: Container) -> None:
    host.run("redis-cli", "FLUSHALL")


def have_entries(host: Container) -> None:
    be_empty(host)
    publish(host)
    tool(host, "group_create", **PLACE)


def have_dead_letters(host: Container) -> None:
    have_entries(host)
    tool(host, "group_manage", **PLACE, action="set_max_deliveries", max_deliveries=1, dry_run=False)
    lease = tool(host, "work_take", **PLACE, consumer="a")["lease"]
    tool(host, "work_fail", lease=lease, action="release", reason="printer jam")


def delete_dead_letters(host: Container) -> None:
    have_dead_letters(host)
    tool(host, "dead_letter_replay", **PLACE, action="delete", dry_run=False)


def stop_the_metrics(host: Container) -> None:
    host.systemctl("disable", "--now", METRICS)


def be_verbose(host: Container) -> None:
    have_entries(host)
    settings = host.path("/etc/redstreamd/redstreamd.toml")
    settings.write_text(settings.read_text() + '[daemon]\nlog_level = "debug"\n')


def it_is_verbose(host: Container) -> None:
    """Connections are logged at debug only."""
    there_are_entries(host)
    assert host.journal(SERVICE, "--priority=debug", "--lines=5").count("mcp") > 0


def have_pending(host: Container) -> None:
    have_entries(host)
    tool(host, "work_take", **PLACE, consumer="gone")


def lose_the_data(host: Container) -> None:
    assert tool(host, "stream_list")["streams"] != []
    be_empty(host)


def be_embedded(host: Container) -> None:
    serve = f"[Service]\nExecStart=\nExecStart={PREFIX}/bin/redstreamd serve --embedded\n"
    host.write(f"{DROP_INS}/embedded.conf", serve)
    host.systemctl("daemon-reload")
    host.systemctl("restart", SERVICE)
    publish(host)


def lose_the_embedded_data(host: Container) -> None:
    host.systemctl("start", OPERATORS, check=False)
    host.run("redis-cli", "-s", f"{STATE}/embedded/server.sock", "FLUSHALL")


def be_encrypted(host: Container) -> None:
    host.run("redstreamd", "keys", "new", "2026-11", "--directory", "/var/lib/redstreamd/keys")
    settings = host.path("/etc/redstreamd/redstreamd.toml")
    settings.write_text(settings.read_text() + ENCRYPTION)
    host.systemctl("reload", SERVICE)
    have_entries(host)


def both_keys_are_read_and_the_new_one_writes(host: Container) -> None:
    publish(host)
    entries = tool(host, "stream_read", stream=STREAM)["entries"]
    assert [entry["fields"] for entry in entries] == [{"order": 0}, {"order": 0}]
    raw = host.run("redis-cli", "XRANGE", STREAM, "-", "+").stdout
    assert re.findall(r"^1 (\S+) ", raw, re.MULTILINE) == ["2026-11", "2026-12"]
    settings = host.path("/etc/redstreamd/redstreamd.toml")
    settings.write_text(settings.read_text().replace(ENCRYPTION.replace("2026-11", "2026-12"), ""))
    host.systemctl("reload", SERVICE)


@attrs.frozen
class Section:
    """What the commands below a heading do.

    Attributes:
        shown: What each of them prints, as a pattern.
        prepare: What is the matter before the first.
        after: Looks at the effect.
        statuses: Exit statuses but 0 that are in order, as the page says.
    """

    shown: list[str]
    prepare: Callable[[Container], None] = have_entries
    after: Callable[[Container], None] = lambda host: None
    statuses: tuple[int, ...] = ()


def there_are_entries(host: Container) -> None:
    out = json.loads(host.run("redstreamd", "call", "stream_list").stdout)
    assert [each["stream"] for each in out["streams"]] == [STREAM]


def the_password_is_another(host: Container) -> None:
    refused = host.run("redis-cli", "--user", "redstreamd", "--pass", "first", "PING", check=False)
    assert "WRONGPASS" in refused.stdout + refused.stderr
    host.systemctl("restart", SERVICE)
    there_are_entries(host)


def nothing_is_pending(host: Container) -> None:
    (entry,) = tool(host, "work_take", **PLACE, consumer="b")["entries"]
    assert entry["fields"] == {"order": 0}


SECTIONS = {
    "Watch": Section([r"active \(running\)", "redis +localhost", "listens on", "", "listens on"]),
    "Who did that?": Section(
        ["dead_letter_replay", "REDSTREAMD_TOOL=dead_letter_replay"], delete_dead_letters
    ),
    "Metrics": Section(
        ["", "", "", rf'group_lag{{group="shipping",stream="{STREAM}"}} 1'], after=stop_the_metrics
    ),
    "Reload": Section(
        ["debug", "", "settings reloaded; changed: daemon.log_level"],
        be_verbose,
        it_is_verbose,
        statuses=(0,),
    ),
    "Upgrade and roll back": Section(["redstreamd 0", "redis +localhost"]),
    "Back up your own Redis": Section(["", ""]),
    "Restore your own Redis": Section(["", "", "", "", "", "", STREAM], lose_the_data, there_are_entries),
    "The password of Redis": Section(
        ["", "OK", "", "", "redis +localhost", "OK"], after=the_password_is_another
    ),
    "The key of the leases": Section(["", "", "600"]),
    "The keys of encryption": Section(
        [
            "made /var/lib/redstreamd/keys/2026-12.key",
            *("", ""),
            *("The ring can be used", "", r"key 2026-11 writes, of 2 keys \(2026-11, 2026-12\)"),
            *("", "", "key 2026-12 writes", r"2026-12 +yes"),
            *(r'"2026-11": 1', "2026-12 writes"),
        ],
        be_encrypted,
        both_keys_are_read_and_the_new_one_writes,
    ),
    "Dead letters": Section(
        [r'"dead_letter', "printer jam", r'"dry_run": true', r'"new_id"', r'"deleted": \[|"total": 0'],
        have_dead_letters,
        nothing_is_pending,
    ),
    "The connection": Section(
        [
            *(
                "redis +localhost",
                "active",
                "srw-rw---- redstreamd-clients",
                "redstreamd-clients",
                "active",
                "PONG",
            ),
            *("redis.host", "IPAddressDeny", "", ""),
        ],
        statuses=(0, 1),
    ),
    "Streams": Section([STREAM, "mcp", r'"order": 0', '"findings"']),
    "Consumer groups": Section(
        ["shipping", '"created": false', "shipping", '"consumer": "gone"', '"gone"|released'],
        have_pending,
        nothing_is_pending,
    ),
    "Back up the embedded server": Section(["", "", ""], be_embedded, there_are_entries),
    "Restore the embedded server": Section(
        ["", "", "", "", STREAM], lose_the_embedded_data, there_are_entries
    ),
}


def test_each_command_of_the_page_is_run() -> None:
    assert {heading: len(found) for heading, found in COMMANDS.items()} == {
        heading: len(section.shown) for heading, section in SECTIONS.items()
    }


@long  # services start and stop for a minute
@pytest.mark.parametrize("heading", SECTIONS)
def test_the_commands_do_what_the_page_says(host: Container, heading: str) -> None:
    section = SECTIONS[heading]
    section.prepare(host)
    for command, shown in zip(COMMANDS[heading], section.shown, strict=True):
        run(host, command, shown, (0, *section.statuses))
    section.after(host)


def run(host: Container, command: str, shown: str, statuses: tuple[int, ...]) -> None:
    """Run a command and look at what it prints."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        done = host.run("bash", "-c", command, check=False)
        if done.returncode in statuses and re.search(shown, done.stdout, re.MULTILINE):
            return
        seen = f"$ {command}\n{done.stdout}{done.stderr}ended with {done.returncode}, wanted {shown!r}"
        # The daemon is back with Redis a moment after a restart, and journald writes when it likes.
        repeatable = command in ("redstreamd status", "redstreamd call stream_list")
        assert repeatable or command.startswith("journalctl"), seen
        assert time.monotonic() < deadline, seen
