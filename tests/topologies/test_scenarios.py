"""The stories of tests/scenarios on topologies of several servers; see tests/topologies/conftest.py."""

from tests.scenarios.test_asking import *  # noqa: F403
from tests.scenarios.test_crashing_worker import *  # noqa: F403
from tests.scenarios.test_dead_letter import *  # noqa: F403
from tests.scenarios.test_growing_lag import *  # noqa: F403
