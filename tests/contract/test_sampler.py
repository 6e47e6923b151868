"""Which consumers are active is told from what each server tells of them; see tests/contract/conftest.py."""

from tests.streams.test_sampler import (  # noqa: F401
    test_consumers_that_got_or_claimed_an_entry_since_sampling_began_are_active,
    test_who_stands_in_for_a_removed_consumer_is_not_active,
)
