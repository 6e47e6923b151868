"""The structurer and the published schema accept the same calls, and a refusal says enough to correct it."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any, Literal

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import Meta

from redstreamd.errors import BusError, Code
from redstreamd.errors.nearest_names import nearest_names
from redstreamd.strict_json import DuplicateNames, object_from_pairs
from redstreamd.tools.arguments import Structurer
from redstreamd.tools.schema import arguments_schema
from redstreamd.tools.schema_check import schema_faults
from tests.support.json_values import json_objects, json_values, text

# --- Structurer against jsonschema -------------------------------------------------------------
#
# A drawn argument is a pair: a type, and a strategy for values around the borders of that type.

Argument = tuple[Any, st.SearchStrategy[Any]]

ANYTHING, OBJECTS, WORDS = json_values(), json_objects(), text(4)


def around(*bounds: float) -> st.SearchStrategy[Any]:
    """Return numbers on, just inside and just outside of the bounds, as integers and as floats."""
    near = [bound + step for bound in bounds for step in (-1, 0, 1, 0.5)]
    return st.sampled_from([0, 0.0, *near]) | st.sampled_from([0, *map(float, near), True, False, "1"])


@st.composite
def texts(draw: st.DrawFn) -> Argument:
    least, most = draw(st.integers(0, 2)), draw(st.integers(2, 4))
    hint = Annotated[str, Meta(min_length=least, max_length=most)]
    return draw(st.sampled_from([str, hint])), WORDS | st.sampled_from(
        ["a", "ab\n", "a1", "a\u2028", "\U0001f600" * 2, "\U0001f600" * 5]
    )


@st.composite
def numbers(draw: st.DrawFn, kind: type) -> Argument:
    low, high = draw(st.integers(-3, 0)), draw(st.integers(1, 3))
    meta = draw(st.sampled_from([Meta(ge=low, le=high), Meta(ge=low), Meta(le=high)]))
    return draw(st.sampled_from([kind, Annotated[kind, meta]])), around(low, high, 10**12)


@st.composite
def choices(draw: st.DrawFn) -> Argument:
    values = draw(
        st.lists(st.sampled_from(["a", "b", "0", "true", "null"]), min_size=1, max_size=3, unique=True)
    )
    return Literal[tuple(values)], st.sampled_from([*values, "c", "", '"a"', 0, 1.0, True, None, ["a"]])


scalars = st.one_of(texts(), numbers(int), numbers(float), st.just((bool, st.booleans())), choices())


@st.composite
def lists_of(draw: st.DrawFn, item: st.SearchStrategy[Argument]) -> Argument:
    hint, values = draw(item)
    plain = draw(st.sampled_from([list[hint], tuple[hint, ...]]))
    sized = Annotated[plain, Meta(min_length=draw(st.integers(0, 1)), max_length=draw(st.integers(1, 3)))]
    return draw(st.sampled_from([plain, sized])), st.lists(values, max_size=4)


payloads: st.SearchStrategy[Argument] = st.sampled_from(
    [
        (dict[str, Any], OBJECTS),
        (list[dict[str, Any]], st.lists(OBJECTS | ANYTHING, max_size=3)),
        (
            Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=2)],
            st.lists(OBJECTS, max_size=3),
        ),
    ]
)
arguments = st.one_of(scalars, lists_of(scalars), payloads)


def as_text(value: Any, times: int) -> Any:
    """Return the value, its JSON text, or that text's JSON text: what clients make of it."""
    for _ in range(times):
        value = json.dumps(value)
    return value


@st.composite
def calls(draw: st.DrawFn) -> tuple[type[attrs.AttrsInstance], dict[str, Any]]:
    """Draw an argument class, and the arguments of a call that may or may not fit it."""
    fields: dict[str, Any] = {}
    call: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(["stream", "count", "start"]), unique=True)):
        hint, values = draw(arguments)
        optional = hint is not Any and draw(st.booleans())
        fields[name] = (
            attrs.field(kw_only=True, type=hint | None, default=None)
            if optional
            else attrs.field(kw_only=True, type=hint)
        )
        # Wrong in one place more often than in several, and about as often right as wrong.
        if draw(st.integers(0, 2 if optional else 19)):
            value = draw(values if draw(st.integers(0, 19)) else ANYTHING)
            outside, inside = draw(st.sampled_from([(0, 0), (0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2)]))
            if isinstance(value, list):
                # The first item stays as it is: texts and values may stand side by side.
                value = [*value[:1], *(as_text(item, inside) for item in value[1:])]
            call[name] = as_text(value, outside)
    if not draw(st.integers(0, 19)):
        call[draw(WORDS)] = draw(ANYTHING)
    if not fields:
        fields["only"] = attrs.field(kw_only=True, type=str | None, default=None)
    return attrs.make_class("Arguments", fields, frozen=True), call


def as_json(value: Any) -> Any:
    """Return a structured value as the JSON value that it was made of."""
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {name: as_json(member) for name, member in value.items()}
    return value


def meant(value: Any, schema: dict[str, Any]) -> Any:
    """Return what a value stands for, by the rule: JSON text stands for its value where no string belongs."""
    kind = schema["type"]
    if kind == "string":
        return value
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            decoded = json.loads(value)
            if Draft202012Validator({"type": kind}).is_valid(decoded):
                value = decoded
    if kind == "array" and isinstance(value, list):
        return [meant(item, schema["items"]) for item in value]
    return value


@settings(max_examples=3 * settings.default.max_examples, deadline=None)
@given(calls())
def test_a_call_is_accepted_exactly_when_the_published_schema_accepts_what_it_means(
    drawn: tuple[type[attrs.AttrsInstance], dict[str, Any]],
) -> None:
    cls, call = drawn
    structurer = Structurer(cls)
    schema = json.loads(json.dumps(structurer.schema))
    Draft202012Validator.check_schema(schema)
    assert not list(schema_faults(schema))
    # The rules above the schema: an argument of another name is refused, null for one that exists is "not
    # given", and JSON text stands for its value.
    named = call.keys() <= schema["properties"].keys()
    effective = {
        name: meant(value, schema["properties"][name])
        for name, value in call.items()
        if named and value is not None
    }
    allowed = named and Draft202012Validator(schema).is_valid(effective)
    before = json.dumps(call)
    if not allowed:
        refusal(call, structurer)
        return
    structured = structurer(call)
    assert json.dumps(call) == before
    for name in schema["properties"]:
        # What has to be a tuple is one, at any depth.
        assert as_json(getattr(structured, name)) == effective.get(name)


@settings(max_examples=3 * settings.default.max_examples, deadline=None)
@given(calls())
def test_the_quick_attempt_agrees_with_the_whole_way(
    drawn: tuple[type[attrs.AttrsInstance], dict[str, Any]],
) -> None:
    cls, call = drawn
    structurer = Structurer(cls)
    quick = structurer._quick(call)
    if quick is None:
        return
    whole = structurer._whole(call)
    # As text, because 5 == 5.0 == True.
    assert repr(quick) == repr(whole)
    for name, value in call.items():
        kept = getattr(whole, name) is value
        assert (getattr(quick, name) is value) == kept


def test_the_quick_attempt_takes_the_usual_call_and_leaves_the_unusual_one() -> None:
    usual = {"stream": "a", "entries": [{"x": "é"}], "streams": ["a"], "count": 5, "timeout_seconds": 5}
    assert add._quick(usual) == add._whole(usual)
    unusual: list[dict[str, Any]] = [
        {"stream": "é"},
        {"count": None},
        {"count": 5.0},
        {"count": "5"},
        {"streams": ["\ud800"]},
        {"entries": "[{}]"},
        {"timeout_seconds": 1e309},
        {"misspelt": 1},
    ]
    for change in unusual:
        assert add._quick(usual | change) is None


@attrs.frozen
class Both:
    text: str
    number: int


@pytest.mark.parametrize("value", [True, False, "5.5", '"5"', "", 5.5, None, [5], {"a": 5}])
def test_the_property_can_fail_because_a_wrong_integer_is_wrong_for_both(value: Any) -> None:
    call = {"text": "a", "number": value}
    assert not Draft202012Validator(arguments_schema(Both)).is_valid(call)
    with pytest.raises(BusError):
        Structurer(Both)(call)


# --- What the structurer makes of a call -------------------------------------------------------


@attrs.frozen
class Add:
    stream: Annotated[str, Meta(min_length=1, max_length=16, description="Where to.")]
    entries: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=3)]
    streams: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    count: Annotated[int, Meta(ge=1, le=100)] = 10
    timeout_seconds: Annotated[float, Meta(ge=0, le=300)] = 20.0
    direction: Literal["forward", "backward"] = "forward"
    tags: dict[str, Any] | None = None
    key: str | None = None
    number: int = 0
    ratio: float | None = None


add = Structurer(Add)
GOOD: dict[str, Any] = {"stream": "a", "entries": [{"x": 1}]}


def refusal(given: Any, structurer: Structurer[Any] = add) -> BusError:
    with pytest.raises(BusError) as caught:
        structurer(given)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message.encode()
    assert caught.value.cause
    assert caught.value.next_step
    return caught.value


def test_what_is_not_given_has_its_default_and_a_list_becomes_a_tuple() -> None:
    assert add({**GOOD, "streams": ["a", "b"]}) == Add("a", [{"x": 1}], streams=("a", "b"))


def test_whole_floats_are_integers_and_integers_are_numbers_as_in_json_schema() -> None:
    structured = add({**GOOD, "count": 5.0, "timeout_seconds": 5})
    assert (structured.count, type(structured.count)) == (5, int)
    assert (structured.timeout_seconds, type(structured.timeout_seconds)) == (5.0, float)


def test_an_explicit_null_is_not_given_but_null_under_an_invented_name_is_still_invented() -> None:
    assert add({**GOOD, "count": None, "tags": None, "streams": None}) == Add("a", [{"x": 1}])
    assert "stream is missing" in refusal({**GOOD, "stream": None}).message
    assert '"conut" is not an argument' in refusal({**GOOD, "conut": None}).message


def test_a_payload_passes_by_identity_whatever_is_in_it() -> None:
    entry = object_from_pairs([("x", 1), ("x", 2), ("deep", [DuplicateNames([("y", 1)], "y")]), ("n", None)])
    entries = [entry, {"huge": 1 << 80, "\ud800": "\ud800"}]
    assert add({"stream": "a", "entries": entries}).entries is entries
    assert type(entries[0]) is DuplicateNames


def test_a_call_without_arguments_is_a_call_with_none() -> None:
    @attrs.frozen
    class Optional:
        b: int = 1

    assert Structurer(Optional)(None) == Optional()
    assert (
        refusal({"a": 1}, Structurer(Optional)).message
        == '"a" is not an argument; allowed, nearest first: b.'
    )


#: What the decoder says of a dict as Python writes it.
REASON = "Expecting property name enclosed in double quotes at character 1"


def test_a_refusal_names_every_offending_argument_with_what_was_given_and_what_is_allowed() -> None:
    message = refusal(
        {
            "entries": [],
            "count": 500,
            "timeout_seconds": "soon",
            "direction": "up",
            "streams": ["a", ""],
            "tags": "{'a': 1}",
            "key": 5,
            "steam": "a",
        }
    ).message
    assert message.split("; ") == [
        "stream is missing",
        "it must be a string of 1 to 16 characters",
        "entries: [] given",
        "allowed: a list of 1 to 3 items, each an object",
        'streams[1]: "" given',
        "allowed: a list, each a string of at least 1 character",
        "count: 500 given",
        "allowed: an integer from 1 to 100",
        'timeout_seconds: "soon" given',
        "allowed: a number from 0 to 300",
        'direction: "up" given',
        'allowed: one of "backward", "forward"',
        "tags: a string of 8 characters given, which is not JSON: " + REASON,
        "allowed: an object",
        "key: 5 given",
        "allowed: a string",
        '"steam" is not an argument',
        "allowed, nearest first: " + ", ".join(nearest_names("steam", add.schema["properties"])) + ".",
    ]


@pytest.mark.parametrize(
    "value",
    ["x" * 10_000_000, ["x"] * 1_000_000, {"deep": [[[["y" * 5_000_000]]]]}, list(range(1_000_000))],
    ids=["text", "list", "nested", "numbers"],
)
def test_a_refusal_repeats_no_more_than_80_characters_of_what_was_given(value: Any) -> None:
    message = refusal({**GOOD, "count": value}).message
    shown = message.removeprefix("count: ").partition(" given")[0]
    assert 10 < len(shown) <= 80
    assert len(message) < 200


def test_a_hundred_thousand_invented_names_get_a_short_refusal_naming_the_first() -> None:
    message = refusal({**GOOD, **{f"invented{number}": 1 for number in range(100_000)}}).message
    assert message.startswith('"invented0" is not an argument')
    assert "99995 more that are not arguments" in message
    assert len(message) < 1500


@pytest.mark.parametrize("value", ["a", 5, [{"stream": "a"}], True])
def test_arguments_that_are_no_object_are_refused(value: Any) -> None:
    assert "an object of named arguments" in refusal(value).message


@pytest.mark.parametrize("extra", [{}, {"count": None}])
def test_a_repeated_argument_name_is_refused(extra: dict[str, Any]) -> None:
    pairs = [("stream", "a"), *GOOD.items(), *extra.items()]
    assert refusal(object_from_pairs(pairs)).message == 'the argument "stream" is given twice.'


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stream": "\ud800"}, "stream is not I-JSON: The text contains U+D800"),
        ({"streams": ["a", "\ufdd0"]}, "U+FDD0"),
        ({"number": 1 << 60}, "number is not I-JSON: The integer is beyond"),
        ({"ratio": float("inf")}, "ratio is not I-JSON: The number is beyond the range"),
        ({"ratio": float("nan")}, "ratio is not I-JSON"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds: NaN given"),
        ({"\ud800": 1}, r'"\ud800" is not an argument'),
        # Where another type than text is expected, and msgspec still decodes the text.
        ({"count": "\ud800"}, "count is not I-JSON: The text contains U+D800"),
        ({"ratio": "\ud800"}, "ratio is not I-JSON: The text contains U+D800"),
        ({"direction": "\ud800"}, "direction is not I-JSON: The text contains U+D800"),
        ({"streams": "\ud800"}, "streams is not I-JSON: The text contains U+D800"),
        ({"tags": "\ud800"}, "tags is not I-JSON: The text contains U+D800"),
        # The same in a JSON text.
        ({"number": "1" + "0" * 18}, "number is not I-JSON: The integer is beyond"),
        ({"ratio": "1e400"}, "ratio is not I-JSON: The number is beyond the range"),
        ({"ratio": "NaN"}, 'ratio: "NaN" given'),
        ({"streams": '["\\ud800"]'}, "streams is not I-JSON: The text contains U+D800"),
        ({"entries": ["\ud800"]}, "entries is not I-JSON: The text contains U+D800"),
        ({"entries": "\ud800"}, "entries is not I-JSON: The text contains U+D800"),
    ],
)
def test_what_is_not_i_json_is_refused_in_words_that_can_be_encoded(given: dict[str, Any], said: str) -> None:
    message = refusal({**GOOD, **given}).message
    assert said.lower() in message.lower()
    assert message.encode()


# --- Classes that cannot be arguments ----------------------------------------------------------


@attrs.frozen
class Inner:
    a: int


@pytest.mark.parametrize(
    "hint",
    [
        bytes,
        Inner,
        list[Inner],
        set[str],
        Annotated[float, Meta(multiple_of=0.1)],
        Annotated[int, Meta(gt=0)],
        Annotated[str, Meta(pattern="^a")],
        list[Annotated[str, Meta(pattern="a")]],
        dict[str, str],
        dict[str, list[Any] | int],
        list[list[str]],
        list[Any],
        Any,
        int | str,
        Literal["a", 1],
        Literal[1, 2],
        Literal[""],
        str | None,
        Literal["a"] | None,
        Annotated[str, Meta(pattern="^a")] | list[str],
        list[Annotated[str, Meta(pattern="^a")] | dict[str, str] | None],
    ],
    ids=str,
)
def test_a_type_for_which_schema_and_structuring_could_disagree_is_refused_when_defined(hint: Any) -> None:
    cls = attrs.make_class("Arguments", {"a": attrs.field(type=hint)}, frozen=True)
    with pytest.raises(TypeError):
        Structurer(cls)


def test_an_argument_has_the_same_name_in_the_class_and_in_a_call() -> None:
    @attrs.frozen
    class Hidden:
        _a: int

    with pytest.raises(TypeError, match="another name"):
        Structurer(Hidden)


# --- The schema of arguments -------------------------------------------------------------------


def test_the_schema_says_what_a_model_needs_and_no_more() -> None:
    assert add.schema == {
        "type": "object",
        "properties": {
            "stream": {"type": "string", "minLength": 1, "maxLength": 16, "description": "Where to."},
            "entries": {
                "type": "array",
                "items": {"type": "object", "required": []},
                "minItems": 1,
                "maxItems": 3,
            },
            "streams": {"type": "array", "items": {"type": "string", "minLength": 1}},
            "count": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
            "timeout_seconds": {"type": "number", "minimum": 0, "maximum": 300, "default": 20.0},
            "direction": {"type": "string", "enum": ["backward", "forward"], "default": "forward"},
            "tags": {"type": "object", "required": []},
            "key": {"type": "string"},
            "number": {"type": "integer", "default": 0},
            "ratio": {"type": "number"},
        },
        "required": ["stream", "entries"],
    }
