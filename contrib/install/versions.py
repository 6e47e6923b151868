"""The versions of redstreamd below a prefix, and which of them is current.

    <prefix>/versions/<id>/           a virtual environment; units and documents in its share/
    <prefix>/versions/<id>/previous   -> ../<id of the version that was current before it>
    <prefix>/current                  -> versions/<id>
    <prefix>/bin                      -> current/bin
    <prefix>/previous                 -> current/previous

Owns the directories and links; knows nothing of pip or units.

Every change is one rename(2), and `current` is the only link that decides what is installed, so a crash
between any two steps leaves a complete version in <prefix>/bin. The next call removes what a crash has left.

Earlier releases installed one virtual environment directly in <prefix>. `adopt` makes a version of it.
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

#: Exists in a version that was built to its end. It is written last and removed first.
STAMP = ".complete"

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h, linux/fs.h
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP)

#: The links in the prefix, and how what they name begins.
_LINKS = {"current": "versions/", "bin": "current/", "previous": "current/"}

#: What of the former layout is no link in this one.
_ADOPTED = ("lib64", "lib", "include", "share")


class InstallError(Exception):
    """The installation cannot go on; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Versions:
    """The versions below one prefix.

    Attributes:
        prefix: Their directory, as this process sees it.
        staging: What comes before `prefix` only for this process (DESTDIR); "" for nothing.
    """

    prefix: Path
    staging: str = ""

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Let nobody else change the versions in the block; waits for whoever does.

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
        """Find out whether the names that the versions need in the prefix are free, or theirs.

        Raises:
            InstallError: Something else has one of them, such as the programs of /usr/local in its bin.
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
        """Remove what belongs to any version, and the prefix if nothing else lies in it."""
        names = [name for name in _LINKS if self._is_link(name)]
        if self._is_former_layout():
            names.append("bin")
        if self._has_former_files():
            # The last one, because it tells whose the others are.
            names += [*_ADOPTED, "pyvenv.cfg"]
        for name in names:
            _remove(self.prefix / name)
        for version in self.complete():
            (self.directory(version) / STAMP).unlink()
        self.remove_incomplete()
        (self.prefix / ".lock").unlink(missing_ok=True)
        for directory in (self.prefix / "versions", self.prefix):
            # Not empty: something else is in it, and stays.
            with contextlib.suppress(OSError):
                directory.rmdir()

    def new_id(self, number: str) -> str:
        """Return an ID that no version has: the version number and the time (UTC)."""
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
        """Return the version that was current before the current one."""
        version = self.current()
        return None if version is None else self._named_by(self.directory(version) / "previous")

    def complete(self) -> list[str]:
        """Return all versions that were built to their end."""
        found = (self.prefix / "versions").glob(f"*/{STAMP}")
        return sorted(stamp.parent.name for stamp in found)

    def finish(self, version: str) -> None:
        """Declare a version complete, after all of it was written to the disk."""
        synchronise(self.prefix)
        (self.directory(version) / STAMP).touch()

    def activate(self, version: str) -> None:
        """Make a complete version the current one; the one that is current becomes its previous one.

        Raises:
            InstallError: The version is not complete.
        """
        if version not in self.complete():
            raise InstallError(f"{self.directory(version)} is not a complete version")
        before = self.current()
        if before is not None and before != version:
            # Not seen by anybody until the version is current: both links change in one step.
            replace_by_link(self.directory(version) / "previous", f"../{before}")
        synchronise(self.prefix)
        replace_by_link(self.prefix / "current", f"versions/{version}")
        if not (self.prefix / "bin").is_symlink():
            replace_by_link(self.prefix / "bin", "current/bin")
        if self.previous() is not None and not (self.prefix / "previous").is_symlink():
            replace_by_link(self.prefix / "previous", "current/previous")

    def adopt(self, keep: Callable[[Path], None]) -> None:
        """Make a version of an environment that lies directly in the prefix, as earlier releases had it.

        The environment's files stay where they are for the programs that run from them, and get a second
        name by hard links. `bin` is replaced in one step where the file system can exchange two names
        (renameat2(2)), else in two.

        Args:
            keep: Copies what belongs to the installed version, such as its units, into a directory.
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
        """Remove what an installation that did not come to its end has left."""
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
            in_use: Tells which of some directories running programs use; these stay.
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
        """Whether a name in the prefix is the link that the versions have there."""
        link = self.prefix / name
        return link.is_symlink() and str(link.readlink()).startswith(_LINKS[name])

    def _has_former_files(self) -> bool:
        """Whether an environment of an earlier release, or its rest, lies directly in the prefix."""
        return (self.prefix / "pyvenv.cfg").is_file()

    def _is_former_layout(self) -> bool:
        """Whether the program lies directly in the prefix."""
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
    """Return those of some directories that running programs use.

    A program uses a directory if its interpreter was started from there, as the first line of its script
    says, or if it has mapped a file of it, as every daemon has (compiled modules).
    """
    wanted = {
        directory: tuple(os.fsencode(f"{place}/{directory.name}/") for place in _names(directory.parent))
        for directory in directories
    }
    used: set[Path] = set()
    for process in Path("/proc").glob("[0-9]*"):
        command = maps = b""
        # It may have ended meanwhile, or be another user's.
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
    """Return a directory's name as it is given, and as programs that have it open know it."""
    return {place, place.resolve()}


def replace_by_link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`, whatever it was, without a moment in which it is missing.

    A directory cannot be renamed over. Where the file system cannot exchange it for the link either, it is
    missing between two renames.
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
    """Write the file system of `path` to its disk (syncfs(2)): what a link names must be there first."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return false where the system cannot do that."""
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
    """Return the version number that a program tells of itself."""
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
    """Remove a directory under another name, so that a program that still writes into it fails."""
    aside = directory.with_name(f".build-{directory.name.removeprefix('.build-')}.removed")
    if directory != aside:
        _remove(aside)
        directory.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
