"""The directories and links of an installation, with a crash before each change of the file system.

The program of a version is a script that says which one it is; pip and the real daemon are in
tests/systemd/test_upgrade.py.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "contrib" / "install"))

import versions as installer  # noqa: E402
from environment import Builder  # noqa: E402
from host import CATALOG, DOCUMENTS, UNITS, Host  # noqa: E402
from versions import STAMP, InstallError, Versions  # noqa: E402

#: What Python announces before it changes the file system (the audit events table).
CHANGES = ("os.rename", "os.symlink", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.utime")


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory in memory, where waiting for the disk costs nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="rs-", dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


def host_below(root: Path) -> Host:
    """A host whose files lie below `root`; DESTDIR keeps this machine's systemd out of it."""
    return Host(
        versions=Versions(root / "opt/redstreamd", str(root)),
        user=False,
        home=root,
        units=root / "units",
        sysusers=root / "sysusers",
        catalogs=root / "catalog",
        documents=root / "doc/redstreamd",
        settings=root / "etc/redstreamd.toml",
        command=root / "bin/redstreamd",
    )


def make_program(directory: Path, number: str) -> None:
    """Make the part of an environment that matters here."""
    (directory / "bin").mkdir(parents=True)
    (directory / "lib").mkdir()
    (directory / "lib" / "module.py").write_text(number)
    (directory / "pyvenv.cfg").write_text(f"command = venv {directory}\n")
    program = directory / "bin" / "redstreamd"
    program.write_text(f"#!/bin/sh\necho redstreamd {number}\n")
    program.chmod(0o755)


def make_version(host: Host, number: str) -> str:
    """Build a version with a unit, a document and a unit that only it has."""
    version = host.versions.new_id(number)
    directory = host.versions.directory(version)
    make_program(directory, number)
    for name in ("redstreamd.service", f"redstreamd-{number}.socket"):
        (directory / UNITS).mkdir(parents=True, exist_ok=True)
        (directory / UNITS / name).write_text(f"# {number}")
    (directory / DOCUMENTS).mkdir(parents=True)
    (directory / DOCUMENTS / "operations.md").write_text(number)
    host.versions.finish(version)
    return version


def make_former_layout(host: Host, number: str) -> None:
    """What earlier releases installed: one environment in the prefix itself, units and documents as files."""
    make_program(host.versions.prefix, number)
    host.units.mkdir()
    (host.units / "redstreamd.service").write_text(f"# {number}")
    host.documents.mkdir(parents=True)
    (host.documents / "operations.md").write_text(number)


def nothing_runs(_directories: Iterable[Path]) -> set[Path]:
    return set()


def switch(host: Host, version: str, in_use: Callable[[Iterable[Path]], set[Path]] = nothing_runs) -> None:
    """What an installation does once the version is built."""
    with host.versions.locked():
        host.versions.remove_incomplete()
        host.versions.adopt(host.collect_installed)
        host.versions.activate(version)
        host.publish(version)
        host.versions.remove_old(in_use)


def go_back(host: Host) -> None:
    with host.versions.locked():
        version = host.versions.previous()
        if version is None:
            raise InstallError("no version before")
        host.versions.activate(version)
        host.publish(version)


def running(host: Host) -> str:
    """Start the program by the name that units use and return its version."""
    program = host.versions.prefix / "bin" / "redstreamd"
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()[1]


def published(host: Host) -> tuple[str, str, set[str]]:
    service = (host.units / "redstreamd.service").read_text().removeprefix("# ")
    current = host.versions.prefix / "current" / DOCUMENTS / "operations.md"
    return service, current.read_text(), {unit.name for unit in host.units.iterdir()}


def crashes_at(step: int, action: Callable[[], None]) -> bool:
    """Run `action` in a process that is killed before its nth change; return whether it came that far."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads of the test run: the child uses none of their locks
        child = os.fork()
    if child == 0:
        changes = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal changes
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
            if event in CHANGES or writes or event == "ctypes.dlsym":
                changes += 1
                if changes == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            action()
        except BaseException:  # noqa: BLE001 -- nothing of the test run may go on in this process
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("former", ["environment in the prefix", "version"])
def test_a_crash_at_any_step_of_an_upgrade_leaves_a_program_that_works(place: Path, former: str) -> None:
    step, crashed = 0, True
    while crashed:
        step += 1
        host = host_below(place / str(step))
        if former == "version":
            switch(host, make_version(host, "0.9"))
            switch(host, make_version(host, "1.0"))
        else:
            make_former_layout(host, "1.0")
        version = make_version(host, "2.0")
        crashed = crashes_at(step, lambda host=host, version=version: switch(host, version))  # type: ignore[misc]
        assert running(host) in ("1.0", "2.0")
        # The next one comes to its end, whatever the crash has left, and the one before is not lost.
        switch(host, version)
        assert running(host) == "2.0"
        assert published(host) == ("2.0", "2.0", {"redstreamd.service", "redstreamd-2.0.socket"})
        go_back(host)
        assert running(host) == "1.0"
        assert published(host)[:2] == ("1.0", "1.0")
        left = [path.name for path in (place / str(step)).rglob(".*") if path.name not in (".lock", STAMP)]
        assert left == []
        assert len(host.versions.complete()) == 2
        shutil.rmtree(place / str(step))
    assert step > 20


def test_a_crash_at_any_step_of_a_rollback_leaves_a_program_that_works(place: Path) -> None:
    step, crashed = 0, True
    while crashed:
        step += 1
        host = host_below(place / str(step))
        switch(host, make_version(host, "1.0"))
        switch(host, make_version(host, "2.0"))
        crashed = crashes_at(step, lambda host=host: go_back(host))  # type: ignore[misc]
        now = running(host)
        assert now in ("1.0", "2.0")
        go_back(host)
        after = running(host)
        assert {now, after} == {"1.0", "2.0"}
        assert published(host)[:2] == (after, after)
        shutil.rmtree(place / str(step))
    assert step > 5


def test_where_names_cannot_be_exchanged_the_former_layout_is_replaced_all_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "_exchange", lambda *_names: False)
    step, crashed = 0, True
    while crashed:
        step += 1
        host = host_below(place / str(step))
        make_former_layout(host, "1.0")
        version = make_version(host, "2.0")
        crashed = crashes_at(step, lambda host=host, version=version: switch(host, version))  # type: ignore[misc]
        switch(host, version)
        assert running(host) == "2.0"
        shutil.rmtree(place / str(step))


def test_going_back_and_forward_ends_where_it_began(place: Path) -> None:
    host = host_below(place)
    switch(host, make_version(host, "1.0"))
    with pytest.raises(InstallError):
        go_back(host)
    switch(host, make_version(host, "2.0"))
    for expected in ("1.0", "2.0", "1.0"):
        go_back(host)
        assert running(host) == expected
        assert (place / "opt/redstreamd/previous/bin/redstreamd").exists()


def test_only_the_version_before_is_kept_and_whichever_a_program_uses(place: Path) -> None:
    host = host_below(place)
    used = make_version(host, "1.0")
    interpreter = host.versions.directory(used) / "bin" / "python"
    shutil.copy2("/bin/sleep", interpreter)
    switch(host, used, installer.in_use)
    with subprocess.Popen([interpreter, "1000"]) as program:
        try:
            for number in ("2.0", "3.0", "4.0"):
                switch(host, make_version(host, number), installer.in_use)
            numbers = [version.partition("-")[0] for version in host.versions.complete()]
            assert numbers == ["1.0", "3.0", "4.0"]
        finally:
            program.kill()
    switch(host, make_version(host, "5.0"), installer.in_use)
    assert [version.partition("-")[0] for version in host.versions.complete()] == ["4.0", "5.0"]


def test_a_program_of_the_former_layout_keeps_its_modules_until_it_ends(place: Path) -> None:
    host = host_below(place)
    make_former_layout(host, "1.0")
    interpreter = host.versions.prefix / "bin" / "python"
    shutil.copy2("/bin/sleep", interpreter)
    with subprocess.Popen([interpreter, "1000"]) as program:
        try:
            switch(host, make_version(host, "2.0"), installer.in_use)
            assert (host.versions.prefix / "lib" / "module.py").read_text() == "1.0"
        finally:
            program.kill()
    # A program of the current version holds nothing of the former one.
    current = host.versions.prefix / "current" / "bin" / "python"
    shutil.copy2("/bin/sleep", current)
    with subprocess.Popen([current.resolve(), "1000"]) as program:
        try:
            switch(host, make_version(host, "3.0"), installer.in_use)
            assert not (host.versions.prefix / "lib").exists()
        finally:
            program.kill()


@pytest.mark.parametrize("with_our_command", [False, True])
def test_a_directory_of_other_programs_is_refused_and_keeps_its_files(
    place: Path, with_our_command: bool
) -> None:
    """PREFIX=/usr/local is what many makefiles have."""
    local = place / "usr/local"
    for name in ("bin/other", "lib/other.so", "share/other", "versions/3.12/bin/python"):
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_text(name)
    if with_our_command:
        (local / "bin/redstreamd").symlink_to("/opt/redstreamd/bin/redstreamd")
    before = sorted(local.rglob("*"))
    make = ["make", "-C", REPOSITORY, f"DESTDIR={place}", "PREFIX=/usr/local"]
    for target in ("install", "uninstall"):
        done = subprocess.run([*make, target], capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (target == "uninstall"), done.stderr
        if target == "install":
            assert "/usr/local/bin belongs to something else" in done.stderr
            assert "PREFIX=/opt/redstreamd" in done.stderr
        ours = {local / ".lock"} | ({local / "bin/redstreamd"} if with_our_command else set())
        assert {*local.rglob("*")} - ours == {*before} - ours


def test_what_the_system_refuses_is_one_sentence_and_no_traceback(place: Path) -> None:
    (place / "file").touch()
    make = ["make", "-C", REPOSITORY, f"DESTDIR={place}/file", "install"]
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Not a directory" in done.stderr
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_others_put_beside_the_versions_outlives_them(place: Path) -> None:
    host = host_below(place)
    shared = [host.versions.prefix / name for name in ("lib/theirs", "share/theirs", "versions/theirs/x")]
    for file in shared:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("theirs")
    switch(host, make_version(host, "1.0"))
    switch(host, make_version(host, "2.0"))
    with host.versions.locked():
        host.versions.remove_all()
    found = {path for path in host.versions.prefix.rglob("*") if path.is_file() or path.is_symlink()}
    assert found == set(shared)


def test_the_message_catalog_is_that_of_the_version_or_there_is_none(place: Path) -> None:
    host = host_below(place)
    assert host.catalogs is not None
    installed = host.catalogs / "redstreamd.catalog"
    switch(host, make_version(host, "1.0"))
    assert not installed.exists()
    explaining = make_version(host, "2.0")
    (host.versions.directory(explaining) / CATALOG).write_text("what it means")
    switch(host, explaining)
    assert installed.read_text() == "what it means"
    go_back(host)
    assert not installed.exists()
    go_back(host)
    assert installed.read_text() == "what it means"
    with host.versions.locked():
        host.withdraw()
    assert not installed.exists()


def test_an_uninstallation_removes_the_units_of_the_former_layout(place: Path) -> None:
    host = host_below(place)
    make_former_layout(host, "1.0")
    for name in ("redstreamd.socket", "redstreamd-inetd.socket", "redstreamd@.service"):
        (host.units / name).write_text("# 1.0")
    (host.units / "redstreamd-inetd@.service").symlink_to("redstreamd@.service")
    (host.units / "redstreamd-reports.socket").write_text("# the administrator's")
    with host.versions.locked():
        host.withdraw()
    assert [unit.name for unit in host.units.iterdir()] == ["redstreamd-reports.socket"]


@pytest.mark.parametrize("former", [False, True])
def test_nothing_is_left_of_all_versions(place: Path, former: bool) -> None:
    host = host_below(place)
    make_former_layout(host, "1.0")
    if not former:
        switch(host, make_version(host, "2.0"), lambda directories: set(directories))
        make_program(host.versions.directory(host.versions.new_id("3.0")), "3.0")  # not built to its end
    with host.versions.locked():
        host.versions.remove_all()
    assert not host.versions.prefix.exists()


def test_two_installations_at_once_come_one_after_the_other(place: Path) -> None:
    host = host_below(place)
    entered = threading.Event()

    def enter() -> None:
        with host.versions.locked():
            entered.set()

    second = threading.Thread(target=enter)
    with host.versions.locked() as lock:
        second.start()
        # It waits, as a third party sees.
        with (host.versions.prefix / ".lock").open() as third, pytest.raises(BlockingIOError):
            fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not entered.wait(0.2)
        assert lock > 0
    assert entered.wait(30)
    second.join()


def test_a_version_that_was_not_built_to_its_end_cannot_become_the_current_one(place: Path) -> None:
    host = host_below(place)
    version = make_version(host, "1.0")
    (host.versions.directory(version) / STAMP).unlink()
    with pytest.raises(InstallError):
        host.versions.activate(version)
    host.versions.remove_incomplete()
    assert not host.versions.directory(version).exists()


def test_units_name_the_prefix_that_was_chosen(place: Path) -> None:
    host = Host(
        versions=Versions(place / "srv/bus", str(place)),
        user=False,
        home=place,
        units=place / "units",
        sysusers=place / "sysusers",
        catalogs=place / "catalog",
        documents=place / "doc",
        settings=place / "etc/redstreamd.toml",
        command=place / "bin/redstreamd",
    )
    host.collect(REPOSITORY, place / "version")
    texts = [path.read_text() for path in (place / "version" / UNITS).glob("*.service")]
    texts += [path.read_text() for path in (place / "version" / DOCUMENTS).glob("drop-ins/*")]
    assert len(texts) > 5
    assert not [text for text in texts if "/opt/redstreamd" in text]
    assert any("ExecStart=/srv/bus/bin/redstreamd serve" in text for text in texts)


def test_another_program_of_the_same_name_is_left_alone(place: Path, capsys: pytest.CaptureFixture) -> None:
    host = host_below(place)
    host.command.parent.mkdir()
    host.command.write_text("somebody else's")
    version = make_version(host, "1.0")
    switch(host, version)
    assert host.command.read_text() == "somebody else's"
    assert "not changed" in capsys.readouterr().out


def interpreter(path: Path, script: str) -> str:
    """Make a stand-in for an interpreter; its arguments are ``-I -m venv DIRECTORY``."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_without_ensurepip_it_is_said_which_package_to_install(place: Path) -> None:
    bare = interpreter(place / "bare", "echo 'No module named ensurepip'; exit 1")
    with host_below(place).versions.locked() as lock, pytest.raises(InstallError) as refused:
        Builder(REPOSITORY, bare, (), place, lock).build(place / "version", staging="")
    assert "apt-get install python3-venv" in str(refused.value)
    assert f"{bare}: No module named ensurepip" in str(refused.value)
    assert not (place / "version").exists()


def test_another_interpreter_lends_its_pip(place: Path) -> None:
    bare = interpreter(place / "bare", 'test "$3" != venv')
    whole = interpreter(place / "whole", 'mkdir -p "$4/bin"')
    with host_below(place).versions.locked() as lock:
        pip = Builder(REPOSITORY, bare, (whole,), place, lock)._pip()
    assert pip.parent.is_dir()
