"""What the rules choose from: few names and small numbers, so that one rule meets what another left."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import Bundle

from tests.model.world import Lease

NAMES = ["shop:orders:paid", "täglich {x}"]
#: A key of another type.
NO_STREAM = "no-stream"
#: The first is the busy one.
STREAMS = st.sampled_from([*NAMES, NAMES[0], NAMES[0]])
GROUPS = st.sampled_from(["g", "h{1}", "g", "g"])
CONSUMERS = st.sampled_from(["a", "b"])
COUNTS = st.integers(1, 6)
#: The third is larger than an answer may be.
MEMBERS = st.sampled_from([{"n": 1}, {"text": "Grüße", "list": [1, None, {"x": 0.5}]}, {"big": "x" * 3_000}])
KEYS = st.sampled_from(["k", "l"])
ACTIONS = st.sampled_from(["done", "done and delete", "extend", "renew", "retry", "release", "dead_letter"])
#: max_deliveries that somebody asks for; often nothing.
LIMITS = st.sampled_from([None, None, None, 1, 5, 0])
#: What destroys much is done seldom, or little would ever happen in between.
SELDOM_DONE = st.sampled_from([True, True, True, True, False])
#: Leases that were given; any of them may be settled at any time.
LEASES: Bundle[Lease] = Bundle("leases")
#: Seconds; nothing runs out in a test.
LONG = 50_000.0
