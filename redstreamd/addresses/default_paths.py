"""Default paths of sockets and state, for the daemon and its clients.

Standard library only, and no pathlib, which takes a third of the start-up time of ``redstreamd connect``.
"""

# ruff: noqa: PTH103, PTH116, PTH120

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

SERVICE_SOCKET = "/run/redstreamd/mcp.sock"
"""The socket of the systemd unit redstreamd.socket."""

SOCKET_VARIABLE = "REDSTREAMD_SOCKET"
"""The environment variable for clients that names the daemon's socket; the daemon ignores it."""

_NAME = "redstreamd/mcp.sock"
_TEMPORARY = "/tmp"  # noqa: S108 - owners of directories in it are checked


def default_socket(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> str:
    """Return the daemon's default socket.

    The first of: systemd's ``RuntimeDirectory=``, the user's runtime directory, for root the service's
    socket, and a directory of the user's own in /tmp.

    Args:
        environ: The environment.
        uid: The user; by default the effective user of this process.
    """
    uid = os.geteuid() if uid is None else uid
    if given := _systemd_directory("RUNTIME_DIRECTORY", environ):
        return f"{given}/mcp.sock"
    if runtime := _runtime_directory(environ, uid):
        return f"{runtime}/{_NAME}"
    return SERVICE_SOCKET if uid == 0 else _fallback_socket(uid)


def candidates_for_clients(
    environ: Mapping[str, str] = os.environ, uid: int | None = None, *, temporary: str = _TEMPORARY
) -> list[str]:
    """Return the sockets that a client tries that names none, in order: the user's, the service's.

    Sockets that another user could have created are left out.

    Args:
        environ: The environment.
        uid: The user; by default the effective user of this process.
        temporary: The directory that all users may write to.
    """
    uid = os.geteuid() if uid is None else uid
    found: list[str] = []
    if runtime := _runtime_directory(environ, uid):
        found.append(f"{runtime}/{_NAME}")
    else:
        # MCP clients do not pass XDG_RUNTIME_DIR to their servers.
        usual = f"/run/user/{uid}"
        if _owned_by(usual, uid):
            found.append(f"{usual}/{_NAME}")
    if uid != 0:
        fallback = _fallback_socket(uid, temporary)
        directory = os.path.dirname(fallback)
        if is_trusted(directory, uid) or not os.path.lexists(directory):
            found.append(fallback)
    found.append(SERVICE_SOCKET)
    return list(dict.fromkeys(found))


def is_safe_socket(socket_path: str, uid: int | None = None, *, temporary: str = _TEMPORARY) -> bool:
    """Return whether no other user can have created a socket of `candidates_for_clients`.

    To be called after connecting, because another user may have created the directory meanwhile.

    Args:
        socket_path: The socket.
        uid: The user; by default the effective user of this process.
        temporary: As for `candidates_for_clients`.
    """
    uid = os.geteuid() if uid is None else uid
    return socket_path != _fallback_socket(uid, temporary) or is_trusted(os.path.dirname(socket_path), uid)


def default_state_directory(environ: Mapping[str, str] = os.environ) -> str:
    """Return the default state directory: systemd's ``StateDirectory=``, else the user's.

    The latter follows the XDG Base Directory Specification 0.8, which ignores relative paths. A user without
    a home, as in a container, gets a relative path, which the caller has to refuse.
    """
    if given := _systemd_directory("STATE_DIRECTORY", environ):
        return given
    state = environ.get("XDG_STATE_HOME", "")
    if state.startswith("/"):
        return f"{state}/redstreamd"
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        home = _home()
    return f"{home}/.local/state/redstreamd"


def make_socket_directory(socket_path: str) -> None:
    """Create the directory of a default socket with mode 0700, or check the existing one.

    Raises:
        PermissionError: Another user owns the directory or may write to it.
        OSError: It cannot be created.
    """
    directory = os.path.dirname(socket_path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if not is_trusted(directory, os.geteuid()):
        raise PermissionError(f"{directory} belongs to another user, or others may write to it")


def is_trusted(directory: str, uid: int) -> bool:
    """Return whether `directory` is not a link, and only `uid` and root may change what is in it."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (0, uid) and not found.st_mode & 0o022


def _systemd_directory(variable: str, environ: Mapping[str, str]) -> str:
    # Several directories of a unit are separated by colons (systemd.exec(5)); ours is the first.
    return environ.get(variable, "").partition(":")[0]


def _runtime_directory(environ: Mapping[str, str], uid: int) -> str | None:
    # `sudo` and `su` can leave another user's directory in the environment.
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return runtime if runtime.startswith("/") and _owned_by(runtime, uid) else None


def _home() -> str:
    # Not expanduser, which uses HOME.
    import pwd  # not needed by ``redstreamd connect``

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "~"


def _owned_by(directory: str, uid: int) -> bool:
    try:
        return os.stat(directory).st_uid == uid
    except OSError:
        return False


def _fallback_socket(uid: int, temporary: str = _TEMPORARY) -> str:
    return f"{temporary}/redstreamd-{uid}/mcp.sock"
