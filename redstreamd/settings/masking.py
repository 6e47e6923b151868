"""How a secret looks wherever a value is shown: in ``check-config``, in errors and in ``repr``."""

from __future__ import annotations

import urllib.parse

from redstreamd.addresses.address_syntax import MASK


def masked_url(url: str) -> str:
    """Return `url` with its password replaced, or only its scheme if the password cannot be told apart.

    A reserved character that was not percent-encoded moves the borders of user, password
    and host, so a URL that is not plainly well-formed is hidden as a whole.
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
    # An "@" elsewhere than before the host, a fragment or a password in the query: no certainty.
    if rest.count("@") > 1 or "@" in parts.path or parts.fragment or "pass" in parts.query.lower():
        return hidden
    if parts.password is None:
        return url
    user = urllib.parse.quote(urllib.parse.unquote(parts.username or ""), safe="")
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit(parts._replace(netloc=f"{user}:{MASK}@{host}"))
