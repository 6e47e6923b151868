"""Masks passwords in URLs, for ``check-config``, errors and ``repr``."""

from __future__ import annotations

import re
import urllib.parse
from typing import Final

from redstreamd.addresses.address_syntax import MASK
from redstreamd.settings.topology_url import is_topology_url, masked_topology_url

#: A name that somebody chose: words of small letters, perhaps with a number each, or an abbreviation.
_WORD: Final = "([a-z]{1,16}[0-9]{0,4}|[0-9]{1,4})"
_CHOSEN: Final = re.compile(rf"\.?{_WORD}([._-]{_WORD})*")


def masked_name(name: str) -> str:
    """Return the name of a credential for printing, masked if it reads like the secret itself.

    Some give a token or a password where its file is asked for. What is drawn at random has capital letters,
    or digits and letters in turn, or is one long word.
    """
    return name if name.startswith("/") or _CHOSEN.fullmatch(name) else MASK


def masked_url(url: str) -> str:
    """Return `url` with its password masked, or only its scheme if it is not clear where the password is.

    A reserved character that is not percent-encoded changes where user, password and host end.
    """
    if is_topology_url(url):
        return masked_topology_url(url)
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
