"""What may be sent again to a daemon that went before it answered.

Held by a test to the annotations of the tools, of every profile.
"""

from __future__ import annotations

from typing import Any, Final

#: Requests that change nothing, by their definition in MCP, or whose repetition changes nothing.
REPEATABLE_METHODS: Final = frozenset(
    {
        "initialize",
        "ping",
        "server/discover",
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "subscriptions/listen",
        "prompts/list",
        "prompts/get",
        "completion/complete",
    }
)

#: Tools that change nothing.
READ_ONLY_TOOLS: Final = frozenset(
    {
        "get_stream_messages",
        "list_groups",
        "list_streams",
        "pending_list",
        "stream_health",
        "stream_list",
        "stream_read",
        "stream_wait",
    }
)

#: Tools that write, but a repeated call of which changes nothing more. The caller is told so: the daemon that
#: comes may be of another release, so the decision is left to the caller.
IDEMPOTENT_TOOLS: Final = frozenset(
    {"create_consumer_group", "group_create", "quarantine_release", "work_done", "work_fail"}
)

_CHECK: Final = (
    "Check whether it took effect before repeating it; a repeat with an idempotency key is safe where the "
    "tool offers one."
)
_STEPS: Final = {
    "work_take": "Call work_take with resume: true to get what it may have taken.",
    "read_group": "List what this consumer holds now with pending_list, and finish that first.",
    **dict.fromkeys(IDEMPOTENT_TOOLS, "Repeat it: a repeated call has no further effect."),
}


def has_key(arguments: Any) -> bool:
    """Return whether a call has an idempotency key, so that its repetition is recognised."""
    key = arguments.get("idempotency_key") if isinstance(arguments, dict) else None
    return isinstance(key, str) and bool(key)


def may_repeat_call(params: Any) -> bool:
    """Return whether a ``tools/call`` with these parameters may be sent again."""
    if not isinstance(params, dict):
        return True  # the daemon refuses it
    return params.get("name") in READ_ONLY_TOOLS or has_key(params.get("arguments"))


def step_after_unknown(params: Any) -> str:
    """Return what the caller of a tool can do when the outcome of the call is not known."""
    if not isinstance(params, dict):
        return _CHECK
    if has_key(params.get("arguments")):
        return "Repeat it with the same idempotency_key: it has no second effect."
    return _STEPS.get(str(params.get("name")), _CHECK)
