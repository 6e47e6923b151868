"""What nodes tell becomes one map, also where they differ, and nothing else becomes one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.redisio.slot_map import SLOTS, NoSlotsError, View, address_of, agreed, slot_of
from redstreamd.redisio.unexpected_replies import UNREADABLE

Told = list[tuple[int, int, str]]
"""First slot, last slot, the letter of the primary."""

THIRDS: Told = [(0, 5460, "a"), (5461, 10922, "b"), (10923, 16383, "c")]


def id_of(letter: str) -> bytes:
    return letter.encode() * 40


def port_of(letter: str) -> int:
    return 7000 + ord(letter) - ord("a")


def node(letter: str, host: Any = b"10.0.0.1") -> list[Any]:
    return [host, port_of(letter), id_of(letter), []]


def view(
    of: str, told: Told, *, epoch: int = 6, own: int = 1, ok: bool = True, host: Any = b"10.0.0.1"
) -> View:
    """Return what a node tells that was reached by a name."""
    state = "ok" if ok else "fail"
    info = f"cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\ncluster_my_epoch:{own}\r\n"
    slots = [[first, last, node(owner, host), node(owner.upper(), host)] for first, last, owner in told]
    return View.read(("reached", 7000), (id_of(of), info.encode(), slots))


def owner_of(slot: int, *views: View) -> str | None:
    owner = agreed(views).owners[slot]
    return None if owner is None else owner[0]


def test_keys_with_one_tag_share_a_slot() -> None:
    assert slot_of("{orders}:new") == slot_of("{orders}:done") == slot_of("orders")
    assert slot_of("{}orders") != slot_of("{}done")


def test_one_view_is_the_map() -> None:
    found = agreed([view("a", THIRDS)])
    assert [found.owners[slot] for slot in (0, 5460, 5461, 16383)] == [
        id_of(letter).decode() for letter in "aabc"
    ]
    assert list(found.primaries.values()) == [("10.0.0.1", port_of(letter)) for letter in "abc"]
    assert found.addresses[id_of("A").decode()] == ("10.0.0.1", port_of("A"))  # a replica may be asked, too
    assert found.runs == ((0, 5460, "a" * 40), (5461, 10922, "b" * 40), (10923, 16383, "c" * 40))
    assert not found.unserved
    assert not found.is_disputed


def test_what_a_primary_says_of_its_own_slots_comes_before_what_others_heard() -> None:
    moved = [(0, 99, "b"), (100, 5460, "a"), *THIRDS[1:]]
    views = [view("a", THIRDS, own=1), view("b", moved, own=7), view("c", THIRDS, own=3)]
    assert owner_of(50, *views) == "b"
    assert owner_of(50, *reversed(views)) == "b"
    assert agreed(views).is_disputed
    assert not agreed([view(letter, moved) for letter in "abc"]).is_disputed


def test_a_primary_that_was_cut_off_does_not_get_back_what_its_replica_serves() -> None:
    promoted = [(0, 5460, "d"), *THIRDS[1:]]
    views = [view("a", THIRDS, epoch=6, own=1), view("b", promoted, epoch=7, own=2)]
    assert owner_of(0, *views) == "d"
    assert agreed(views).epoch == 7


def test_a_replica_that_tries_in_vain_to_be_elected_is_not_believed() -> None:
    views = [view("A", [(0, 5460, "a")], epoch=99, ok=False), view("b", THIRDS)]
    assert owner_of(16383, *views) == "c"
    assert agreed(views).is_ok


def test_slots_that_nobody_serves_are_named() -> None:
    found = agreed([view("a", [(0, 5460, "a"), (5462, 10922, "b"), (10923, 16000, "c")], ok=False)])
    assert found.unserved == "5461, 16001-16383"
    assert found.owners[5461] is None
    assert not found.is_ok


@pytest.mark.parametrize("host", [None, b"", b"?"])
def test_a_node_without_a_host_is_where_the_one_that_was_asked_is(host: bytes | None) -> None:
    assert agreed([view("a", THIRDS, host=host)]).primaries[id_of("b").decode()] == ("reached", port_of("b"))


def test_a_node_has_one_address_whoever_announces_it() -> None:
    """A node that does not know its own address is announced by the others."""
    found = agreed([view("b", THIRDS, own=2), view("a", THIRDS, own=9, host=b"")])
    assert set(found.addresses.values()) == {("10.0.0.1", port_of(letter)) for letter in "abcABC"}


@pytest.mark.parametrize("port", [0, -1, 65536, None, "7000", True])
def test_nothing_listens_on_other_than_a_port(port: Any) -> None:
    with pytest.raises(ValueError, match="port"):
        address_of("host", port, host="other")


@pytest.mark.parametrize("host", [b"a\0b", b"a b", b"a\nb", b"h" * 256, 7, [], True])
def test_what_can_be_no_address_is_none(host: Any) -> None:
    with pytest.raises(ValueError, match="host"):
        address_of(host, 7000, host="other")


@pytest.mark.parametrize(
    "slots",
    [
        [[0, 16383]],
        [[0, 99, node("a")], [100, 16383]],
        [[0, 16383, node("a")], [0, 16383, node("b")]],
        [[0, 16383, *([b"h", 1, b"%040d" % number] for number in range(1001))]],
        [[slot, slot, [b"h", 1, b"%040d" % slot]] for slot in range(SLOTS)],
    ],
    ids=["no node", "no node of some", "two owners", "replicas without end", "primaries without end"],
)
def test_slots_without_a_node_with_two_owners_or_too_many_are_no_map(slots: list[Any]) -> None:
    with pytest.raises(ValueError):
        View.read(("reached", 7000), (*GOOD, slots))


def test_a_thousand_nodes_are_a_map() -> None:
    slots = [[slot, slot, [b"h", 1, b"%040d" % slot]] for slot in range(1000)]
    assert len(agreed([View.read(("reached", 7000), (*GOOD, slots))]).primaries) == 1000


def test_a_node_that_belongs_to_no_cluster_tells_no_map() -> None:
    with pytest.raises(NoSlotsError):
        view("a", [])


GOOD = (id_of("a"), b"cluster_state:ok\r\ncluster_current_epoch:6\r\ncluster_my_epoch:1\r\n")

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70_000) | st.binary(max_size=4) | st.text(max_size=4),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.binary(max_size=3), each, max_size=2),
)


@given(st.lists(ANYTHING, min_size=3, max_size=3))
def test_a_reply_of_another_form_is_no_map(replies: list[Any]) -> None:
    with pytest.raises((NoSlotsError, *UNREADABLE)):
        View.read(("reached", 7000), replies)


@given(st.lists(st.tuples(st.integers(-1, SLOTS), st.integers(-1, SLOTS), ANYTHING), max_size=3), ANYTHING)
def test_slots_that_do_not_exist_are_no_map(rows: list[tuple[int, int, Any]], port: Any) -> None:
    slots = [[first, last, [b"h", port if other is None else 1, id_of("a")]] for first, last, other in rows]
    try:
        found = View.read(("reached", 7000), (*GOOD, slots))
    except (NoSlotsError, *UNREADABLE):
        return
    assert len(agreed([found]).owners) == SLOTS
    assert all(0 <= each.first <= each.last < SLOTS for each in found.slots)
