"""The tests of `tests.streams.test_known_pages` on other servers."""

from tests.streams.test_known_pages import *  # noqa: F403 - collected here once more
