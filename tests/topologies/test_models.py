"""The models of leases and of the tools on topologies of several servers; see conftest.py."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.model import test_tools_model
from tests.model.choices import NAMES
from tests.model.test_tools_model import ToolsMachine
from tests.streams import test_lease_model
from tests.streams.test_lease_model import STREAM, LeaseMachine
from tests.support.counts import counts
from tests.support.redis_cluster import Cluster
from tests.support.topologies import Deployed, on_topologies

#: In more examples than these, each tool succeeds.
MANY = 50


@pytest.mark.parametrize(("server", "examples"), on_topologies(4, ci=40, full=300), indirect=["server"])
def test_leases_behave_as_the_model_says(server: Deployed, examples: int) -> None:
    test_lease_model.check_model(examples, server)


@pytest.mark.parametrize(("server", "examples"), on_topologies(3, ci=20, full=200), indirect=["server"])
def test_the_tools_do_what_the_model_says(server: Deployed, examples: int) -> None:
    test_tools_model.check_model(server, examples, whole=examples > MANY)


class Moving:
    """A further rule, by which a cluster changes between calls; daemons learn of it from replies only.

    Attributes:
        server: The cluster.
        names: The streams whose slots move.
    """

    server: Cluster
    names: list[str]

    @rule(turn=st.integers(1, 2), which=st.integers(0, 1))
    def a_slot_moves(self, turn: int, which: int) -> None:
        slot = self.server.slot(self.names[which % len(self.names)])
        primaries = self.server.primaries()
        at = primaries.index(self.server.owner(slot))
        self.server.move_slot(slot, primaries[(at + turn) % len(primaries)])


class TakingOver(Moving):
    """One more: a replica takes over."""

    @rule(which=st.integers(0, 1))
    def a_replica_takes_over(self, which: int) -> None:
        primary = self.server.node_of(self.names[which % len(self.names)])
        self.server.failover(self.server.replica_of(primary))


class MovingLeases(TakingOver, LeaseMachine):
    """The lease model on a cluster that changes."""

    names = [STREAM]  # noqa: RUF012 - read only


class MovingTools(Moving, ToolsMachine):
    """The tools model on a cluster whose slots move."""

    names = NAMES


class TakenOverTools(TakingOver, ToolsMachine):
    """The tools model on a cluster that changes in every way."""

    names = NAMES


ON_CLUSTER = pytest.mark.parametrize("server", ["cluster"], indirect=True)


@ON_CLUSTER
@pytest.mark.parametrize("examples", counts(3, ci=20, full=300))
def test_leases_behave_as_the_model_says_while_the_stream_moves(server: Cluster, examples: int) -> None:
    test_lease_model.check_model(examples, server, machine=MovingLeases)


@ON_CLUSTER
@pytest.mark.parametrize("examples", counts(3, ci=10, full=200)[1:])
def test_the_tools_do_what_the_model_says_while_streams_move(server: Cluster, examples: int) -> None:
    test_tools_model.check_model(server, examples, machine=MovingTools, whole=examples > MANY)


# A replica of Redis 7.0 does not learn how many entries a group has read, and tells a wrong lag afterwards.
@pytest.mark.soak
@pytest.mark.parametrize("server", ["cluster-valkey", "cluster-redis8"], indirect=True)
def test_the_tools_do_what_the_model_says_while_replicas_take_over(server: Cluster) -> None:
    test_tools_model.check_model(server, 200, machine=TakenOverTools)
