"""All tools against a model: JSON in, JSON out, over a real server; the two never disagree.

Hypothesis lets agents publish, share, finish, fail, ask and answer, and operators trim, replay, move and
destroy, in any order and with leases of any age. A model predicts each answer or the code of each error;
after each step the server holds exactly what the model says. Every answer fits its output schema and the
byte bound. Time stands still here (leases are long); what it does is in tests/streams/test_lease_model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import initialize, invariant, run_state_machine_as_test

from redstreamd.settings import LeasesSettings, Settings, ToolsSettings
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.toolbox import toolbox_over
from tests.encryption.rings import InForce, KeyDirectory
from tests.model.administration import Administration
from tests.model.calling import MAX_RESULT_BYTES
from tests.model.choices import LEASES, MEMBERS, NAMES
from tests.model.looking import Looking
from tests.model.publishing import Publishing
from tests.model.requesting import Requesting
from tests.model.world import MAX_DELIVERIES, Lease
from tests.support.buses import BusThread
from tests.support.counts import LONG
from tests.support.servers import Server
from tests.support.topologies import Deployed


class ToolsMachine(Publishing, Looking, Requesting, Administration):
    """Two streams, two groups, two agents and an operator."""

    # Bundles are found where the machine is defined.
    leases = LEASES

    @initialize(target=LEASES, members=MEMBERS)
    def begin(self, members: dict[str, Any]) -> Lease:
        """Some work is there, and some of it is taken."""
        self.add(NAMES[0], 4, members, None)
        lease = self.take_some(NAMES[0], "g", "a", 2)
        assert lease is not None
        return lease

    @invariant()
    def the_server_holds_what_the_model_says(self) -> None:
        for name, stream in self.world.streams.items():
            entries, groups = self.server.commands(("XRANGE", name, "-", "+"), ("XINFO", "GROUPS", name))
            found = {one.decode(): self.stored(name, flat).members for one, flat in entries}
            assert found == stream.entries
            actual = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in groups]
            assert {line[b"name"].decode(): line[b"last-delivered-id"].decode() for line in actual} == {
                group: state.position for group, state in stream.groups.items()
            }
            for group, state in stream.groups.items():
                pending = self.server.command("XPENDING", name, group, "-", "+", 1_000)
                assert {one.decode(): (owner.decode(), n) for one, owner, _, n in pending} == {
                    one: (held.owner, held.attempt) for one, held in state.pending.items()
                }


@pytest.mark.parametrize(
    ("kind", "examples"),
    [
        # The other servers run the same calls in tests/contract.
        ("redis", 20),
        pytest.param("redis", 200, marks=LONG),
        pytest.param("valkey", 100, marks=LONG),
        pytest.param("redis8", 100, marks=LONG),
    ],
)
def test_the_tools_do_what_the_model_says(request: pytest.FixtureRequest, kind: str, examples: int) -> None:
    check_model(request.getfixturevalue(f"{kind}_server"), examples)


#: How many more runs there may be until each tool succeeded.
FURTHER_RUNS = 8

#: How the streams of `NAMES` are encrypted.
FORMS = {
    "values": ["* are encrypted"],
    "names": ["* are encrypted with names"],
    "values of one, names of the other": [f"{NAMES[0]} are encrypted", "* are encrypted with names"],
}


@pytest.mark.parametrize(
    ("form", "examples"),
    [
        ("values of one, names of the other", 8),
        *(pytest.param(form, 40, marks=pytest.mark.soak_ci) for form in ("values", "names")),
        *(pytest.param(form, 300, marks=pytest.mark.soak) for form in FORMS),
    ],
)
def test_the_tools_do_the_same_where_entries_are_encrypted(
    redis_server: Server, tmp_path: Path, form: str, examples: int
) -> None:
    clear = frozenset({"n", "at"})
    rules = [f"{rule} except {' '.join(sorted(clear))}" for rule in FORMS[form]]
    chosen = InForce(KeyDirectory(tmp_path / "keys", "k1"), "k1", *rules)
    check_model(redis_server, examples, chosen, {"keys": chosen.keys, "clear": clear})


def check_model(
    server: Deployed,
    examples: int,
    encryption: InForce | None = None,
    known: Mapping[str, Any] | None = None,
    *,
    machine: type[ToolsMachine] = ToolsMachine,
    whole: bool = True,
) -> None:
    """Run the model on a server.

    Args:
        server: The server.
        examples: How many sequences of calls.
        encryption: By which entries are encrypted, if they are.
        known: What the model knows of that.
        machine: The model, perhaps with further rules.
        whole: Whether each tool must have succeeded; for that it goes on until each has.
    """
    chosen = Settings(
        leases=LeasesSettings(max_deliveries=MAX_DELIVERIES),
        tools=ToolsSettings(max_result_bytes=MAX_RESULT_BYTES),
    )
    every = {tool.name for tool in REGISTRY}
    succeeded: set[str] = set()
    threads = BusThread(
        server, 1, chosen, encryption=Encryption if encryption is None else encryption.encryption
    )
    try:
        toolbox = toolbox_over(threads.buses[0], REGISTRY, [Profile.OPERATOR, Profile.RED_STREAM])
        attributes = {"server": server, "threads": threads, "toolbox": toolbox, "succeeded": succeeded}
        attributes |= known or {}
        # Chance may leave a tool out of the first run, and where Hypothesis has a seed it would draw the
        # same again: the further runs have seeds of their own. A tool without a rule is left out of all.
        for run in range(FURTHER_RUNS + 1):
            drawn = type("Machine", (machine,), attributes)
            run_state_machine_as_test(
                seed(run)(drawn) if run else drawn,
                settings=settings(
                    max_examples=min(examples, 20) if run else examples,
                    stateful_step_count=50,
                    deadline=None,
                    database=None,
                    # Shrinking and explaining repeat a failure very often, and each repetition talks to a
                    # server.
                    phases=[Phase.explicit, Phase.generate],
                    suppress_health_check=list(HealthCheck),
                ),
            )
            if succeeded == every or not whole:
                break
    finally:
        threads.close()
    assert succeeded == every or not whole
