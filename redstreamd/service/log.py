"""Logging."""

from __future__ import annotations

import logging


def set_up_logging(level: str) -> None:
    """Log to stderr."""
    logging.basicConfig(level=level.upper())
