"""Principals and permissions; knows neither Redis nor MCP."""

from redstreamd.policy.principals import Permission, Principal

__all__ = ["Permission", "Principal"]
