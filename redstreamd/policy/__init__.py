"""Principals, permissions, needs and the rules that grant them; knows neither Redis nor MCP."""

from redstreamd.policy.access import Policy, StreamFilter
from redstreamd.policy.needs import Need
from redstreamd.policy.principals import Permission, Principal
from redstreamd.policy.rules import Rule

__all__ = ["Need", "Permission", "Policy", "Principal", "Rule", "StreamFilter"]
