"""The files of a version outside the prefix: units, documents, the command, an example of settings.

Each version keeps its own copies below share/, so that a rollback restores its units, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from versions import Versions, replace_by_link

UNITS, DOCUMENTS, GROUPS, CATALOG, SETTINGS = (
    "share/units",
    "share/doc/redstreamd",
    "share/sysusers.conf",
    "share/redstreamd.catalog",
    "share/settings.toml",
)

#: The prefix that the units and documents in the sources name.
_WRITTEN = {False: "/opt/redstreamd", True: "%h/.local/share/redstreamd"}

#: The units of releases without versions.
_FORMER_UNITS = frozenset(
    {
        *("redstreamd.service", "redstreamd.socket"),
        *("redstreamd-inetd.socket", "redstreamd-inetd@.service", "redstreamd@.service"),
    }
)


@dataclass(frozen=True)
class Host:
    """Paths on the host, as this process sees them.

    Attributes:
        versions: The versions.
        user: Whether this is an installation for one user, without root.
        home: The user's home directory; unused otherwise.
        units: systemd's directory for units.
        sysusers: systemd's directory for groups; None to create no group.
        catalogs: systemd's directory for message catalogs; None for a user, who has none.
        documents: The directory of the documents.
        settings: The settings file; not changed once it exists.
        command: The link in the user's PATH.
    """

    versions: Versions
    user: bool
    home: Path
    units: Path
    sysusers: Path | None
    catalogs: Path | None
    documents: Path
    settings: Path
    command: Path

    def collect(self, source: Path, directory: Path) -> None:
        """Copy the files of a version from the sources into its directory."""
        units = source / "systemd" / "user" if self.user else source / "systemd"
        for unit in sorted((*units.glob("*.socket"), *units.glob("*.service"))):
            self._render(unit, directory / UNITS / unit.name)
            if not self.user and sys.base_prefix != "/usr":
                _allow_interpreter(directory / UNITS / unit.name)
        # A user's service manager cannot apply most of the drop-ins.
        drop_ins = () if self.user else (source / "systemd" / "drop-ins").glob("*.conf")
        for drop_in in sorted(drop_ins):
            self._render(drop_in, directory / DOCUMENTS / "drop-ins" / drop_in.name)
        for document in sorted((source / "docs").rglob("*.*")):
            _write(directory / DOCUMENTS / document.relative_to(source / "docs"), document.read_bytes())
        _write(directory / GROUPS, (source / "systemd" / "redstreamd.sysusers.conf").read_bytes())
        _write(directory / CATALOG, (source / "systemd" / "redstreamd.catalog").read_bytes())
        _write(directory / SETTINGS, (source / "systemd" / "redstreamd.toml").read_bytes())

    def collect_installed(self, directory: Path) -> None:
        """Copy the files of an earlier release into the directory of its version."""
        for unit in sorted(self.units.glob("redstreamd*")):
            if unit.is_file():
                _write(directory / UNITS / unit.name, unit.read_bytes())
        if self.documents.is_dir() and not self.documents.is_symlink():
            shutil.copytree(self.documents, directory / DOCUMENTS, dirs_exist_ok=True)
        if self.sysusers is not None and (self.sysusers / "redstreamd.conf").exists():
            _write(directory / GROUPS, (self.sysusers / "redstreamd.conf").read_bytes())

    def publish(self, version: str) -> None:
        """Install the files of a version, remove those of other versions, and reload systemd."""
        directory = self.versions.directory(version)
        wanted = sorted((directory / UNITS).iterdir()) if (directory / UNITS).is_dir() else []
        for unit in wanted:
            _write(self.units / unit.name, unit.read_bytes())
        for name in self._unit_names() - {unit.name for unit in wanted}:
            (self.units / name).unlink(missing_ok=True)
        if self.sysusers is not None and (directory / GROUPS).exists():
            _write(self.sysusers / "redstreamd.conf", (directory / GROUPS).read_bytes())
        self._publish_catalog(directory / CATALOG)
        prefix = self.versions.installed(self.versions.prefix)
        self.documents.parent.mkdir(parents=True, exist_ok=True)
        replace_by_link(self.documents, f"{prefix}/current/{DOCUMENTS}")
        if (directory / SETTINGS).exists() and not os.path.lexists(self.settings):
            _write(self.settings, (directory / SETTINGS).read_bytes())
        self._link_command(Path(prefix, "bin", "redstreamd"))
        if self.sysusers is not None:
            self.tell("systemd-sysusers", "redstreamd.conf")
        self.tell(*self.systemctl("daemon-reload"))

    def withdraw(self) -> None:
        """Stop the service and remove all installed files except settings and data."""
        units = [name for name in sorted(self._unit_names()) if (self.units / name).exists()]
        # A template cannot be stopped; its instances can.
        started = [name.replace("@.", "@*.") for name in units]
        if units:
            self.tell(*self.systemctl("stop", *started))
            # Of a template that means all its instances; the others cannot be enabled.
            enabled = [name for name in units if "\n[Install]\n" in (self.units / name).read_text("utf-8")]
            if enabled:
                self.tell(*self.systemctl("disable", *enabled))
        for name in self._unit_names():
            (self.units / name).unlink(missing_ok=True)
        if self.documents.is_symlink():
            self.documents.unlink()
        elif self.documents.exists():
            shutil.rmtree(self.documents)
        if self.sysusers is not None:
            (self.sysusers / "redstreamd.conf").unlink(missing_ok=True)
        self._publish_catalog(None)
        if self._is_ours(self.command):
            self.command.unlink()
        self.tell(*self.systemctl("daemon-reload"))

    def _publish_catalog(self, catalog: Path | None) -> None:
        """Install the message catalog of a version, or remove that of another if it has none."""
        if self.catalogs is None:
            return
        installed = self.catalogs / "redstreamd.catalog"
        if catalog is not None and catalog.exists():
            _write(installed, catalog.read_bytes())
        elif installed.exists():
            installed.unlink()
        else:
            return
        self.tell("journalctl", "--update-catalog")

    def systemctl(self, *arguments: str) -> Sequence[str]:
        """Return a systemctl command for the units' service manager."""
        return ("systemctl", *(("--user",) if self.user else ()), *arguments)

    def tell(self, *command: str) -> None:
        """Run a command on the running host; not with DESTDIR, and only if the command exists."""
        if self.versions.staging or shutil.which(command[0]) is None:
            return
        subprocess.run(command, check=False, stdin=subprocess.DEVNULL)

    def _unit_names(self) -> set[str]:
        names = {unit.name for unit in self.versions.prefix.glob(f"versions/*/{UNITS}/*")}
        if self.user:
            return names | {"redstreamd.service", "redstreamd.socket"}
        return names | _FORMER_UNITS

    def _render(self, source: Path, target: Path) -> None:
        """Copy a unit or drop-in, with the actual prefix."""
        prefix = str(self.versions.installed(self.versions.prefix))
        text = source.read_text("utf-8")
        if not (self.user and prefix == f"{self.home}/.local/share/redstreamd"):
            text = text.replace(_WRITTEN[self.user], prefix)
        _write(target, text.encode())

    def _link_command(self, program: Path) -> None:
        self.command.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(self.command) and not self._is_ours(self.command):
            print(f"{self.command} is another program and was not changed; this one is {program}")
        else:
            replace_by_link(self.command, str(program))

    def _is_ours(self, command: Path) -> bool:
        prefix = self.versions.installed(self.versions.prefix)
        return command.is_symlink() and command.readlink().is_relative_to(prefix)


def _write(target: Path, content: bytes) -> None:
    """Write a file that all users may read, in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file() and not target.is_symlink() and target.read_bytes() == content:
        target.chmod(0o644)
        return
    draft = target.with_name(f".{target.name}.new")
    draft.write_bytes(content)
    draft.chmod(0o644)
    draft.rename(target)


def _allow_interpreter(unit: Path) -> None:
    """Add this interpreter, which is not below /usr, to ExecPaths= of a unit that has it."""
    text = unit.read_text("utf-8")
    before, line, after = text.rpartition("\nExecPaths=")
    if line:
        own, _, rest = after.partition("\n")
        paths = f"{os.path.realpath(sys.executable)} {sys.base_prefix}/lib"
        _write(unit, f"{before}{line}{own}\nExecPaths={paths}\n{rest}".encode())
