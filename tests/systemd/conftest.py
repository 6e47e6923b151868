"""One booted container for all tests of a run; each test brings its units and takes them away again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systemd.harness import Container, booted, install_environment


@pytest.fixture(scope="session")
def container() -> Iterator[Container]:
    """A real systemd with this checkout installed in /opt/redstreamd."""
    with booted() as container:
        install_environment(container)
        yield container
