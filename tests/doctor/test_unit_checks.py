"""What systemd's answers mean; a program of the test's own answers as systemctl does."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from redstreamd.doctor import CheckResult, Severity
from redstreamd.doctor.unit_checks import EXIT_STATUSES, UNIT_RESULTS, check_units


async def units(
    tmp_path: Path, service: str, socket: str, load: str = "loaded", more: str = "Result=watchdog"
) -> CheckResult:
    """Check units in these states; `more` holds further properties of both, one on each line."""
    program = tmp_path / "systemctl"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *.service) state={service};; *) state={socket};; esac\n'
        f'echo "LoadState={load}"; echo "ActiveState=$state"; echo "{more}"\n'
    )
    program.chmod(0o755)
    return await check_units(booted=True, manager=[str(program)])


@pytest.mark.parametrize(
    ("service", "socket", "severity", "words"),
    [
        ("active", "active", Severity.OK, ""),
        # The first client starts it.
        ("inactive", "active", Severity.OK, ""),
        ("failed", "active", Severity.ERROR, "journalctl -u redstreamd"),
        ("active", "failed", Severity.ERROR, "journalctl -u redstreamd.socket"),
        ("failed", "failed", Severity.ERROR, "systemctl restart redstreamd.socket"),
        ("inactive", "inactive", Severity.WARNING, "systemctl enable --now"),
    ],
)
async def test_the_units_are_judged_together(
    tmp_path: Path, service: str, socket: str, severity: Severity, words: str
) -> None:
    check = await units(tmp_path, service, socket)
    assert check.severity is severity
    assert f"redstreamd.service {service}, redstreamd.socket {socket}" in check.seen
    assert words in check.todo


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        *(
            (f"Result=exit-code\nExecMainStatus={status}", cause)
            for status, (cause, _) in EXIT_STATUSES.items()
        ),
        *((f"Result={result}", cause) for result, (cause, _) in UNIT_RESULTS.items()),
    ],
)
@pytest.mark.parametrize("state", ["failed", "activating"])
async def test_why_a_start_failed_is_told_also_between_two_starts(
    tmp_path: Path, more: str, cause: str, state: str
) -> None:
    check = await units(tmp_path, state, "active", more=f"SubState=auto-restart\n{more}")
    assert check.severity is Severity.ERROR
    assert cause in check.seen
    assert len(check.todo) > len("Read `journalctl -u redstreamd.service`; once it is corrected: ")


async def test_a_process_that_only_tells_clients_why_it_cannot_start_is_an_error_with_its_words(
    tmp_path: Path,
) -> None:
    told = "redstreamd cannot start: setting redis.port is not valid"
    check = await units(tmp_path, "activating", "active", more=f"SubState=start\nStatusText={told}")
    assert check.severity is Severity.ERROR
    assert told in check.seen
    loading = "SubState=start\nStatusText=loading: 43 % of 1.2 GB"
    assert (await units(tmp_path, "activating", "active", more=loading)).severity is Severity.OK


async def test_a_start_under_way_is_looked_at_again(tmp_path: Path) -> None:
    """Between two failures it looks well."""
    program = tmp_path / "systemctl"
    program.write_text(
        "#!/bin/sh\n"
        'echo "LoadState=loaded"; echo "ActiveState=activating"\n'
        f'if [ -e {tmp_path}/asked ]; then echo "SubState=auto-restart"; echo "Result=exit-code"\n'
        f'echo "ExecMainStatus=243"; else echo "SubState=start"; fi\n'
        f'case "$*" in *.socket) touch {tmp_path}/asked;; esac\n'
    )
    program.chmod(0o755)
    check = await check_units(booted=True, manager=[str(program)])
    assert check.severity is Severity.ERROR
    assert "status 243" in check.seen


async def test_a_socket_whose_file_is_gone_is_told_with_the_remedy(tmp_path: Path) -> None:
    place = tmp_path / "mcp.sock"
    listens = f"Listen={place} (Stream)\nListen=127.0.0.1:7077 (Stream)"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        assert (await units(tmp_path, "active", "active", more=listens)).severity is Severity.OK
    place.unlink()
    check = await units(tmp_path, "active", "active", more=listens)
    assert check.severity is Severity.ERROR
    assert str(place) in check.seen
    assert "systemctl restart redstreamd.socket" in check.todo
    # Without a socket unit that listens, nothing is to be there.
    assert str(place) not in (await units(tmp_path, "active", "inactive", more=listens)).seen


async def test_units_that_changed_since_systemd_read_them_are_a_warning(tmp_path: Path) -> None:
    check = await units(tmp_path, "active", "active", more="NeedDaemonReload=yes")
    assert check.severity is Severity.WARNING
    assert "systemctl daemon-reload" in check.todo


async def test_the_units_are_skipped_where_there_are_none(tmp_path: Path) -> None:
    assert "not installed" in (await units(tmp_path, "inactive", "inactive", "not-found")).seen
    assert (await check_units(booted=False)).severity is Severity.SKIPPED
    absent = await check_units(booted=True, manager=["/nonexistent/systemctl"])
    failing = await check_units(booted=True, manager=["false"])
    assert absent.severity is failing.severity is Severity.SKIPPED
