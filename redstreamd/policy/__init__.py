"""Who is calling and what they may do; a leaf that knows neither Redis nor MCP."""

from redstreamd.policy.principals import Permission, Principal

__all__ = ["Permission", "Principal"]
