"""Installs redstreamd from a checkout, rolls back to the previous version, or uninstalls; called by `make`.

Standard library only, for any Python from 3.11 on. A crash leaves a working installation, and the next call
removes its leftovers; see versions.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from environment import Builder
from host import Host
from versions import InstallError, Versions, in_use, relocate

SOURCE = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run one command and return its exit status."""
    arguments = _arguments()
    # The service's user must be able to read all files, whatever the caller's umask is.
    os.umask(0o022)
    host = _host(arguments)
    commands = {"install": _install, "rollback": _rollback, "uninstall": _uninstall}
    try:
        commands[arguments.command](host, arguments)
    except InstallError as error:
        print(f"{error}\nThe installation was not changed.", file=sys.stderr)
        return 1
    except PermissionError as error:
        advice = "" if host.user else "; run it as root, or `make install-user` to install for yourself alone"
        print(f"{error.filename}: {error.strerror}{advice}", file=sys.stderr)
        return 1
    except OSError as error:
        # Usually a full disk. Each step leaves a working installation.
        print(f"{error}\nCorrect this and run the same command again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="contrib/install", description="Install redstreamd.")
    parser.add_argument("command", choices=("install", "rollback", "uninstall"))
    parser.add_argument("--user", action="store_true", help="for the calling user alone, without root")
    parser.add_argument("--destdir", default="", help="what comes before every path, for packagers")
    parser.add_argument("--prefix", help="directory of the versions")
    parser.add_argument("--unit-directory", help="systemd's directory for units")
    parser.add_argument("--sysusers-directory", help="systemd's directory for groups")
    parser.add_argument("--catalog-directory", help="systemd's directory for message catalogs")
    parser.add_argument("--doc-directory", help="directory of the documents")
    parser.add_argument("--config-directory", help="directory of the settings file")
    parser.add_argument("--bin-directory", help="directory of the command")
    parser.add_argument(
        "--pip-python", action="append", default=[], help="an interpreter with pip, if this has none"
    )
    return parser.parse_args()


def _host(arguments: argparse.Namespace) -> Host:
    home = Path.home()
    if arguments.user:
        data = home / ".local" / "share"
        usual = {
            "prefix": data / "redstreamd",
            "unit_directory": data / "systemd" / "user",
            "doc_directory": data / "doc" / "redstreamd",
            "config_directory": home / ".config" / "redstreamd",
            "bin_directory": home / ".local" / "bin",
        }
    else:
        usual = {
            "prefix": Path("/opt/redstreamd"),
            "unit_directory": Path("/usr/lib/systemd/system"),
            "sysusers_directory": Path("/usr/lib/sysusers.d"),
            "catalog_directory": Path("/usr/lib/systemd/catalog"),
            "doc_directory": Path("/usr/share/doc/redstreamd"),
            "config_directory": Path("/etc/redstreamd"),
            "bin_directory": Path("/usr/local/bin"),
        }
    staging = arguments.destdir.rstrip("/")

    def place(name: str) -> Path:
        given = getattr(arguments, name)
        return Path(f"{staging}{Path(given) if given else usual[name]}")

    return Host(
        versions=Versions(place("prefix"), staging),
        user=arguments.user,
        home=home,
        units=place("unit_directory"),
        sysusers=None if arguments.user else place("sysusers_directory"),
        catalogs=None if arguments.user else place("catalog_directory"),
        documents=place("doc_directory"),
        settings=place("config_directory") / "redstreamd.toml",
        command=place("bin_directory") / "redstreamd",
    )


def _install(host: Host, arguments: argparse.Namespace) -> None:
    versions = host.versions
    with versions.locked() as lock:
        versions.check_prefix()
        versions.remove_incomplete()
        # In the prefix, leftovers of a crash are found. Not so with DESTDIR, which may be a path that pip
        # resolves to another one (/proc/<pid>/root).
        place = None if versions.staging else versions.prefix
        with tempfile.TemporaryDirectory(prefix=".build-", dir=place) as work:
            builder = Builder(SOURCE, sys.executable, arguments.pip_python, Path(work), lock)
            version = versions.new_id(builder.version_number())
            directory = versions.directory(version)
            try:
                builder.build(directory, staging=versions.staging)
                if versions.staging:
                    relocate(directory, written_as=directory, to=versions.installed(directory))
                host.collect(SOURCE, directory)
                versions.finish(version)
            except BaseException:
                versions.remove_incomplete()
                raise
        versions.adopt(host.collect_installed)
        versions.activate(version)
        host.publish(version)
        versions.remove_old(in_use)
    print(f"Installed {versions.installed(directory)}.")
    _say_next(host)


def _rollback(host: Host, _arguments: argparse.Namespace) -> None:
    versions = host.versions
    with versions.locked():
        before, version = versions.current(), versions.previous()
        if version is None:
            raise InstallError(f"there is no previous version in {versions.prefix}")
        versions.activate(version)
        host.publish(version)
    print(f"Rolled back from {before} to {version}. The same command undoes this.")
    _say_next(host)


def _uninstall(host: Host, _arguments: argparse.Namespace) -> None:
    with host.versions.locked():
        host.withdraw()
        host.versions.remove_all()
    state = host.home / ".local/state/redstreamd" if host.user else Path("/var/lib/private/redstreamd")
    print(f"Kept: {host.settings.parent} and {state}")


def _say_next(host: Host) -> None:
    """Print the command that makes the version take effect."""
    versions = host.versions
    if versions.staging:
        return
    current = versions.current()
    others = [versions.directory(version) for version in versions.complete() if version != current]
    if in_use([*others, versions.prefix / "lib", versions.prefix / "bin"]):
        restart = " ".join(host.systemctl("restart", "redstreamd"))
        print(f"Another version still runs; to switch to this one: {restart}")
    else:
        print(f"To enable it: {' '.join(host.systemctl('enable', '--now', 'redstreamd.socket'))}")


if __name__ == "__main__":
    sys.exit(main())
