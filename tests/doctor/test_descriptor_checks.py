"""Whether the daemon would have the descriptors for its connections."""

from __future__ import annotations

import resource

import attrs
import pytest

from redstreamd.doctor import Service, Severity
from redstreamd.doctor.descriptor_checks import check_descriptors
from redstreamd.settings import Settings
from redstreamd.startup.descriptors import connections_within


def service(limit: str) -> Service:
    return Service(("systemctl",), {"LimitNOFILE": [limit]}, {}, [], [], [])


def settings(max_connections: int) -> Settings:
    given = Settings()
    return attrs.evolve(given, limits=attrs.evolve(given.limits, max_connections=max_connections))


def test_the_limit_of_the_unit_is_compared_with_the_setting() -> None:
    enough = check_descriptors(settings(4096), service("16384"))
    assert (enough.severity, enough.seen) == (Severity.OK, "16384, enough for 4096 connections")
    short = check_descriptors(settings(4096), service("1024"))
    assert short.severity is Severity.WARNING
    assert "1024: there is room for 848 of 4096 connections" in short.seen
    assert "LimitNOFILE= of the service" in short.todo
    assert "to 4400, or lower limits.max_connections" in short.todo


@pytest.mark.parametrize("limit", ["infinity", ""])
def test_a_limit_that_is_no_number_is_not_judged(limit: str) -> None:
    assert check_descriptors(settings(4096), service(limit)).severity is Severity.SKIPPED


def test_without_a_service_it_is_that_of_this_shell() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert check_descriptors(settings(1), None).severity is Severity.OK
    assert check_descriptors(settings(connections_within(hard) + 1), None).severity is Severity.WARNING
