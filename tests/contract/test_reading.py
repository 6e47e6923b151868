"""See tests/contract/conftest.py."""

from tests.streams.test_reading import *  # noqa: F403
