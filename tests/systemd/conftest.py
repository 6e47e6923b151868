"""One booted container for all tests of a run; each test brings its units and takes them away again.

A test that fails is reported with the end of its container's journal.
"""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Iterator

import pytest

from tests.systemd.harness import Container, booted, install_environment


@pytest.fixture(scope="session")
def container() -> Iterator[Container]:
    """A real systemd with this checkout installed in /opt/redstreamd."""
    with booted() as container:
        install_environment(container)
        yield container


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failure what the container has to say, before a fixture stops the units."""
    report = yield
    if report.failed and report.when != "teardown":
        # A fixture of a test is a container, or has one.
        values = [getattr(each, "host", each) for each in item.funcargs.values()]
        for container in {each.pid: each for each in values if isinstance(each, Container)}.values():
            try:
                account = container.account()
            except (OSError, subprocess.SubprocessError) as gone:
                account = f"cannot be asked any more: {gone}"
            report.sections.append(("The container", account))
    return report
