"""Which test files take long, so that a parallel run begins with them.

A process takes another file when it is done with one. Begun last, a long file would leave the other processes
without work. Only the order counts, so the seconds need not be exact, and a short file need not be listed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

#: Seconds by file below tests/.
SECONDS = {
    "systemd/test_restarts.py": 75,
    "systemd/test_upgrade.py": 70,
    "systemd/test_install.py": 65,
    "systemd/test_daemon.py": 60,
    "systemd/test_user_mode.py": 60,
    "daemon/test_transport_edge.py": 60,
    "daemon/test_start.py": 60,
    "fairness/test_rows.py": 55,
    "model/test_tools_model.py": 50,
    "systemd/test_doctor.py": 45,
    "systemd/test_bridge.py": 40,
    "cli/test_connect_restarts.py": 35,
    "mcp_server/test_direct_path.py": 35,
    "resources/test_reading.py": 25,
    "test_imports.py": 25,
    "compat/test_rollback.py": 20,
    "cli/test_connect.py": 15,
    "cli/test_main.py": 15,
    "streams/test_set_clocks.py": 15,
}


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests by the time that their files take; those of a file stay together and in their order."""
    items.sort(key=lambda item: -SECONDS.get(str(item.path.relative_to(TESTS)), 0))
