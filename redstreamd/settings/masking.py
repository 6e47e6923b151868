"""Masks passwords in URLs, for ``check-config``, errors and ``repr``."""

from __future__ import annotations

import urllib.parse

from redstreamd.addresses.address_syntax import MASK


def masked_url(url: str) -> str:
    """Return `url` with its password masked, or only its scheme if it is not clear where the password is.

    A reserved character that is not percent-encoded changes where user, password and host end.
    """
    scheme, separator, rest = url.partition("://")
    if not (separator and scheme.isascii() and scheme.isalpha()):
        return MASK
    hidden = f"{scheme}://{MASK}"
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError:
        return hidden
    # With another "@", a fragment or a password in the query it is not clear.
    if rest.count("@") > 1 or "@" in parts.path or parts.fragment or "pass" in parts.query.lower():
        return hidden
    if parts.password is None:
        return url
    user = urllib.parse.quote(urllib.parse.unquote(parts.username or ""), safe="")
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit(parts._replace(netloc=f"{user}:{MASK}@{host}"))
