"""See tests/contract/conftest.py."""

from tests.streams.test_stream_ends import *  # noqa: F403
