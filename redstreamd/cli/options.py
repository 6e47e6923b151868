"""The options that `serve`, `stdio`, `check-config` and `doctor` share, and those of the daemon's clients."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from redstreamd.cli.terminal import print_error
from redstreamd.client.discovery import Access

if TYPE_CHECKING:
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


def load_from(
    arguments: argparse.Namespace,
    environ: Mapping[str, str] = os.environ,
    variables: str | None = None,
) -> Loaded:
    """Load the settings that the options and the other sources give, and let all texts name these sources.

    Args:
        arguments: Of the command line.
        environ: The environment.
        variables: The file where the service whose settings they are gets its secrets from; None for that of
            this process, if it is a service.

    Raises:
        SettingsError: A setting is not valid.
    """
    from pathlib import Path

    from redstreamd.errors.remedies import note_places
    from redstreamd.settings import Precedence, load

    # Absolute, since who reads the texts is elsewhere.
    config = None if arguments.config is None else Path(arguments.config).absolute()
    loaded = load(
        config=config,
        assignments=arguments.set,
        listen=arguments.listen,
        embedded=arguments.embedded,
        environ=environ,
    )
    note_places(
        None if config is None else str(config),
        variables or environment_file(arguments.config),
        {key: source.given_by for key, source in loaded.sources.items() if source.given_by},
        frozenset(key for key, source in loaded.sources.items() if source.precedence is Precedence.FILE),
    )
    return loaded


def environment_file(config: str | None) -> str | None:
    """Return the file that the unit which runs this process reads variables from; None if no unit does.

    Args:
        config: The value of --config.
    """
    if os.environ.get("SYSTEMD_EXEC_PID") != str(os.getpid()):
        return None
    from pathlib import Path

    from redstreamd.errors.remedies import ENVIRONMENT_FILE

    # Only the service of one user has this variable. Its file lies beside the settings.
    if config is None or "XDG_RUNTIME_DIR" not in os.environ:
        return ENVIRONMENT_FILE
    return str(Path(config).with_name("environment"))


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

    try:
        return use(load_from(arguments))
    except SettingsError as invalid:
        print_error(str(invalid))
        reason, temporary, status = str(invalid), False, os.EX_CONFIG
    except NotNowError as failed:
        reason, temporary, status = str(failed), True, os.EX_TEMPFAIL
    if on_failure is not None:
        on_failure(reason, temporary=temporary)
    return status
