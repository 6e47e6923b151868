"""Checks everything between a client and the streams, from the settings to the running daemon.

A result says what was tried, what was seen and what to do. A check whose prerequisite failed is skipped. No
check changes a stream.
"""

from redstreamd.doctor.report import CheckResult, Severity, exit_status, invalid_settings
from redstreamd.doctor.runner import results_without_settings, run_checks
from redstreamd.doctor.service_environment import UNIT, Service, find_service

__all__ = [
    "UNIT",
    "CheckResult",
    "Service",
    "Severity",
    "exit_status",
    "find_service",
    "invalid_settings",
    "results_without_settings",
    "run_checks",
]
