"""Values that arrive as JSON text: ``"5"`` for 5, ``"[1]"`` for a list.

Models, and programs between them and the daemon, sometimes send values as text (anthropics/claude-code issue
73137, QwenLM/qwen-code issue 4966, openclaw/openclaw issue 96916, microsoft/azure-devops-mcp issue 853).
Often the model did not write that text, so an error would not help it. The rules, for all arguments:

- Where the schema has an integer, a number, a boolean, an array or an object, a text that is the JSON of such
  a value stands for that value, as an argument or as an item of a list.
- Where the schema has a string, a text is that string, whatever it looks like.
- What a schema does not describe is the caller's data: inside an entry, a reply or a filter "5" stays "5".
- A text is decoded once: the text of a text is a string, and refused.
- A text has the limits of a message: in nesting, and all texts of a call together in the number of values.
  It is decoded like a message: repeated names and numbers outside the range of a double are refused.

Only a call that structuring refused gets here; other calls pay nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from redstreamd import strict_json
from redstreamd.errors.remedies import setting
from redstreamd.json_cost import measure_structure
from redstreamd.tools.schema import Schema

#: Levels of nesting around an argument: the message, its params, their arguments.
_LEVELS_AROUND = 3

_HAS_TYPE: Mapping[str, Callable[[Any], bool]] = {
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": lambda value: _is_number(value),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


class Reader(msgspec.Struct):
    """Reads the JSON texts of one call.

    Attributes:
        values_left: How many more values the texts may hold, all together.
        max_nesting: How deep a message may be.
        refusals: Why a text was not read as a list or an object, by argument and place.
    """

    values_left: int
    max_nesting: int
    refusals: dict[str, str] = msgspec.field(default_factory=dict)

    def read(self, given: Mapping[str, Any], properties: Mapping[str, Schema]) -> dict[str, Any]:
        """Return the arguments with JSON texts replaced by their values; `given` is not modified."""
        return {
            name: self._value(value, properties[name], name, _LEVELS_AROUND) if name in properties else value
            for name, value in given.items()
        }

    def _value(self, value: Any, schema: Schema, place: str, depth: int) -> Any:
        kind = schema["type"]
        if kind == "string":
            return value
        if isinstance(value, str):
            value = self._decoded(value, kind, place, depth)
        if kind == "array" and isinstance(value, list) and schema["items"]["type"] != "string":
            items = schema["items"]
            return [
                self._value(item, items, f"{place}[{index}]", depth + 1) if isinstance(item, str) else item
                for index, item in enumerate(value)
            ]
        return value

    def _decoded(self, text: str, kind: str, place: str, depth: int) -> Any:
        """Return the decoded text if it has this type, else the text itself."""
        refusal = self._excess(text, depth)
        if refusal is None:
            try:
                value = strict_json.decode(text)
            except json.JSONDecodeError as error:
                refusal = f"which is not JSON: {strict_json.what_is_wrong(error)}"
            except ValueError as error:
                refusal = f"which is not JSON: {error}"
            else:
                return value if _HAS_TYPE[kind](value) else text
        if kind in ("array", "object"):
            self.refusals[place] = refusal
        return text

    def _excess(self, text: str, depth: int) -> str | None:
        data = text.encode("utf-8", "surrogatepass")
        values, nesting = measure_structure(data, self.values_left)
        if values > self.values_left:
            return f"which holds too many values ({setting('limits.max_message_values')})"
        if nesting + depth > self.max_nesting:
            bound = setting("limits.max_nesting")
            return f"which makes the message more than {self.max_nesting} levels deep ({bound})"
        self.values_left -= values
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
