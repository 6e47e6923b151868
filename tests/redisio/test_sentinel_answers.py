"""What follows from what sentinels say: reading their replies, and the choice among what they name."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.redisio.sentinel_answers import (
    Address,
    Choice,
    KnownSentinel,
    NamedPrimary,
    UnreadableAnswerError,
    candidates,
    is_switch,
    known_sentinels,
    named_primary,
)

OLD: Address = ("10.0.0.1", 6379)
NEW: Address = ("10.0.0.2", 6379)
THIRD: Address = ("fd00::3", 6379)


def _order(
    *answers: NamedPrimary, total: int = 3, seen: int = 0, current: Address | None = None
) -> list[Address]:
    choice = Choice()
    choice.current, choice.epoch = current, seen
    found = candidates(answers, total=total, current=current)
    return [each.address for each in choice.among(found, 0.0)]


def test_the_address_is_the_promoted_one_and_the_epoch_that_of_its_failover() -> None:
    master = {
        b"ip": b"10.0.0.1",
        b"port": b"6379",
        b"flags": b"master,failover_in_progress",
        b"config-epoch": b"7",
    }
    named = named_primary(master, [b"10.0.0.2", b"6379"])
    assert named == NamedPrimary(NEW, 7, frozenset({"master", "failover_in_progress"}))


def test_lists_in_the_place_of_maps_are_read_the_same() -> None:
    named = named_primary([b"flags", b"master", b"config-epoch", b"0"], [b"redis-1.example.org", b"6380"])
    assert named == NamedPrimary(("redis-1.example.org", 6380), 0, frozenset({"master"}))


@pytest.mark.parametrize(
    ("master", "address"),
    [
        ([], [b"10.0.0.1", b"6379"]),
        ({}, [b"10.0.0.1", b"6379"]),
        ({b"config-epoch": b"x"}, [b"10.0.0.1", b"6379"]),
        ({b"config-epoch": b"-1"}, [b"10.0.0.1", b"6379"]),
        ({b"config-epoch": b"1"}, None),
        ({b"config-epoch": b"1"}, [b"10.0.0.1"]),
        ({b"config-epoch": b"1"}, [b"", b"6379"]),
        ({b"config-epoch": b"1"}, [b"a b", b"6379"]),
        ({b"config-epoch": b"1"}, [b"a" * 256, b"6379"]),
        ({b"config-epoch": b"1"}, [b"10.0.0.1", b"0"]),
        ({b"config-epoch": b"1"}, [b"10.0.0.1", b"65536"]),
        ({b"config-epoch": b"1", b"flags": 1}, [b"10.0.0.1", b"6379"]),
        (b"OK", [b"10.0.0.1", b"6379"]),
        ([[], b"1"], [b"10.0.0.1", b"6379"]),
        (7, 7),
    ],
)
def test_replies_that_make_no_sense_are_refused(master: Any, address: Any) -> None:
    with pytest.raises(UnreadableAnswerError):
        named_primary(master, address)


def test_other_sentinels_are_read_with_who_they_are_and_bounded_in_number() -> None:
    line = {b"ip": b"10.0.0.9", b"port": b"26379", b"runid": b"abc", b"flags": b"sentinel"}
    assert known_sentinels([line]) == [KnownSentinel(("10.0.0.9", 26379), "abc")]
    assert len(known_sentinels([line] * 1_000)) == 16
    for unreadable in (None, [7], [{b"ip": b"10.0.0.9"}]):
        with pytest.raises(UnreadableAnswerError):
            known_sentinels(unreadable)


def test_a_switch_of_another_primary_is_not_ours() -> None:
    assert is_switch([b"message", b"+switch-master", b"bus 10.0.0.1 6379 10.0.0.2 6379"], "bus")
    assert not is_switch([b"message", b"+switch-master", b"bus2 10.0.0.1 6379 10.0.0.2 6379"], "bus")
    assert not is_switch([b"subscribe", b"+switch-master", 1], "bus")
    assert not is_switch([b"message", b"+switch-master", None], "bus")


def test_the_first_that_knows_of_a_failover_is_followed() -> None:
    assert _order(NamedPrimary(OLD, 1), NamedPrimary(OLD, 1), NamedPrimary(NEW, 2), current=OLD) == [NEW, OLD]


def test_those_cut_off_with_the_former_primary_do_not_lead_back_to_it() -> None:
    assert _order(NamedPrimary(OLD, 1), seen=2, current=NEW) == []
    assert _order(NamedPrimary(OLD, 1), NamedPrimary(NEW, 2), seen=2, current=NEW) == [NEW]


def test_more_than_half_lead_back_to_a_lower_epoch_once_they_have_stayed_with_it() -> None:
    choice = Choice()
    choice.current, choice.epoch = NEW, 9
    answers = [NamedPrimary(OLD, 0), NamedPrimary(OLD, 0), NamedPrimary(NEW, 9)]

    def first(now: float, total: int = 3) -> Address:
        return choice.among(candidates(answers, total=total, current=choice.current), now)[0].address

    assert first(0.0) == first(4.9) == NEW
    assert first(5.0, total=4) == NEW  # no more than half: from the beginning
    assert first(6.0) == first(10.9) == NEW
    assert first(11.0) == OLD
    choice.use(candidates(answers, total=3, current=NEW)[1])
    assert (choice.current, choice.epoch) == (OLD, 0)
    # The one that still names the other does not lead there again, unless others follow it.
    assert first(12.0) == OLD
    answers[0] = NamedPrimary(NEW, 9)
    assert first(13.0) == NEW


def test_those_who_do_not_know_of_a_failover_yet_do_not_lead_back() -> None:
    choice = Choice()
    choice.current, choice.epoch = OLD, 1
    for known in range(1, 4):
        answers = [NamedPrimary(NEW, 2)] * known + [NamedPrimary(OLD, 1)] * (3 - known)
        found = choice.among(candidates(answers, total=3, current=choice.current), known)
        assert found[0].address == NEW
        choice.use(found[0])
    assert choice.epoch == 2


def test_of_the_same_epoch_most_votes_win_then_the_one_in_use() -> None:
    assert _order(NamedPrimary(NEW, 3), NamedPrimary(NEW, 3), NamedPrimary(OLD, 3), current=OLD) == [NEW, OLD]
    assert _order(NamedPrimary(NEW, 3), NamedPrimary(OLD, 3), current=OLD) == [OLD, NEW]
    assert _order(NamedPrimary(NEW, 3), NamedPrimary(OLD, 3), current=NEW) == [NEW, OLD]


def test_a_liar_with_a_high_epoch_comes_first_and_is_not_by_most() -> None:
    found = candidates(
        [NamedPrimary(THIRD, 10**19), NamedPrimary(OLD, 1), NamedPrimary(OLD, 1)],
        total=3,
        current=OLD,
    )
    assert [(each.address, each.votes, each.is_by_most) for each in found] == [
        (THIRD, 1, False),
        (OLD, 2, True),
    ]


def test_the_order_of_the_answers_does_not_count() -> None:
    one, two, three = NamedPrimary(OLD, 1), NamedPrimary(NEW, 1), NamedPrimary(THIRD, 1)
    assert _order(one, two, three) == _order(three, two, one) == _order(two, three, one)
