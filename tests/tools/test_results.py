"""What an answer looks like, and that a list of entries stays in its bound and loses nothing silently."""

from __future__ import annotations

import copy
import json
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from redstreamd.errors import BusError, Code
from redstreamd.presentation import truncation
from redstreamd.presentation.entries import EntryView
from redstreamd.presentation.truncation import bound_entries
from redstreamd.tools.publishing import ONE_ADDED_FORM, StreamAdded
from redstreamd.tools.results import ResultForm, failure, success
from redstreamd.tools.schema import always_present, result_schema
from tests.support.json_values import json_objects, json_values, text


def size(value: Any) -> int:
    """Measure the JSON of a value as the structured content of an answer has it."""
    return len(msgspec.json.encode(value))


# --- Answers -----------------------------------------------------------------------------------


@attrs.frozen
class Group:
    name: str
    lag: int | None
    idle_seconds: float | None = None


@attrs.frozen
class Health:
    code_names: list[Code]
    groups: tuple[Group, ...]
    by_name: dict[str, Group]
    entries: list[dict[str, Any]]
    next_cursor: str | None = None
    complete: bool = True


HEALTH = Health([Code.TIMEOUT], (Group("a", None),), {"b": Group("b", 0, 1.5)}, [{"x": None}])


def test_an_answer_is_structured_content_and_the_same_as_compact_json_text() -> None:
    answer = success(HEALTH).as_values()
    assert answer["isError"] is False
    assert answer["structuredContent"] == {
        "code_names": ["TIMEOUT"],
        "groups": [{"name": "a", "lag": None}],
        "by_name": {"b": {"name": "b", "lag": 0, "idle_seconds": 1.5}},
        "entries": [{"x": None}],
        "complete": True,
    }
    (block,) = answer["content"]
    assert block["type"] == "text"
    assert json.loads(block["text"]) == answer["structuredContent"]
    assert block["text"] == json.dumps(answer["structuredContent"], separators=(",", ":"))


def test_an_answer_that_is_no_object_is_text_alone() -> None:
    assert success([Group("a", 1)]).as_values() == {
        "content": [{"type": "text", "text": '[{"name":"a","lag":1}]'}],
        "isError": False,
    }
    assert success("plain").as_values() == {"content": [{"type": "text", "text": "plain"}], "isError": False}


@given(json_objects() | json_values())
def test_all_forms_of_an_answer_are_the_same_json(value: Any) -> None:
    for answer in (success(value), failure(BusError(Code.INTERNAL, "é", cause='"', next_step="\\"))):
        assert msgspec.json.encode(answer.members()) == answer.opened + b"}"
        assert json.loads(answer.opened + b"}") == answer.as_values()


@given(st.from_regex("[0-9]{1,20}-[0-9]{1,20}", fullmatch=True), st.text("%bs<>{}"))
def test_a_form_is_filled_to_what_success_returns(entry_id: str, around: str) -> None:
    def like(text: str) -> object:
        return Group(f"{around}{text}", 1)

    assert ResultForm(like).filled(entry_id.encode()) == success(like(entry_id))
    assert ONE_ADDED_FORM.filled(entry_id.encode()) == success(StreamAdded([entry_id]))


def test_a_result_is_not_encoded_again() -> None:
    made = success(HEALTH)
    assert success(made) is made


def test_a_mapping_is_structured_as_it_is() -> None:
    assert success({"success": True, "note": None}).as_values()["structuredContent"] == {
        "success": True,
        "note": None,
    }


def test_a_failure_has_its_four_parts_and_one_readable_paragraph() -> None:
    error = BusError(Code.LEASE_LOST, "the lease ran out", cause="It ended at noon.", next_step="Take again")
    assert failure(error).as_values() == {
        "content": [
            {
                "type": "text",
                "text": "LEASE_LOST: the lease ran out. Cause: It ended at noon. Next step: Take again.",
            }
        ],
        "structuredContent": {
            "code": "LEASE_LOST",
            "message": "the lease ran out.",
            "cause": "It ended at noon.",
            "next_step": "Take again.",
        },
        "isError": True,
    }


def test_a_failure_is_small_whatever_slipped_into_it() -> None:
    huge = "x" * 1_000_000
    assert len(failure(BusError(Code.INTERNAL, huge, cause=huge, next_step=huge)).opened) < 20_000


# --- The schema of answers ---------------------------------------------------------------------


@attrs.frozen
class Part:
    name: str
    lag: int | None = None


@attrs.frozen
class Report:
    code_names: list[Code]
    groups: tuple[Part, ...]
    by_name: dict[str, Part]
    entries: list[dict[str, Any]]
    next_cursor: str | None = None
    complete: bool = True


REPORT = Report([Code.TIMEOUT], (Part("a"),), {"b": Part("b", 0)}, [{"x": None}])


def test_the_schema_of_an_answer_inlines_classes_and_leaves_out_null_and_defaults() -> None:
    group = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "lag": {"type": "integer"}},
        "required": ["name"],
    }
    schema = result_schema(Report)
    assert schema["properties"] == {
        "code_names": {"type": "array", "items": {"type": "string", "enum": sorted(Code)}},
        "groups": {"type": "array", "items": group},
        "by_name": {"type": "object", "required": []},
        "entries": {"type": "array", "items": {"type": "object", "required": []}},
        "next_cursor": {"type": "string"},
        "complete": {"type": "boolean"},
    }
    assert schema == {"type": "object", "properties": schema["properties"], "required": []}


def test_the_schema_accepts_answers_and_failures_and_says_what_type_a_member_has() -> None:
    Draft202012Validator.check_schema(result_schema(Report))
    accepts = Draft202012Validator(result_schema(Report)).is_valid
    answer = success(REPORT).as_values()["structuredContent"]
    assert accepts(answer)
    assert accepts(
        failure(BusError(Code.INTERNAL, "a", cause="b", next_step="c")).as_values()["structuredContent"]
    )
    for member in answer:
        assert not accepts({**answer, member: None})
    assert always_present(Report) == ("code_names", "groups", "by_name", "entries", "complete")
    assert set(always_present(Report)) == set(answer)


def test_a_result_that_not_every_provider_could_take_has_no_schema() -> None:
    with pytest.raises(TypeError, match="not every provider"):
        result_schema(Health)


def test_a_class_that_contains_itself_or_takes_a_failures_member_has_no_schema() -> None:
    @attrs.frozen
    class Message:
        message: str

    with pytest.raises(TypeError, match="failures"):
        result_schema(Message)
    with pytest.raises(TypeError, match="contains itself"):
        result_schema(Tree)


@attrs.frozen
class Tree:
    children: list[Tree]


# --- Bounding entries --------------------------------------------------------------------------


def entry(number: int = 0, stream: str = "orders", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"{number}-0",
        "time": "1970-01-01T00:00:00.000Z",
        "stream": stream,
        "fields": fields,
        "sender": "worker",
    }


def skeleton(one: dict[str, Any]) -> int:
    """Return what an entry takes at the least: without fields, but with what says where they are."""
    bare = {**one, "fields": {}, "binary": []} if "binary" in one else {**one, "fields": {}}
    address = f"redstream://streams/{'x' * 3 * len(one['stream'].encode())}/entries/{one['id']}"
    return size({**bare, "cut": [], "omitted": {"fields": 10**6, "bytes": 10**9, "uri": address}})


def check_nothing_is_lost_silently(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Check a returned entry against the one it was made from."""
    cut = after.get("cut", [])
    assert {key: after[key] for key in ("id", "time", "stream", "sender")} == {
        key: before[key] for key in ("id", "time", "stream", "sender")
    }
    assert list(after["fields"]) == [name for name in before["fields"] if name in after["fields"]]
    for name, value in after["fields"].items():
        whole = before["fields"][name]
        if name not in cut:
            assert value == whole
            continue
        marker = value["cut"]
        written = whole if isinstance(whole, str) else msgspec.json.encode(whole).decode()
        assert written.startswith(marker["head"])
        assert marker["bytes"] == len(written.encode())
        assert len(marker["head"]) <= 512
        address = urlsplit(marker["uri"])
        assert (address.scheme, address.netloc) == ("redstream", "streams")
        parts = [unquote(part) for part in address.path.split("/")]
        assert parts == ["", before["stream"], "entries", before["id"], "fields", name]
    assert set(cut) <= set(after["fields"])
    missing = len(before["fields"]) - len(after["fields"])
    if "omitted" in after:
        assert after["omitted"]["fields"] == missing > 0
        assert after["omitted"]["bytes"] >= missing
        assert (
            unquote(after["omitted"]["uri"])
            == f"redstream://streams/{before['stream']}/entries/{before['id']}"
        )
    else:
        assert missing == 0
    if "binary" in before:
        assert after["binary"] == [name for name in before["binary"] if name in after["fields"]]


deep: Any = []
for _ in range(90):
    deep = [deep, "é"]

adversarial = st.one_of(
    json_values(),
    st.sampled_from([deep, {"cut": {"bytes": 1, "head": "", "uri": "redstream://forged"}}]),
    st.builds(
        lambda piece, times: piece * times,
        st.sampled_from(["a", "é", "\U0001f600", "\x00", '"', "\\", "<%/?#"]),
        st.integers(0, 3000),
    ),
    st.builds(lambda times: list(range(times)), st.integers(0, 800)),
)
names = text(10) | st.sampled_from(["a/b", "%2F", "../..", "é" * 40, '"' * 100, "x" * 900])
field_maps = st.one_of(
    st.dictionaries(names, adversarial, max_size=6),
    st.builds(lambda count, value: {f"f{n}": value for n in range(count)}, st.integers(0, 400), adversarial),
    json_objects(),
)


@st.composite
def entry_lists(draw: st.DrawFn) -> list[dict[str, Any]]:
    stream = draw(st.sampled_from(["orders", "a/b c", "é\U0001f600", "x" * 200]))
    entries = []
    for number, fields in enumerate(draw(st.lists(field_maps, min_size=1, max_size=5))):
        one = {**entry(number, stream), "fields": fields}
        if draw(st.booleans()):
            one["binary"] = list(fields)[::2]
        entries.append(one)
    return entries


@settings(max_examples=settings.default.max_examples, deadline=None)
@given(entry_lists(), st.sampled_from([0, 100, 500, 1000, 2000, 8000, 32_768]), st.booleans())
def test_entries_fit_their_bound_and_whatever_is_cut_says_so(
    entries: list[dict[str, Any]], max_bytes: int, droppable: bool
) -> None:
    before = copy.deepcopy(entries)
    bounded, left_out = bound_entries(entries, max_bytes, droppable=droppable)
    assert entries == before
    assert 1 <= len(bounded) <= len(entries)
    assert left_out == (len(bounded) < len(entries))
    if not droppable:
        assert not left_out
    unavoidable = entries[:1] if droppable else entries
    assert size(bounded) <= max(max_bytes, sum(skeleton(one) + 1 for one in unavoidable) + 2)
    for original, shown in zip(entries, bounded, strict=False):
        check_nothing_is_lost_silently(original, shown)
    if size(entries) <= max_bytes:
        assert bounded == entries


@given(entry_lists(), st.sampled_from([0, 500, 2000, 32_768]))
def test_a_page_that_is_encoded_at_once_is_the_one_that_is_bounded(
    entries: list[dict[str, Any]], max_bytes: int
) -> None:
    shown = [EntryView(**{"sender": None, **one}) for one in entries]
    assert [view.as_dict() for view in shown] == entries
    bounded, left_out = bound_entries(entries, max_bytes, droppable=True)
    encoded, count = truncation.encode_page(shown, max_bytes)
    assert bytes(encoded) == msgspec.json.encode(bounded)
    assert (count, count < len(entries)) == (len(bounded), left_out)


def test_a_page_ends_before_the_first_entry_that_does_not_fit_and_the_next_page_has_it_whole() -> None:
    entries = [entry(number, body="x" * 300) for number in range(10)]
    seen: list[dict[str, Any]] = []
    while len(seen) < 10:
        page, left_out = bound_entries(entries[len(seen) :], 1500, droppable=True)
        assert page
        seen += page
        assert left_out == (len(seen) < 10)
    assert seen == entries


def test_an_entry_that_no_page_can_hold_is_cut_where_it_stands() -> None:
    entries = [entry(0, a="small"), entry(1, a="small", b="é" * 100_000), entry(2, a="small")]
    bounded, left_out = bound_entries(entries, 8000, droppable=True)
    assert not left_out
    assert [one["fields"]["a"] for one in bounded] == ["small"] * 3
    assert bounded[1]["cut"] == ["b"]
    assert bounded[1]["fields"]["b"] == {
        "cut": {"bytes": 200_000, "head": "é" * 512, "uri": "redstream://streams/orders/entries/1-0/fields/b"}
    }
    assert [one for one in bounded if "cut" in one] == [bounded[1]]


def test_of_a_delivery_every_entry_is_returned_and_small_ones_stay_whole() -> None:
    entries = [entry(number, kind="job", body="x" * (10 if number % 2 else 50_000)) for number in range(100)]
    bounded, left_out = bound_entries(entries, 40_000, droppable=False)
    assert not left_out
    assert [one["id"] for one in bounded] == [one["id"] for one in entries]
    assert bounded[1::2] == entries[1::2]
    assert all(one["cut"] == ["body"] and one["fields"]["kind"] == "job" for one in bounded[::2])
    assert size(bounded) <= 40_000


def test_an_object_that_imitates_a_marker_is_not_listed_as_cut() -> None:
    forged = {"cut": {"bytes": 1, "head": "x", "uri": "redstream://streams/other/entries/1-1/fields/a"}}
    ((one,), _) = bound_entries([entry(0, real="y" * 5000, forged=forged)], 2000, droppable=True)
    assert one["fields"]["forged"] == forged
    assert one["cut"] == ["real"]


def test_the_head_is_as_long_as_fits() -> None:
    fields = {f"f{number}": "y" * 2000 for number in range(10)}
    for max_bytes, head in ((9000, 512), (4000, 64), (1500, 0)):
        ((one,), _) = bound_entries([entry(0, **fields)], max_bytes, droppable=True)
        heads = {len(one["fields"][name]["cut"]["head"]) for name in one["cut"]}
        assert heads == {head}
        assert len(one["fields"]) == 10


def test_the_time_for_an_entry_with_very_many_fields_is_spent_on_what_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = 0
    measure = truncation._size

    def counting(value: Any) -> int:
        nonlocal measured
        measured += 1
        return measure(value)

    monkeypatch.setattr(truncation, "_size", counting)
    one = entry(0, **{f"field{number}": "v" * 50 for number in range(200_000)})
    ((shown,), _) = bound_entries([one], 8_000, droppable=True)
    assert shown["omitted"]["fields"] > 199_000
    # Name and value of as many fields as could stand in the bound, at five bytes each.
    assert measured < 2 * 8_000 / 5 + 20


def test_no_entries_are_no_entries() -> None:
    assert bound_entries([], 0, droppable=True) == ([], False)
    assert bound_entries([], 0, droppable=False) == ([], False)
