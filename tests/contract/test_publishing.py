"""See tests/contract/conftest.py."""

from tests.streams.test_publishing import *  # noqa: F403
