"""See tests/contract/conftest.py."""

from tests.streams.test_tail_hub import *  # noqa: F403
