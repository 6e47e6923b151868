"""What is offered to whom whose token has scopes."""

from __future__ import annotations

from redstreamd.policy import Permission, Policy, Principal, Rule
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.offers import Offers

READING = Principal("ann", "http", permissions=frozenset({Permission.READ}))


def offers(*rules: str) -> Offers:
    return Offers(REGISTRY, [Profile.WORKER], Policy([Rule.parse(rule) for rule in rules], has_scopes=True))


def test_a_missing_scope_is_named_only_if_it_is_all_that_is_missing() -> None:
    assert offers().missing_scope(READING, "stream_add") is Permission.PUBLISH
    assert offers().missing_scope(READING, "stream_read") is None
    # Another profile's, and none.
    assert offers().missing_scope(READING, "stream_manage") is None
    assert offers().missing_scope(READING, "nothing") is None
    # Not granted to its name either: more scopes would not help, and the tool does not exist for it.
    assert offers("ann may read on *").missing_scope(READING, "stream_add") is None
    assert offers("ann may publish on a:*").missing_scope(READING, "stream_add") is Permission.PUBLISH
    assert offers().missing_scope(Principal("ann", "http"), "stream_add") is None
