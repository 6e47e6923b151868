"""See tests/contract/conftest.py."""

from tests.streams.test_work import *  # noqa: F403
