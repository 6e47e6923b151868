"""See tests/contract/conftest.py."""

from tests.tools.test_released import *  # noqa: F403
