"""Who holds how much: one process with many connections is one process."""

from __future__ import annotations

from redstreamd.admission.accounts import Accounts, Held, Level, Peer
from redstreamd.policy import Principal

AGENTS, ADMIN = Principal("agents", "unix"), Principal("admin", "unix")


def test_what_a_connection_holds_counts_for_its_process_user_and_principal() -> None:
    accounts = Accounts()
    first = accounts.open(AGENTS, Peer(uid=1000, pid=7), "a")
    accounts.open(AGENTS, Peer(uid=1000, pid=8), "b")
    first.hold(Held.WAITS, 3)
    first.hold(Held.WAITS, -1)
    assert [account.name for account in first.path()] == ["all", "agents", "uid 1000", "pid 7", "a"]
    assert [account.held[Held.WAITS] for account in first.path()] == [2] * 5
    assert [account.held[Held.CONNECTIONS] for account in first.path()] == [2, 2, 2, 1, 1]


def test_a_closed_account_gives_back_everything_and_is_forgotten() -> None:
    accounts = Accounts()
    first = accounts.open(AGENTS, Peer(uid=1000, pid=7), "a")
    second = accounts.open(AGENTS, Peer(address="192.0.2.1"), "b")
    first.hold(Held.BYTES, 100)
    accounts.close(first)
    assert list(accounts.all.members["agents"].members) == ["unknown user"]
    assert accounts.all.held == [1, 0, 0, 0]
    accounts.close(second)
    assert accounts.all.members == {}
    assert accounts.greatest(Held.BYTES) is accounts.all


def test_who_holds_most_is_found_from_the_principal_down() -> None:
    accounts = Accounts()
    # Many connections of one process hold more together than the one that holds most by itself.
    for number in range(10):
        accounts.open(AGENTS, Peer(uid=1000, pid=7), f"many {number}").hold(Held.BYTES, 10 + number)
    accounts.open(AGENTS, Peer(uid=1001, pid=9), "one").hold(Held.BYTES, 90)
    accounts.open(ADMIN, Peer(uid=0, pid=1), "admin").hold(Held.BYTES, 100)
    assert accounts.greatest(Held.BYTES).name == "many 9"
    assert accounts.greatest(Held.BYTES, Level.PROCESS).name == "pid 7"


def test_work_for_several_of_a_process_is_used_by_it_and_by_those_above_and_by_none_of_them() -> None:
    accounts = Accounts()
    one, other = (accounts.open(AGENTS, Peer(uid=1000, pid=7), name) for name in "ab")
    process = one.path()[Level.PROCESS]
    one.charge(0.5, now=10.0)
    process.charge(0.25, now=10.0)
    assert [account.used(10.0) for account in one.path()] == [0.75, 0.75, 0.75, 0.75, 0.5]
    assert other.used(10.0) == other.rank == 0
    assert [account.rank for account in one.path()] == [0.75, 0.75, 0.75, 0.75, 0.5]
