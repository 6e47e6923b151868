"""How requests are refused whose sender may not call: the answers, and how clients learn what is wanted."""

from __future__ import annotations

from typing import Final

from redstreamd.mcpio import jsonrpc
from redstreamd.policy import Permission
from redstreamd.streamable_http.http_messages import Answer


def refusal(
    status: int, told: str, fields: tuple[tuple[str, str], ...] = (), *, closes: bool = False
) -> Answer:
    """Return an answer with an error of JSON-RPC, which clients show."""
    return Answer(status, jsonrpc.error(None, jsonrpc.NOT_NOW, told), fields=fields, closes=closes)


def challenge(
    *,
    metadata_url: str | None = None,
    error: str | None = None,
    description: str | None = None,
    scopes: tuple[Permission, ...] = (),
) -> tuple[str, str]:
    """Return the header that says which token is wanted (RFC 6750, RFC 9728).

    Args:
        metadata_url: Where it is said which server issues tokens.
        error: What is wrong with the token that was shown; None if there was none.
        description: The same for people; in ASCII without quotation marks.
        scopes: Which scopes are wanted.
    """
    parts = ['realm="redstreamd"']
    if metadata_url is not None:
        parts.append(f'resource_metadata="{metadata_url}"')
    if error is not None:
        parts += [f'error="{error}"', f'error_description="{description}"']
    if scopes:
        parts.append(f'scope="{" ".join(scopes)}"')
    return "WWW-Authenticate", f"Bearer {', '.join(parts)}"


#: Where a token cannot be checked.
LATER: Final = Answer(
    503,
    jsonrpc.error(
        None,
        jsonrpc.NOT_NOW,
        "The token cannot be checked now, because the keys of its issuer cannot be fetched. Try again later.",
        data=jsonrpc.NOT_EXECUTED,
    ),
    fields=(("Retry-After", "5"),),
)
