"""The environment, command line and credentials of the service as systemd would start it now.

``sudo redstreamd doctor`` checks what the service would use, not the administrator's shell. All is read from
the unit and the files that it names, so the service need not run.
"""

from __future__ import annotations

import contextlib
import glob
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from redstreamd.doctor import unit_text
from redstreamd.doctor.unit_text import Credential

UNIT: Final = "redstreamd.service"

#: Seconds for systemctl; the service manager may be busy.
_SYSTEMCTL_SECONDS: Final = 10.0

_PROPERTIES: Final = (
    *("LoadState", "Environment", "EnvironmentFiles", "ExecStart", "StateDirectory", "User", "DynamicUser"),
    *("SupplementaryGroups", "ProtectHome", "PrivateNetwork", "IPAddressAllow", "IPAddressDeny"),
    *("LimitNOFILE", "PrivateUsers"),
)

#: Where systemd looks for a credential without a path (systemd.exec(5)).
_STORES: Final = (
    *("/run/credentials/@system", "/etc/credstore", "/run/credstore"),
    *("/usr/local/lib/credstore", "/usr/lib/credstore"),
)


@attrs.frozen
class Service:
    """What systemd gives to the service.

    Attributes:
        manager: The systemctl command, with the option that selects the manager.
        properties: Properties of the unit: name -> values.
        environ: Its environment, which may hold secrets.
        environment_files: The environment files of the unit, in its order. They need not exist yet.
        arguments: The command line after ``serve``.
        credentials: The credentials of the unit.
        variable_files: Variable to the environment file that gives it.
    """

    manager: tuple[str, ...]
    properties: Mapping[str, Sequence[str]]
    environ: Mapping[str, str] = attrs.field(repr=False)
    environment_files: Sequence[Path]
    arguments: Sequence[str]
    credentials: Sequence[Credential]
    variable_files: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def is_of_system(self) -> bool:
        """Whether the system's manager runs it, and not the user's."""
        return "--user" not in self.manager

    @property
    def credentials_directory(self) -> str:
        """Where the service finds its credentials while it runs."""
        base = "/run" if self.is_of_system else os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")
        return f"{base}/credentials/{UNIT}"

    def value(self, name: str) -> str:
        """Return the last value of a property; empty if it has none."""
        return next(reversed(self.properties.get(name, ())), "")

    def missing_credentials(self) -> list[Credential]:
        """Return the credentials without which systemd does not start the service."""
        given = {each.name for each in self.credentials if each.content is not None}
        return [
            each
            for each in self.credentials
            if each.source is not None and each.name not in given and _file_of(each) is None
        ]

    def credential_files(self) -> dict[str, str]:
        """Return the files that credentials are read from, by the names of these."""
        files = {each.name: _file_of(each) or each.source for each in self.credentials}
        return {name: str(file) for name, file in files.items() if file is not None and file.is_absolute()}

    @contextlib.contextmanager
    def readable_credentials(self) -> Iterator[Service]:
        """Copy the credentials to a temporary directory; yields this service with paths in that directory.

        The directory is private and removed at the end. Credentials that only systemd can read are taken from
        the running service, if it runs.
        """
        if not self.credentials:
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="redstreamd-doctor-") as directory:
            place = Path(directory)
            for each in reversed(self.credentials):
                _copy_credential(each, place, Path(self.credentials_directory))

            def moved(text: str) -> str:
                return text.replace(self.credentials_directory, directory)

            environ = {name: moved(value) for name, value in self.environ.items()}
            yield attrs.evolve(
                self,
                environ=environ | {"CREDENTIALS_DIRECTORY": directory},
                arguments=[moved(word) for word in self.arguments],
            )


def _copy_credential(credential: Credential, place: Path, running: Path) -> None:
    """Put a credential, or a link to it, into the directory `place`, if it can be read."""
    file = place / credential.name
    source = _file_of(credential)
    with contextlib.suppress(OSError):
        if credential.content is not None and not credential.encrypted:
            file.write_text(credential.content)
        elif source is not None and source.is_dir():
            for each in source.iterdir():
                (place / f"{credential.name}_{each.name}").symlink_to(each)
        elif source is not None or credential.encrypted:
            # A file has precedence over content in the unit, which was written before.
            file.unlink(missing_ok=True)
            file.symlink_to(running / credential.name if source is None or credential.encrypted else source)


def _file_of(credential: Credential) -> Path | None:
    """Return the file of a credential, if it exists."""
    if credential.source is None:
        return None
    path = Path(credential.source)
    places = [path] if path.is_absolute() else [Path(store) / path for store in _STORES]
    if credential.encrypted and not path.is_absolute():
        places += [Path(f"{store}.encrypted") / path for store in _STORES]
    return next((place for place in places if place.exists()), None)


async def find_service(
    *, environ: Mapping[str, str] = os.environ, systemctl: Sequence[str] = ("systemctl",)
) -> Service | None:
    """Return the service that this caller administers: the system's for root, else the caller's own.

    Args:
        environ: The caller's environment; names its home and runtime directory.
        systemctl: The systemctl command.

    Returns:
        None if it is not installed, or systemctl fails.
    """
    manager = (*systemctl,) if os.geteuid() == 0 else (*systemctl, "--user")
    shown = await ask_systemctl([*manager, "show", f"--property={','.join(_PROPERTIES)}", UNIT])
    properties = unit_text.properties(shown or "")
    if properties.get("LoadState") != ["loaded"]:
        return None
    text = await ask_systemctl([*manager, "cat", UNIT])
    variables = {} if os.geteuid() == 0 else {"HOME": environ.get("HOME", "")}
    for shown_line in properties.get("Environment", ()):
        variables |= unit_text.environment_of(shown_line)
    files = [Path(name) for line in properties.get("EnvironmentFiles", ()) for name in _matching(line)]
    variable_files: dict[str, str] = {}
    for file in files:
        with contextlib.suppress(OSError):
            given = unit_text.environment_file(file.read_text("utf-8", "replace"))
            variables |= given
            variable_files |= dict.fromkeys(given, str(file))
    state = properties.get("StateDirectory", [""])[-1].split()
    if state:
        variables["STATE_DIRECTORY"] = f"{_state_base(environ, state[0])}/{state[0]}"
    command = unit_text.command_words("\n".join(properties.get("ExecStart", ())), variables)
    return Service(
        manager,
        properties,
        variables,
        files,
        command[command.index("serve") + 1 :] if "serve" in command else [],
        unit_text.credentials(text or ""),
        variable_files,
    )


def _matching(line: str) -> list[str]:
    """Return the files of one value of ``EnvironmentFiles``, ``PATTERN (ignore_errors=yes)``.

    A pattern that is a name is returned also if there is no such file: it can be made.
    """
    pattern = line.rpartition(" (")[0]
    if not glob.has_magic(pattern):
        return [pattern]
    return sorted(glob.glob(pattern))  # noqa: PTH207 - the pattern is absolute


def _state_base(environ: Mapping[str, str], name: str) -> str:
    """Return the directory in which systemd creates state directories.

    For user services it changed in systemd 254; the one that has the state directory is used.
    """
    if os.geteuid() == 0:
        return "/var/lib"
    home = environ.get("HOME", "")
    state = environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
    configuration = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    return next((base for base in (state, configuration) if Path(base, name).is_dir()), state)


async def ask_systemctl(command: Sequence[str]) -> str | None:
    """Run systemctl and return what it printed; None if it failed or took too long."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError), trio.move_on_after(_SYSTEMCTL_SECONDS):
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL)
        return done.stdout.decode("utf-8", "replace")
    return None
