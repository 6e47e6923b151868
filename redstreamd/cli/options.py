"""The options that `serve`, `stdio`, `check-config` and `doctor` share, and those of the daemon's clients."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from redstreamd.cli.terminal import print_error
from redstreamd.client.discovery import Access

if TYPE_CHECKING:
    from pathlib import Path

    from redstreamd.settings import Loaded


class OnFailure(Protocol):
    """Answers clients that this process cannot serve."""

    def __call__(self, reason: str, *, temporary: bool) -> None:
        """Answer the clients that are connected or connect now.

        Args:
            reason: The cause and what to do.
            temporary: Whether the cause can end by itself.
        """


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add --config, --embedded, --listen and --set."""
    parser.add_argument(
        "--config", metavar="FILE", help="settings file instead of /etc/redstreamd/redstreamd.toml"
    )
    parser.add_argument("--embedded", action="store_true", help="run a Valkey server of the daemon's own")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="unix:PATH, tcp:HOST:PORT, http:HOST:PORT (Streamable HTTP) or metrics:PATH; repeatable",
    )
    parser.add_argument(
        "--set",
        metavar="GROUP.KEY=VALUE",
        action="append",
        default=[],
        help="any setting, such as tools.profile=operator; repeatable",
    )


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a client of the daemon: its address, and what it asks for over TCP."""
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help="the daemon's socket, tcp:HOST:PORT or tls:HOST:PORT, instead of the usual places",
    )
    over = parser.add_argument_group("over TCP")
    for option, metavar, meaning in (
        ("--token-file", "FILE", "its first line is the token that the daemon asks for"),
        ("--ca-file", "FILE", "CA certificates to trust instead of the system's (PEM)"),
        ("--certificate-file", "FILE", "our certificate and its chain (PEM)"),
        ("--key-file", "FILE", "its key, if that is in another file (PEM)"),
        ("--server-name", "NAME", "the name in the daemon's certificate, if not HOST"),
    ):
        over.add_argument(option, metavar=metavar, help=meaning)


def access_from(arguments: argparse.Namespace) -> Access:
    """Return what the options say is shown to the daemon."""
    return Access(
        ca_file=arguments.ca_file,
        certificate_file=arguments.certificate_file,
        key_file=arguments.key_file,
        server_name=arguments.server_name,
        token_file=arguments.token_file,
    )


def load_from(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Load the settings that the options and the other sources give.

    Args:
        arguments: Of the command line.
        environ: The environment.

    Raises:
        SettingsError: A setting is not valid.
    """
    from redstreamd.settings import load

    return load(
        config=_absolute(arguments.config),
        assignments=arguments.set,
        listen=arguments.listen,
        embedded=arguments.embedded,
        environ=environ,
    )


def _absolute(config: str | None) -> Path | None:
    """Return the path of --config, absolute, since who reads the texts that name it is elsewhere."""
    from pathlib import Path

    return None if config is None else Path(config).absolute()


def settings_file(config: str | None, directory: str | None, credentials: Mapping[str, str]) -> str:
    """Return the settings file that is edited; a credential is a copy that cannot be.

    Args:
        config: The value of --config.
        directory: That of the credentials; None if there are none.
        credentials: Name of a credential to its file.
    """
    from redstreamd.errors.remedies import SETTINGS_FILE

    path = _absolute(config)
    if path is None:
        return SETTINGS_FILE
    if not directory or str(path.parent) != directory:
        return str(path)
    return credentials.get(path.name, f"the credential {path.name} of the service")


def own_files(config: str | None) -> tuple[str, str]:
    """Return the settings file of this process and where its variables are set, as the shipped units have it.

    Args:
        config: The value of --config.
    """
    from redstreamd.errors.remedies import ENVIRONMENT_FILE, SETTINGS_FILE, THE_ENVIRONMENT

    usual, environment = SETTINGS_FILE, ENVIRONMENT_FILE
    # Only the service of one user has this variable.
    if "XDG_RUNTIME_DIR" in os.environ:
        own = os.environ.get("XDG_CONFIG_HOME") or f"{os.environ.get('HOME', '')}/.config"
        usual, environment = (own + path.removeprefix("/etc") for path in (usual, environment))
    is_service = os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
    return (
        settings_file(
            config,
            os.environ.get("CREDENTIALS_DIRECTORY"),
            {os.path.basename(usual): usual},  # noqa: PTH119
        ),
        environment if is_service else THE_ENVIRONMENT,
    )


def with_settings(
    arguments: argparse.Namespace, use: Callable[[Loaded], int], *, on_failure: OnFailure | None = None
) -> int:
    """Load the settings, pass them to `use`, and return its exit status; 78 or 75 if it cannot run.

    Args:
        arguments: Of the command line.
        use: Runs the command. May raise `SettingsError`, which becomes 78, or `NotNowError`, which it has
            reported and which becomes 75.
        on_failure: Called with the reason, for clients that do not see stderr.
    """
    from redstreamd.errors import NotNowError, SettingsError
    from redstreamd.errors.remedies import note_files

    try:
        note_files(*own_files(arguments.config))
        loaded = load_from(arguments)
        loaded.note_sources()
        return use(loaded)
    except SettingsError as invalid:
        print_error(str(invalid))
        reason, temporary, status = str(invalid), False, os.EX_CONFIG
    except NotNowError as failed:
        reason, temporary, status = str(failed), True, os.EX_TEMPFAIL
    if on_failure is not None:
        on_failure(reason, temporary=temporary)
    return status
