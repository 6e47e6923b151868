"""Which settings a reload changes: each is in exactly one class, and the reference says in which."""

from __future__ import annotations

from redstreamd.daemon.reload_table import TABLE
from redstreamd.settings import as_markdown
from redstreamd.settings.definitions import DEFINITIONS
from redstreamd.settings.reloading import RESTART_ONLY


def test_every_setting_is_applied_by_a_reload_or_says_why_it_needs_a_restart() -> None:
    applied = {key for row in TABLE for key in row.keys}
    assert not applied & RESTART_ONLY.keys()
    assert applied | RESTART_ONLY.keys() == DEFINITIONS.keys()


def test_the_reference_says_of_each_setting_what_a_reload_does() -> None:
    lines = as_markdown().splitlines()
    assert lines.count("- Reload: applies at once") == len(DEFINITIONS) - len(RESTART_ONLY)
    for reason in set(RESTART_ONLY.values()):
        wanted = list(RESTART_ONLY.values()).count(reason)
        assert lines.count(f"- Reload: needs a restart, because {reason}") == wanted
