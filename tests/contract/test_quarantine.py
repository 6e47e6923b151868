"""See tests/contract/conftest.py."""

from tests.tools.test_quarantine import *  # noqa: F403
