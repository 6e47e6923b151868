"""The test server of this package, running while a test does."""

from __future__ import annotations

import pytest

from tests.mcpio.serving import Pair, Service, connection_pair, serving
from tests.support.limits import Deferred


@pytest.fixture
def service() -> Deferred[Service]:
    """The test server on a Unix socket."""
    return Deferred(serving())


@pytest.fixture
def pair() -> Deferred[Pair]:
    """The test server on one end of a socket pair."""
    return Deferred(connection_pair())
