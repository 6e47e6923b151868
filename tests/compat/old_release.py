"""Runs an earlier release of the daemon, from the archive of its package beside its data.

It runs under the interpreter of the tests, with the dependencies of the present version.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.compat.old_data import DATA
from tests.support.daemon import Daemon, running_daemon
from tests.support.servers import Server

#: The releases whose package is kept.
RELEASES = sorted(path.parent.name for path in DATA.glob("*/redstreamd.zip"))

#: The same as ``python -m redstreamd``, but in the end it writes down where the code came from.
_SCRIPT = """
import pathlib, sys
from redstreamd.cli import main
status = main()
files = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "redstreamd"]
pathlib.Path({path!r}).write_text("\\n".join(sorted(files)), "utf-8")
sys.exit(status)
"""


@attrs.define
class Package:
    """The package of some version, as a directory.

    Attributes:
        directory: What holds the package `redstreamd`.
        loaded: The modules that its daemon had loaded when it ended; those of the last run.
    """

    directory: Path
    loaded: list[Path] = attrs.field(factory=list)

    @contextlib.contextmanager
    def running(self, server: Server, home: Path, **variables: str) -> Iterator[Daemon]:
        """Run its daemon for the block; see `running_daemon`."""
        # -P: the working directory, which holds the present version, is not searched.
        modules = home / "modules"
        program = (sys.executable, "-P", "-c", _SCRIPT.format(path=str(modules)))
        variables |= {"PYTHONPATH": str(self.directory)}
        with running_daemon(server, directory=home, program=program, **variables) as daemon:
            yield daemon
        self.loaded = [Path(line) for line in modules.read_text("utf-8").splitlines()]
        modules.unlink()


@contextlib.contextmanager
def old_package(release: str) -> Iterator[Package]:
    """Unpack a release for the block."""
    # Its scripts for Redis are read as files, so it is not imported from the archive itself.
    with tempfile.TemporaryDirectory(prefix="rs-code-") as directory:
        with zipfile.ZipFile(DATA / release / "redstreamd.zip") as archive:
            archive.extractall(directory)
        yield Package(Path(directory))
