"""Hands records to Python's logging, from which `service.log_output` writes them."""

from __future__ import annotations

import logging
from typing import Final

from redstreamd.service.log_record import Record, Severity

_LOG: Final = logging.getLogger("redstreamd")
_LEVELS: Final = {
    Severity.CRITICAL: logging.CRITICAL,
    Severity.ERROR: logging.ERROR,
    Severity.WARNING: logging.WARNING,
    Severity.NOTICE: logging.INFO,
    Severity.INFO: logging.INFO,
    Severity.DEBUG: logging.DEBUG,
}


def write_logged(record: Record) -> None:
    """Log a record."""
    _LOG.log(_LEVELS[record.severity], "%s", "\n".join(filter(None, (record.text, record.traceback))))
