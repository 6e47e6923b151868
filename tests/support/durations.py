"""Which test files take long, so that a parallel run begins with them.

A process takes another file when it is done with one. Begun last, a long file would leave the other processes
without work. Only the order counts, so the seconds need not be exact, and a file below eight is not listed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

#: Seconds by file below tests/.
SECONDS = {
    "systemd/test_upgrade.py": 70,  # as the next one, in the soaks only
    "systemd/test_bridge.py": 70,
    "systemd/test_restarts.py": 65,
    "clients/test_claude_code.py": 50,
    "daemon/test_start.py": 50,
    "model/test_tools_model.py": 50,
    "systemd/test_container.py": 50,
    "systemd/test_daemon.py": 50,
    "cli/test_doctor.py": 45,
    "cli/test_whole.py": 45,
    "systemd/test_doctor.py": 45,
    "systemd/test_runbook.py": 45,
    "model/test_lag_model.py": 40,
    "systemd/test_user_mode.py": 40,
    "daemon/test_subscriptions.py": 35,
    "installing/test_versions.py": 35,
    "mcp_server/test_direct_path.py": 35,
    "systemd/test_install.py": 35,
    "conformance/test_official_suite.py": 30,
    "daemon/test_bad_days.py": 30,
    "daemon/test_transport_edge.py": 30,
    "fairness/test_shares.py": 30,
    "service/test_socket_activation.py": 30,
    "streams/test_lease_model.py": 30,
    "systemd/test_units.py": 30,
    "clients/test_restart_answers.py": 25,
    "clients/test_restart_traffic.py": 25,
    "daemon/test_bounds.py": 25,
    "daemon/test_collector.py": 25,
    "daemon/test_make_run.py": 25,
    "fairness/test_rows.py": 25,
    "faults/test_matrix.py": 25,
    "faults/test_narrow_redis.py": 25,
    "test_imports.py": 25,
    "cli/test_connect_restarts.py": 20,
    "cli/test_status.py": 20,
    "clients/test_codex.py": 20,
    "clients/test_http_configurations.py": 20,
    "clients/test_inspector.py": 20,
    "clients/test_restart_waits.py": 20,
    "clients/test_typescript_sdk.py": 20,
    "compat/test_rollback.py": 20,
    "daemon/test_memory_budget.py": 20,
    "encryption/test_properties.py": 20,
    "faults/test_killed_daemon.py": 20,
    "faults/test_lost_replies.py": 20,
    "faults/test_network.py": 20,
    "fuzz/test_fuzzed_requests.py": 20,
    "mcpio/test_cancellation.py": 20,
    "policy/test_table.py": 20,
    "streamable_http/test_differential.py": 20,
    "topologies/test_models.py": 20,
    "cli/test_connect.py": 15,
    "cli/test_connect_cuts.py": 15,
    "cli/test_main.py": 15,
    "cli/test_protected_listeners.py": 15,
    "clients/test_client_ends.py": 15,
    "daemon/test_greedy_clients.py": 15,
    "daemon/test_main_job.py": 15,
    "daemon/test_one_call.py": 15,
    "daemon/test_stopping.py": 15,
    "faults/test_hung_server.py": 15,
    "faults/test_killed_redis.py": 15,
    "streams/test_set_clocks.py": 15,
    "topologies/test_scenarios.py": 15,
    "clients/test_python_sdk.py": 12,
    "daemon/test_hidden_characters.py": 12,
    "daemon/test_many_waiters.py": 12,
    "daemon/test_rates.py": 12,
    "daemon/test_records.py": 12,
    "resources/test_reading.py": 12,
    "cli/test_call.py": 10,
    "compat/test_old_data.py": 10,
    "conformance/test_requirements.py": 10,
    "contract/test_released.py": 10,
    "embedded/test_embedded_server.py": 10,
    "encryption/test_rotation.py": 10,
    "faults/test_both_ways.py": 10,
    "faults/test_full_disk.py": 10,
    "mcp_server/test_subscriptions.py": 10,
    "mcpio/test_standard_streams.py": 10,
    "scenarios/test_crashing_worker.py": 10,
    "service/test_crash_dump.py": 10,
    "tools/test_needs.py": 10,
    "prompts/test_prompts.py": 8,
    "scenarios/test_asking.py": 8,
}


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests by the time that their files take; those of a file stay together and in their order."""
    items.sort(key=lambda item: -SECONDS.get(str(item.path.relative_to(TESTS)), 0))
