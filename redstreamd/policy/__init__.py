"""Principals, permissions and needs; knows neither Redis nor MCP."""

from redstreamd.policy.needs import Authorise, Need, allow_all
from redstreamd.policy.principals import Permission, Principal

__all__ = ["Authorise", "Need", "Permission", "Principal", "allow_all"]
