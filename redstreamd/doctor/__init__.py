"""Finds out what is wrong between a client and the streams, from the settings to the running daemon.

Each check says what was tried, what was seen and what to do. A check that cannot be made because
an earlier one failed is skipped, with the reason. No check changes a stream.
"""

from redstreamd.doctor.report import Check, Severity, exit_status, invalid_settings
from redstreamd.doctor.runner import examine, without_settings
from redstreamd.doctor.service_environment import UNIT, Service, find_service

__all__ = [
    "UNIT",
    "Check",
    "Service",
    "Severity",
    "examine",
    "exit_status",
    "find_service",
    "invalid_settings",
    "without_settings",
]
