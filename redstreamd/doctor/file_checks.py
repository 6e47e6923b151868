"""Checks whether others can read secret files, and whether the service can read the files that it needs.

``doctor`` runs as root, which may read and reach everything, so other checks do not notice what the service's
user and confinement forbid.
"""

from __future__ import annotations

import contextlib
import grp
import ipaddress
import os
import pwd
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from redstreamd.doctor.report import CheckResult, error, ok, skipped, warning
from redstreamd.doctor.service_environment import UNIT, Service
from redstreamd.encryption.key_files import SUFFIX
from redstreamd.errors.remedies import SETTINGS_FILE, setting
from redstreamd.redisio.target import Target
from redstreamd.settings import Loaded

_SECRETS, _CONFINEMENT = "secrets", "confinement"

#: The variables that may hold a secret.
_SECRET_VARIABLES: Final = frozenset({"REDIS_PASSWORD", "REDIS_SENTINEL_PASSWORD", "REDIS_URL"}) | {
    f"REDSTREAMD_REDIS_{key}" for key in ("PASSWORD", "SENTINEL_PASSWORD", "URL")
}

#: The settings that name a file with a secret in it.
_SECRET_FILES: Final = (
    *("redis.password_file", "redis.sentinel_password_file", "redis.key_file"),
    *("listeners.key_file", "listeners.token_file", "daemon.lease_key_file"),
)
#: Which may hold their keys, too.
_CERTIFICATES: Final = ("redis.certificate_file", "listeners.certificate_file")
_AUTHORITIES: Final = ("redis.ca_file", "redis.sentinel_ca_file", "listeners.client_ca_file")
_READ_FILES: Final = (*_SECRET_FILES, *_CERTIFICATES, *_AUTHORITIES)

#: What ProtectHome=yes hides.
_HOMES: Final = ("/home/", f"{pwd.getpwuid(0).pw_dir}/", "/run/user/")

_LEASE_KEY: Final = "lease.key"


def check_secrets(loaded: Loaded, service: Service | None) -> CheckResult:
    """Check the permissions of each file that holds a secret."""
    keys = set(_encryption_keys(loaded, service))
    files = dict.fromkeys((*_secret_files(loaded, service), *sorted(keys)))
    tried = f"who may read {', '.join(map(str, files))}"
    own_key = loaded.settings.daemon.state_directory / _LEASE_KEY
    exposed: list[Path] = []
    seen = 0
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue  # it does not exist or this user may not see it; another check reports that
        seen += 1
        # The lease key is for its owner only. Other files may belong to a group on purpose.
        if status.st_mode & (0o077 if file == own_key else 0o007):
            exposed.append(file)
    if not exposed:
        return ok(_SECRETS, tried, "only their owners") if seen else skipped(_SECRETS, tried, "no file")
    steps = [f"chmod go= {' '.join(map(str, exposed))}"]
    if any(file == own_key for file in exposed):
        steps.append(
            "whoever has read lease.key can settle the work of others: if you do not trust all users of this "
            "host, stop redstreamd, remove the file and start redstreamd, which makes a new one (leases held "
            "at that time are lost; `work_take` with `resume` gets the entries back)"
        )
    if not keys.isdisjoint(exposed):
        steps.append("if others have read a key, let another one write (`redstreamd keys new` says how)")
    if (named := loaded.settings.daemon.lease_key_file) in exposed:
        steps.append(
            f"whoever has read {named} can settle the work of others: if you do not trust all users of this "
            "host, make a new key for all hosts that have it, and restart them"
        )
    if any(file != own_key and file != named and file not in keys for file in exposed):
        steps.append("change the passwords in them")
    return warning(
        _SECRETS, tried, f"others can read {', '.join(map(str, exposed))}", f"Run `{'`; '.join(steps)}."
    )


def _secret_files(loaded: Loaded, service: Service | None) -> Iterator[Path]:
    settings = loaded.settings
    yield settings.daemon.state_directory / _LEASE_KEY
    for key in ("redis.password", "redis.sentinel_password", "redis.url"):
        origin = str(loaded.sources[key])
        if loaded.value(key) is not None and origin.startswith("file "):
            yield Path(origin.removeprefix("file "))
    for key in _SECRET_FILES:
        named = loaded.value(key)
        if named is not None and Path(named).is_absolute():
            yield Path(named)
    if service is None:
        return
    named_credentials = {str(loaded.value(key)) for key in (*_SECRET_FILES, *_CERTIFICATES)}
    for credential in service.credentials:
        source = credential.source
        is_secret = credential.name in named_credentials and not credential.encrypted
        if is_secret and source is not None and source.is_absolute():
            yield source
    if _SECRET_VARIABLES & service.environ.keys():
        yield from service.environment_files


def _encryption_keys(loaded: Loaded, service: Service | None) -> Iterator[Path]:
    keys = loaded.settings.encryption.keys
    yield from _key_files(keys)
    for credential in () if service is None else service.credentials:
        source = credential.source
        if credential.encrypted or source is None or not source.is_absolute():
            continue
        if credential.name == str(keys):
            yield from _key_files(source)
        elif credential.name.startswith(f"{keys}_"):
            yield source


def _key_files(directory: Path | None) -> Iterator[Path]:
    """Yield the files of keys in a directory, if it is one."""
    if directory is not None and directory.is_absolute():
        with contextlib.suppress(OSError):
            yield from sorted(each for each in directory.iterdir() if each.name.endswith(SUFFIX))


@attrs.frozen
class _ServiceUser:
    """The user of the service, and what its confinement hides."""

    uid: int | None
    gids: Collection[int]
    home_hidden: bool

    def can_read(self, file: Path) -> bool:
        """Whether it may open the file, by the mode bits of the file and its directories."""
        if self.home_hidden and str(file.resolve()).startswith(_HOMES):
            return False
        try:
            steps = [*(parent.stat() for parent in file.resolve().parents), file.stat()]
        except OSError:
            return True  # another check reports a file that does not exist
        return all(self._has(status, 0o4 if status is steps[-1] else 0o1) for status in steps)

    def _has(self, status: os.stat_result, bit: int) -> bool:
        if status.st_uid == self.uid:
            return bool(status.st_mode & bit << 6)
        if status.st_gid in self.gids:
            return bool(status.st_mode & bit << 3)
        return bool(stat.S_IMODE(status.st_mode) & bit)


async def check_confinement(loaded: Loaded, service: Service, targets: Sequence[Target]) -> CheckResult:
    """Check whether the service may read its files and reach its Redis.

    Args:
        loaded: The settings of the service.
        service: The service as systemd would start it.
        targets: Its servers and sentinels.
    """
    tried = f"what {UNIT} may read and reach, by its user and its confinement"
    if not service.is_of_system:
        return skipped(_CONFINEMENT, tried, "it runs as this user")
    user = _user_of(service)
    files = [Path(str(loaded.value(key))) for key in _READ_FILES if loaded.value(key) is not None]
    files += [
        Path(str(source).removeprefix("file "))
        for source in dict.fromkeys(map(str, loaded.sources.values()))
        if source.startswith("file ")
    ]
    files += _key_files(loaded.settings.encryption.keys)
    if not any(word.partition("=")[0] == "--config" for word in service.arguments):
        # The service reads it even if it sets nothing, and does not start if it may not read it.
        files.append(Path(SETTINGS_FILE))
    # The service's user may always read credentials.
    credentials = service.environ.get("CREDENTIALS_DIRECTORY", "/dev/null/")
    hidden = [
        file
        for file in dict.fromkeys(files)
        if file.is_absolute() and not str(file).startswith(credentials) and not user.can_read(file)
    ]
    if hidden:
        return error(
            _CONFINEMENT,
            tried,
            f"the service's user cannot read {', '.join(map(str, hidden))}",
            "Pass them as credentials (drop-ins private-settings.conf, redis-credentials.conf), or let "
            "others read them if they hold no secret.",
        )
    targets = [target for target in targets if target.path is None]
    if not targets:
        return ok(_CONFINEMENT, tried, "it may read and reach what it needs")
    if service.value("PrivateNetwork") == "yes":
        return error(
            _CONFINEMENT,
            tried,
            "PrivateNetwork=yes: the service has no network",
            f"Use Redis's Unix socket: set {setting('redis.path')}; or remove the drop-in that sets "
            "PrivateNetwork=.",
        )
    addresses = [address for target in targets for address in await _addresses(target)]
    denied = [address for address in dict.fromkeys(addresses) if _is_denied(address, service)]
    if denied:
        return warning(
            _CONFINEMENT,
            tried,
            f"the service may not connect to {', '.join(denied)}: IPAddressDeny= covers it and "
            "IPAddressAllow= does not (systems without BPF do not enforce this)",
            "Copy the drop-in remote-redis.conf with that address.",
        )
    return ok(_CONFINEMENT, tried, "it may read and reach what it needs")


def _user_of(service: Service) -> _ServiceUser:
    uid, gids = None, set[int]()
    with contextlib.suppress(KeyError):
        # A dynamic user exists only while the service runs, and has only its own group.
        user = pwd.getpwnam(service.value("User"))
        uid, gids = user.pw_uid, set(os.getgrouplist(user.pw_name, user.pw_gid))
    for name in service.value("SupplementaryGroups").split():
        with contextlib.suppress(KeyError):
            gids.add(grp.getgrnam(name).gr_gid)
    return _ServiceUser(uid, gids, service.value("ProtectHome") in ("yes", "tmpfs"))


async def _addresses(target: Target) -> list[str]:
    with trio.move_on_after(target.connect_timeout), contextlib.suppress(OSError):
        found = await trio.socket.getaddrinfo(target.host, target.port, type=trio.socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[4][0]) for address in found))
    return []  # the check of name resolution says why


def _is_denied(address: str, service: Service) -> bool:
    try:
        wanted = ipaddress.ip_address(address)
    except ValueError:
        return False

    def covers(name: str) -> bool:
        networks = " ".join(service.properties.get(name, ())).split()
        return any(wanted in ipaddress.ip_network(network, strict=False) for network in networks)

    return covers("IPAddressDeny") and not covers("IPAddressAllow")
