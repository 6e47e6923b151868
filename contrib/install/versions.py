"""The versions of redstreamd below a prefix, and which of them is current.

    <prefix>/versions/<id>/           a virtual environment; units and documents in its share/
    <prefix>/versions/<id>/previous   -> ../<id of the version that was current before it>
    <prefix>/current                  -> versions/<id>
    <prefix>/bin                      -> current/bin
    <prefix>/previous                 -> current/previous

Every change is one rename(2), and only the link `current` decides which version is installed. So a crash
leaves a complete version in <prefix>/bin, and the next call removes its leftovers.

Earlier releases installed a virtual environment directly in <prefix>. `adopt` converts it to a version.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: Marks a complete version: written last and removed first.
STAMP = ".complete"

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h, linux/fs.h
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP)

#: The links in the prefix, and how their targets begin.
_LINKS = {"current": "versions/", "bin": "current/", "previous": "current/"}

#: Names of the former layout that are not links in this one.
_ADOPTED = ("lib64", "lib", "include", "share")


class InstallError(Exception):
    """The installation failed; the message says why and what to do."""


@dataclass(frozen=True)
class Versions:
    """The versions below one prefix.

    Attributes:
        prefix: Their directory, as this process sees it.
        staging: The part of `prefix` that is DESTDIR; may be empty.
    """

    prefix: Path
    staging: str = ""

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the lock of the versions during the block; waits for it.

        Yields:
            The lock's descriptor. Programs that inherit it keep the lock until they end.
        """
        self.prefix.mkdir(parents=True, exist_ok=True)
        path = self.prefix / ".lock"
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    print(f"Waiting for another installation in {self.prefix} ...", file=sys.stderr)
                    fcntl.flock(lock, fcntl.LOCK_EX)
                # An uninstallation removes the file while others wait for it.
                if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
                    yield lock
                    return
                self.prefix.mkdir(parents=True, exist_ok=True)
            finally:
                os.close(lock)

    def directory(self, version: str) -> Path:
        """Return the directory of a version."""
        return self.prefix / "versions" / version

    def installed(self, path: Path) -> Path:
        """Return `path` as the installed programs will see it."""
        return Path("/", path.relative_to(self.staging)) if self.staging else path

    def check_prefix(self) -> None:
        """Check that the names needed in the prefix do not exist, or are links of the versions.

        Raises:
            InstallError: One is something else, such as bin in /usr/local.
        """
        if self._is_former_layout():
            return
        for name in _LINKS:
            if os.path.lexists(self.prefix / name) and not self._is_link(name):
                raise InstallError(
                    f"{self.prefix / name} belongs to something else; redstreamd needs a directory of "
                    "its own, such as PREFIX=/opt/redstreamd"
                )

    def remove_all(self) -> None:
        """Remove all versions, and the prefix if it is empty then."""
        names = [name for name in _LINKS if self._is_link(name)]
        if self._is_former_layout():
            names.append("bin")
        if self._has_former_files():
            # pyvenv.cfg last, because it marks the others as ours.
            names += [*_ADOPTED, "pyvenv.cfg"]
        for name in names:
            _remove(self.prefix / name)
        for version in self.complete():
            (self.directory(version) / STAMP).unlink()
        self.remove_incomplete()
        (self.prefix / ".lock").unlink(missing_ok=True)
        for directory in (self.prefix / "versions", self.prefix):
            # Fails for a directory with other files.
            with contextlib.suppress(OSError):
                directory.rmdir()

    def new_id(self, number: str) -> str:
        """Return a new ID: the version number and the time (UTC)."""
        stem = f"{number}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        version, count = stem, 1
        while self.directory(version).exists():
            count += 1
            version = f"{stem}.{count}"
        return version

    def current(self) -> str | None:
        """Return the current version."""
        return self._named_by(self.prefix / "current")

    def previous(self) -> str | None:
        """Return the version before the current one."""
        version = self.current()
        return None if version is None else self._named_by(self.directory(version) / "previous")

    def complete(self) -> list[str]:
        """Return all complete versions."""
        found = (self.prefix / "versions").glob(f"*/{STAMP}")
        return sorted(stamp.parent.name for stamp in found)

    def finish(self, version: str) -> None:
        """Write a version to the disk and mark it as complete."""
        synchronise(self.prefix)
        (self.directory(version) / STAMP).touch()

    def activate(self, version: str) -> None:
        """Make a complete version the current one, and the current one its previous one.

        Raises:
            InstallError: The version is not complete.
        """
        if version not in self.complete():
            raise InstallError(f"{self.directory(version)} is not a complete version")
        before = self.current()
        if before is not None and before != version:
            # Both links change in one step, because this one is reached through `current`.
            replace_by_link(self.directory(version) / "previous", f"../{before}")
        synchronise(self.prefix)
        replace_by_link(self.prefix / "current", f"versions/{version}")
        if not (self.prefix / "bin").is_symlink():
            replace_by_link(self.prefix / "bin", "current/bin")
        if self.previous() is not None and not (self.prefix / "previous").is_symlink():
            replace_by_link(self.prefix / "previous", "current/previous")

    def adopt(self, keep: Callable[[Path], None]) -> None:
        """Convert an environment of an earlier release, directly in the prefix, to a version.

        Its files stay for the programs that run from them, and get hard links in the version. `bin` is
        replaced in one step if the file system can exchange two names (renameat2(2)), else in two.

        Args:
            keep: Copies files of the installed version, such as its units, into a directory.
        """
        binaries = self.prefix / "bin"
        if not self._is_former_layout():
            return
        if self.current() is None:
            version = self.new_id(_number_of(binaries / "redstreamd"))
            directory = self.directory(version)
            directory.mkdir(parents=True)
            for name in ("bin", *_ADOPTED):
                if (self.prefix / name).is_symlink():
                    (directory / name).symlink_to((self.prefix / name).readlink())
                elif (self.prefix / name).exists():
                    copy = shutil.copy2 if name == "bin" else _link_or_copy
                    shutil.copytree(self.prefix / name, directory / name, symlinks=True, copy_function=copy)
            shutil.copy2(self.prefix / "pyvenv.cfg", directory)
            relocate(directory, written_as=self.installed(self.prefix), to=self.installed(directory))
            keep(directory)
            self.finish(version)
            replace_by_link(self.prefix / "current", f"versions/{version}")
        replace_by_link(binaries, "current/bin")

    def remove_incomplete(self) -> None:
        """Remove the leftovers of an incomplete installation."""
        for directory in (self.prefix / "versions").glob("*-[0-9]*T[0-9]*Z*"):
            if not (directory / STAMP).exists():
                _remove_tree(directory)
        for leftover in self.prefix.glob(".*.new"):
            _remove(leftover)
        for leftover in self.prefix.glob(".build-*"):
            _remove_tree(leftover)

    def remove_old(self, in_use: Callable[[Iterable[Path]], set[Path]]) -> None:
        """Remove the versions that are neither current nor previous.

        Args:
            in_use: Returns the directories that running programs use; these stay.
        """
        kept = {self.current(), self.previous()}
        old = [self.directory(version) for version in self.complete() if version not in kept]
        is_left = self._is_link("bin") and self._has_former_files()
        adopted = [self.prefix / name for name in _ADOPTED] if is_left else []
        used = in_use([*old, *adopted, self.prefix / "bin"])
        for directory in old:
            if directory not in used:
                (directory / STAMP).unlink()
                _remove_tree(directory)
        if is_left and not used.intersection([*adopted, self.prefix / "bin"]):
            for leftover in [*adopted, self.prefix / "pyvenv.cfg"]:
                _remove(leftover)

    def _is_link(self, name: str) -> bool:
        """Whether a name in the prefix is a link of the versions."""
        link = self.prefix / name
        return link.is_symlink() and str(link.readlink()).startswith(_LINKS[name])

    def _has_former_files(self) -> bool:
        """Whether files of an earlier release's environment are directly in the prefix."""
        return (self.prefix / "pyvenv.cfg").is_file()

    def _is_former_layout(self) -> bool:
        """Whether an earlier release is installed directly in the prefix."""
        binaries = self.prefix / "bin"
        return self._has_former_files() and not binaries.is_symlink() and (binaries / "redstreamd").exists()

    def _named_by(self, link: Path) -> str | None:
        """Return the complete version that a link names."""
        try:
            version = link.readlink().name
        except OSError:
            return None
        return version if (self.directory(version) / STAMP).exists() else None


def in_use(directories: Iterable[Path]) -> set[Path]:
    """Return the directories that running programs use.

    A program uses a directory if its interpreter was started from it, or a file in it is mapped, such as a
    compiled module.
    """
    wanted = {
        directory: tuple(os.fsencode(f"{place}/{directory.name}/") for place in _names(directory.parent))
        for directory in directories
    }
    used: set[Path] = set()
    for process in Path("/proc").glob("[0-9]*"):
        command = maps = b""
        # Fails if it has ended meanwhile, or is another user's.
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            maps = (process / "maps").read_bytes()
        used.update(
            directory
            for directory, names in wanted.items()
            if command.startswith(names) or any(name in maps for name in names)
        )
    return used


def _names(place: Path) -> set[Path]:
    """Return a directory's given path, and its real path."""
    return {place, place.resolve()}


def replace_by_link(path: Path, target: str) -> None:
    """Replace `path` by a symbolic link to `target` in one step.

    A directory whose file system cannot exchange two names is missing between two renames.
    """
    draft = path.with_name(f".{path.name}.new")
    _remove(draft)
    draft.symlink_to(target)
    if path.is_dir() and not path.is_symlink():
        if not _exchange(draft, path):
            aside = path.with_name(f".{path.name}.old.new")
            _remove(aside)
            path.rename(aside)
            draft.rename(path)
            _remove(aside)
        else:
            _remove(draft)
    else:
        draft.rename(path)


def relocate(directory: Path, *, written_as: Path, to: Path) -> None:
    """Rewrite an environment's own path in its scripts and its pyvenv.cfg."""
    former = re.compile(re.escape(os.fsencode(written_as)) + rb"(?![\w.-])")
    for path in (directory / "pyvenv.cfg", *(directory / "bin").iterdir()):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            changed = former.sub(lambda _: os.fsencode(to), content)
            if changed != content:
                path.write_bytes(changed)


def synchronise(path: Path) -> None:
    """Write the file system of `path` to its disk (syncfs(2)), before a link names new files."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False if the system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    if library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def _number_of(program: Path) -> str:
    """Return the version number that a program prints."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return words[1] if done.returncode == 0 and len(words) == 2 else "unknown"


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_tree(directory: Path) -> None:
    """Rename and remove a directory, so that a program that still writes to it fails."""
    aside = directory.with_name(f".build-{directory.name.removeprefix('.build-')}.removed")
    if directory != aside:
        _remove(aside)
        directory.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
