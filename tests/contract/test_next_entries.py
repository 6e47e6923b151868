"""See tests/contract/conftest.py."""

from tests.streams.test_next_entries import *  # noqa: F403
