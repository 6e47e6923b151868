"""Which arguments clients repeat in headers of HTTP, so that gateways route, limit and log by them.

In revision 2026-07-28 the schema of an argument says so by ``x-mcp-header``
(https://modelcontextprotocol.io/specification/2026-07-28/basic/transports#custom-headers). It is published
over HTTP in that revision only: providers of models refuse schemas with keywords that they do not know (see
``tools.schema_dialect``), and clients of other transports have no use for it.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, Final

_KEYWORD: Final = "x-mcp-header"
#: By argument, what the header is called behind ``Mcp-Param-``.
_HEADERS: Final[Mapping[str, str]] = {"stream": "Stream"}


def header_arguments(arguments: type[Any]) -> Mapping[str, str]:
    """Return the arguments of a class that have headers, by name; all of them are texts."""
    hints = typing.get_type_hints(arguments)
    return {name: header for name, header in _HEADERS.items() if hints.get(name) in (str, str | None)}


def with_headers(entry: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the entry of a tool in ``tools/list`` that says which of its arguments have headers."""
    schema = entry["inputSchema"]
    properties = {
        name: {**member, _KEYWORD: headers[name]} if name in headers else member
        for name, member in schema["properties"].items()
    }
    return {**entry, "inputSchema": {**schema, "properties": properties}}
