"""Where sockets and state lie by default, for the daemon and for the programs that look for it.

Standard library only, and no pathlib (it would be a third of the start-up time of
``redstreamd connect``, which every client session starts). Every function takes the
environment and the user ID, so nothing here depends on the process it runs in.
"""

# ruff: noqa: PTH103, PTH116, PTH120

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

SERVICE_SOCKET = "/run/redstreamd/mcp.sock"
"""Where redstreamd.socket, the systemd unit, listens."""

SOCKET_VARIABLE = "REDSTREAMD_SOCKET"
"""The environment variable by which a client names the daemon's socket; the daemon itself ignores it."""

_NAME = "redstreamd/mcp.sock"


def default_socket(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> str:
    """Return where the daemon listens when nothing else is said.

    In order: systemd's ``RuntimeDirectory=``, the person's runtime directory, the
    service's place for root, else a directory of this user's own under /tmp.

    Args:
        environ: The environment to look into.
        uid: The user; without one, the effective user of this process.
    """
    uid = os.geteuid() if uid is None else uid
    if given := _systemd_directory("RUNTIME_DIRECTORY", environ):
        return f"{given}/mcp.sock"
    if runtime := _runtime_directory(environ, uid):
        return f"{runtime}/{_NAME}"
    return SERVICE_SOCKET if uid == 0 else _fallback_socket(uid)


def candidates_for_clients(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> list[str]:
    """Return the sockets a client tries, in order: the one named, the person's, the service's.

    A place that another user could have prepared is left out.

    Args:
        environ: The environment to look into.
        uid: The user; without one, the effective user of this process.
    """
    uid = os.geteuid() if uid is None else uid
    found: list[str] = []
    if named := environ.get(SOCKET_VARIABLE):
        found.append(named)
    if runtime := _runtime_directory(environ, uid):
        found.append(f"{runtime}/{_NAME}")
    else:
        # MCP clients start their servers with a few variables only, and XDG_RUNTIME_DIR is not
        # among them; the daemon that the person started from a shell is in the usual place.
        usual = f"/run/user/{uid}"
        if _owned_by(usual, uid):
            found.append(f"{usual}/{_NAME}")
    if uid != 0:
        fallback = _fallback_socket(uid)
        directory = os.path.dirname(fallback)
        if is_trusted(directory, uid) or not os.path.lexists(directory):
            found.append(fallback)
    found.append(SERVICE_SOCKET)
    return list(dict.fromkeys(found))


def is_safe_place(socket_path: str, uid: int | None = None) -> bool:
    """Tell whether no other user can be behind a socket of `candidates_for_clients` that has just answered.

    To be asked then: a directory that was not there when the candidates were listed may have been made since,
    by anybody.

    Args:
        socket_path: Where it is.
        uid: The user; without one, the effective user of this process.
    """
    uid = os.geteuid() if uid is None else uid
    return socket_path != _fallback_socket(uid) or is_trusted(os.path.dirname(socket_path), uid)


def default_state_directory(environ: Mapping[str, str] = os.environ) -> str:
    """Return where state is kept: systemd's ``StateDirectory=``, else the person's state directory.

    The second follows the XDG Base Directory Specification 0.8, which has relative
    paths ignored. Users that exist in a container by number only may have no home: then the
    path that is returned is not absolute, and is to be refused.
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
    """Make the directory of a default socket with mode 0700, or check the one that is there.

    Raises:
        PermissionError: Someone else owns the directory or may write to it, and so could
            replace the socket.
        OSError: It cannot be made.
    """
    directory = os.path.dirname(socket_path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if not is_trusted(directory, os.geteuid()):
        raise PermissionError(f"{directory} belongs to someone else, or others may write to it")


def is_trusted(directory: str, uid: int) -> bool:
    """Whether only `uid` and root can change what lies in `directory`, which must not be a symbolic link."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (0, uid) and not found.st_mode & 0o022


def _systemd_directory(variable: str, environ: Mapping[str, str]) -> str:
    # Several directories in one unit are joined by colons (systemd.exec(5)); ours is the first.
    return environ.get(variable, "").partition(":")[0]


def _runtime_directory(environ: Mapping[str, str], uid: int) -> str | None:
    # `sudo` and `su` can leave another user's directory in the environment.
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return runtime if runtime.startswith("/") and _owned_by(runtime, uid) else None


def _home() -> str:
    # Not expanduser, which takes whatever HOME holds.
    import pwd  # here, because the bridge does without it

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "~"


def _owned_by(directory: str, uid: int) -> bool:
    try:
        return os.stat(directory).st_uid == uid
    except OSError:
        return False


def _fallback_socket(uid: int) -> str:
    return f"/tmp/redstreamd-{uid}/mcp.sock"  # noqa: S108 - its owner is checked before it is trusted
