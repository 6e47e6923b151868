"""Boots this machine's own systemd in a container, for tests that need a real service manager.

The container sees the machine's file system with everything writable, in memory: an overlay
over / whose upper layer is a tmpfs, run by systemd-nspawn. It boots to basic.target in a few
seconds; what a test wants beyond that (redis-server, our units) it starts itself.

All mounts live in a mount namespace of the container's own, and all its processes in its PID
namespace, whose first process dies with systemd-nspawn and that with the test run. So nothing
remains on the machine, whichever way a run ends, except empty directories if it is killed.

Each container also has control groups of its own. Several boot at a time, and systemd removes the group of a
unit that has ended: in groups that they share, one would remove the group that another is about to use.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest

from tests.support.servers import missing
from tests.support.waiting import wait_until

# Booting takes three, a command or a change of state one; a busy machine may take its time.
BOOT_SECONDS = PATIENCE_SECONDS = 180.0

# Mounted inside at these places: DynamicUser cannot traverse a home directory, where a developer's
# interpreter, environment and checkout often are.
PREFIX = Path("/opt/redstreamd")
INTERPRETER = Path("/opt/redstreamd-python")
PACKAGES = Path("/opt/redstreamd-packages")
CHECKOUT = Path("/opt/redstreamd-checkout")

REPOSITORY = Path(__file__).resolve().parents[2]

_MOUNT_AND_BOOT = """
set -e
for group in $2; do echo $$ > "$group/cgroup.procs"; done
mount -t tmpfs -o size=2g,mode=0755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
directory=$1
shift 2
exec systemd-nspawn --directory="$directory/root" "$@"
"""


@attrs.frozen
class Container:
    """A booted systemd.

    Attributes:
        pid: Its first process, as this machine numbers it.
    """

    pid: int

    def path(self, inside: str | Path) -> Path:
        """Return where a file of the container is reached from outside."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def write(self, inside: str | Path, text: str, *, mode: int = 0o644) -> None:
        """Write a file inside, with its directories."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def start(self, *command: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command inside, with pipes for its standard streams."""
        return subprocess.Popen(
            self.words(*command, environ=environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *command: str,
        input: str = "",  # noqa: A002 -- subprocess's own word
        check: bool = True,
        timeout_seconds: float = PATIENCE_SECONDS,
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root to its end.

        Raises:
            AssertionError: It failed and `check` is true; the message holds what it wrote.
        """
        done = subprocess.run(
            self.words(*command, environ=environ),
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{shlex.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Run systemctl inside and return what it printed. Where it fails, the journal's end says why."""
        done = self.run("systemctl", "--no-pager", *arguments, check=False)
        if check and done.returncode:
            raise AssertionError(f"{arguments}: {done.stderr}{self.journal(None, '--lines=40')}")
        return done.stdout

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit."""
        wanted = [f"--property={name}" for name in properties]
        lines = self.systemctl("show", unit, *wanted).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def wait_for(
        self, unit: str, *, timeout_seconds: float = PATIENCE_SECONDS, **wanted: str
    ) -> dict[str, str]:
        """Wait until properties of a unit have the wanted values, such as ``ActiveState="active"``.

        Raises:
            AssertionError: They did not in time; the message holds the unit's status and journal.
        """
        found: dict[str, str] = {}

        def arrived() -> bool:
            found.update(self.show(unit, *wanted))
            return all(found.get(name) == value for name, value in wanted.items())

        try:
            wait_until(arrived, timeout_seconds=timeout_seconds)
        except AssertionError:
            status = self.systemctl("status", "--full", unit, check=False)
            raise AssertionError(
                f"{unit} has {found}, not {wanted}\n{status}\n{self.journal(unit)}"
            ) from None
        return found

    def journal(self, unit: str | None = None, *options: str) -> str:
        """Return the text of journal records, of one unit or of all."""
        self.run("journalctl", "--sync")
        of_unit = () if unit is None else ("--unit", unit)
        return self.run("journalctl", "--no-pager", "--output=cat", *of_unit, *options).stdout

    def wait_for_journal(self, unit: str, text: str) -> None:
        """Wait until a record of a unit has these words: the daemon writes them beside what it answers.

        Raises:
            AssertionError: None has in time; the message holds the journal's end.
        """
        try:
            wait_until(lambda: text in self.journal(unit), timeout_seconds=PATIENCE_SECONDS)
        except AssertionError:
            raise AssertionError(f"{text!r} is not in\n{self.journal(unit, '--lines=100')}") from None

    def account(self) -> str:
        """Return what is not as it should be, and the journal's end: for the report of a failed test."""
        commands = (
            ("systemctl", "--no-pager", "list-units", "--state=failed,activating,deactivating,reloading"),
            ("systemctl", "--no-pager", "list-jobs"),
            ("journalctl", "--no-pager", "--output=short-precise", "--lines=150"),
        )
        told = (self.run(*command, check=False, timeout_seconds=30) for command in commands)
        return "\n".join(done.stdout + done.stderr for done in told)

    def forget_journal(self) -> None:
        """Begin the journal anew, so that a test only finds its own records."""
        self.run("journalctl", "--sync")
        self.run("journalctl", "--rotate", "--vacuum-size=1")

    def kill(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a process, by its number inside."""
        self.run("kill", f"-{number.name.removeprefix('SIG')}", str(pid))

    def main_pid(self, unit: str) -> int:
        """Return the number, inside, of a service's main process; 0 if there is none."""
        return int(self.show(unit, "MainPID")["MainPID"])

    def words(self, *command: str, environ: Mapping[str, str] | None = None) -> list[str]:
        """Return the words that run a command inside."""
        # Not the caller's environment: it belongs to the machine, not to the container.
        clean = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        assignments = [f"{name}={value}" for name, value in {**clean, **(environ or {})}.items()]
        return [
            "nsenter",
            "--target",
            str(self.pid),
            "--all",
            "env",
            "--ignore-environment",
            *assignments,
            *command,
        ]


@contextlib.contextmanager
def booted() -> Iterator[Container]:
    """Boot a container for the block; skip the test (in CI: fail it) where that is impossible."""
    _check_machine()
    with (
        tempfile.TemporaryDirectory(prefix="rs-systemd-") as directory,
        tempfile.TemporaryFile("w+") as console,
        _control_groups(Path(directory).name) as groups,
    ):
        nspawn = subprocess.Popen(
            [
                # So that it ends with the run, also where that is killed; it ends its container then.
                *("setpriv", "--pdeathsig", "TERM"),
                *("unshare", "--mount", "--propagation", "private"),
                *("sh", "-c", _MOUNT_AND_BOOT, "sh", directory, " ".join(map(str, groups))),
                *("--register=no", "--keep-unit", "--link-journal=no", f"--uuid={uuid.uuid4().hex}"),
                # A loopback of its own: its Redis on 6379 is not the machine's.
                "--private-network",
                *(f"--bind-ro={source}:{inside}" for source, inside in _mounts().items()),
                *("--console=pipe", "--boot", "systemd.unit=basic.target"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        first: int | None = None
        try:
            try:
                first = _first_process(nspawn)
                container = Container(first)
                wait_until(lambda: _is_running(container), timeout_seconds=BOOT_SECONDS)
            except AssertionError as exc:
                console.seek(0)
                raise AssertionError(f"the container did not boot: {exc}\n{console.read()}") from exc
            yield container
        finally:
            # Everything inside ends with its first process, and the mounts with the last user of theirs.
            if first is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(first, signal.SIGKILL)
            else:
                nspawn.kill()
            nspawn.wait(timeout=PATIENCE_SECONDS)


@contextlib.contextmanager
def _control_groups(name: str) -> Iterator[list[Path]]:
    """Make groups below this process's own, in each hierarchy that systemd manages, for the block."""
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            groups.append(_hierarchy(controllers) / own.lstrip("/") / name)
    for group in groups:
        group.mkdir()
    try:
        yield groups
    finally:
        for group in groups:
            wait_until(lambda group=group: _is_removed(group))


def _hierarchy(controllers: str) -> Path:
    """Return where the hierarchy of `name=systemd`, or with no controllers the unified one, is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, directory, kind, options, *_ = line.split()
        if (kind == "cgroup" and controllers and controllers in options.split(",")) or (
            kind == "cgroup2" and not controllers
        ):
            return Path(directory)
    raise AssertionError(f"no hierarchy of control groups is mounted for {controllers!r}")


def _is_removed(group: Path) -> bool:
    """Remove a group with those below, and return whether it is gone; one in use is refused by the kernel."""
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()
    return not group.exists()


def install_environment(container: Container) -> None:
    """Make /opt/redstreamd inside: an environment with this checkout and this interpreter's packages.

    The units' own path, so that they can be used as they are shipped.
    """
    interpreter = Path(sys.base_prefix)
    if _is_private_interpreter():
        interpreter = INTERPRETER
        # Its libpython, if it has one, is looked up where it was built, which the service may not
        # read. The loader would then take the distribution's, which is another version.
        container.write("/etc/ld.so.conf.d/000-interpreter.conf", f"{INTERPRETER}/lib\n")
        container.run("ldconfig")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    container.run(str(interpreter / "bin" / version), "-m", "venv", "--without-pip", str(PREFIX))
    site = PREFIX / "lib" / version / "site-packages"
    container.write(site / "redstreamd.pth", f"{CHECKOUT}\n{PACKAGES}\n")
    container.write(
        PREFIX / "bin" / "redstreamd",
        f"#!{PREFIX}/bin/python\nimport sys\nfrom redstreamd.cli import main\nsys.exit(main())\n",
        mode=0o755,
    )


def install_units(container: Container) -> None:
    """Install our units inside as a package would, and make the group; starts nothing.

    Only for the first time in a container: tests change them by drop-ins, and take these away again.
    """
    done = container.path("/run/rs-units-installed")
    if done.exists():
        return
    for file in sorted((REPOSITORY / "systemd").iterdir()):
        inside = container.path("/usr/lib/systemd/system") / file.name
        inside.unlink(missing_ok=True)
        if file.is_symlink():
            inside.symlink_to(file.readlink())
        elif file.suffix in (".service", ".socket"):
            shutil.copyfile(file, inside)
    for unit in ("redstreamd", "redstreamd@", "redstreamd-worker@"):
        # As `make install` does for an interpreter that is not the distribution's; ours may be anywhere.
        container.write(
            f"/usr/lib/systemd/system/{unit}.service.d/interpreter.conf",
            f"[Service]\nExecPaths=-{INTERPRETER} {PACKAGES}\n",
        )
    install_catalog(container)
    sysusers = (REPOSITORY / "systemd" / "redstreamd.sysusers.conf").read_text()
    container.write("/usr/lib/sysusers.d/redstreamd.conf", sysusers)
    container.run("systemd-sysusers", "redstreamd.conf")
    container.systemctl("daemon-reload")
    done.touch()


def clean_up(container: Container, *units: str) -> None:
    """Stop units, and take away what a test gave our service besides."""
    container.systemctl("stop", *units)
    drop_ins = container.path("/run/systemd/system/redstreamd.service.d")
    if drop_ins.exists():
        shutil.rmtree(drop_ins)
        container.systemctl("daemon-reload")
    container.systemctl("reset-failed")


def install_catalog(container: Container) -> None:
    """Install our message catalog inside as a package would. May be repeated."""
    catalog = (REPOSITORY / "systemd" / "redstreamd.catalog").read_text()
    container.write("/usr/lib/systemd/catalog/redstreamd.catalog", catalog)
    container.run("journalctl", "--update-catalog")


def _check_machine() -> None:
    for program, package in (("systemd-nspawn", "systemd-container"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            missing(program, f"apt-get install {package}")
    # Also where the tests run as root, but in a container without CAP_SYS_ADMIN.
    trial = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if os.geteuid() != 0 or trial.returncode:
        reason = f"a systemd container needs root that may mount (uid {os.geteuid()}; {trial.stderr.strip()})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def _mounts() -> dict[str, Path]:
    import attrs as installed

    mounts = {
        str(REPOSITORY / "redstreamd"): CHECKOUT / "redstreamd",
        str(Path(installed.__file__).resolve().parents[1]): PACKAGES,
    }
    if _is_private_interpreter():
        mounts[sys.base_prefix] = INTERPRETER
    return mounts


def _is_private_interpreter() -> bool:
    return Path(sys.base_prefix) not in (Path("/usr"), Path("/usr/local"))


def _first_process(nspawn: subprocess.Popen[bytes]) -> int:
    """Wait for the child of systemd-nspawn that is process 1 of its namespace, and return its number here."""
    found: list[int] = []

    def exists() -> bool:
        if nspawn.poll() is not None:
            raise AssertionError(f"systemd-nspawn ended with {nspawn.returncode}")
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split():
                status = Path(f"/proc/{child}/status").read_text()
                numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
                if numbers[-1] == "1" and len(numbers) > 2:
                    found.append(int(child))
        return bool(found)

    wait_until(exists, timeout_seconds=BOOT_SECONDS)
    return found[0]


def _is_running(container: Container) -> bool:
    state = container.run("systemctl", "is-system-running", check=False).stdout.strip()
    # A unit of the machine's that fails in a container is not our concern.
    return state in ("running", "degraded")
