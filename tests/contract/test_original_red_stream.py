"""See tests/contract/conftest.py."""

from tests.tools.test_original_red_stream import *  # noqa: F403
