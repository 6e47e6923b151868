"""The registry of resources: which definitions are valid, and what a URI means."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.policy import Permission
from redstreamd.presentation.uris import group_uri
from redstreamd.presentation.views import Views
from redstreamd.resources.catalog import RESOURCES
from redstreamd.resources.definition import Content, ResourceRegistry, resource
from redstreamd.streams.subscriptions.topics import GroupTopic, ListTopic, StreamTopic

PLAIN: dict[str, Any] = {
    "title": "T",
    "mime_type": "text/plain",
    "streams": (),
    "fresh_seconds": 0.0,
    "topic": None,
}


@pytest.mark.parametrize(
    ("uri", "name", "streams", "topic"),
    [
        ("redstream://health", "health", (), None),
        ("redstream://streams", "streams", (), ListTopic()),
        ("redstream://streams/a%3Ab", "stream", ("a:b",), StreamTopic("a:b")),
        ("redstream://streams/a:b", "stream", ("a:b",), StreamTopic("a:b")),
        ("redstream://streams/a%2Fb", "stream", ("a/b",), StreamTopic("a/b")),
        ("redstream://streams/s/groups/g%25", "group", ("s",), GroupTopic("s", "g%")),
        ("redstream://streams/s/entries/1-1", "entry", ("s",), None),
        ("redstream://streams/s/entries/1-1/fields/", "field", ("s",), None),
    ],
)
def test_a_uri_names_a_resource_and_its_streams(
    uri: str, name: str, streams: tuple[str, ...], topic: Any
) -> None:
    found = RESOURCES.find(uri)
    assert found is not None
    assert found.resource.name == name
    assert found.streams == streams
    assert found.topic == topic
    # What the policy asks before a read.
    assert found.resource.permission is (Permission.READ if name != "health" else None)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "redstream:",
        "redstream://",
        "redstream://streams/s/",
        "redstream://streams/s/groups",
        "redstream://streams/s/t",
        "redstream://streams/%",
        "redstream://streams/%f",
        "redstream://streams/%ff",
        "redstream://streams/\ud800",
        "REDSTREAM://streams",
        "redstream://streams/" + "x" * 1_000_000,
        "redstream://streams/%%41",
        "redstream://streams/%\n41",
        "redstream://streams/a%4",
    ],
)
def test_other_uris_are_not_found(uri: str) -> None:
    assert RESOURCES.find(uri) is None


@pytest.mark.parametrize("name", ["ä" * 32_768, "=3D%25", "a=\nb=", " a\t\r\n ", "_é=%zz", "%" * 65_536])
def test_any_name_that_the_settings_allow_has_a_uri(name: str) -> None:
    found = RESOURCES.find(group_uri(name, name))
    assert found is not None
    assert found.variables == {"stream": name, "group": name}
    # Nothing has to be escaped but these.
    found = RESOURCES.find("redstream://streams/" + name.replace("%", "%25"))
    assert found is not None
    assert found.variables == {"stream": name}


def test_a_definition_that_contradicts_itself_is_refused() -> None:
    async def without_words(views: Views) -> Content:
        return Content("", "text/plain")

    async def fine(views: Views) -> Content:
        """Say nothing."""
        return Content("", "text/plain")

    with pytest.raises(ValueError, match="docstring"):
        resource("a://b", **PLAIN)(without_words)
    with pytest.raises(TypeError, match="URI"):
        resource("a://{part}", **PLAIN)(fine)
    with pytest.raises(ValueError, match="streams"):
        resource("a://b", **{**PLAIN, "streams": ("stream",)})(fine)
    made = resource("a://b", **PLAIN)(fine)
    with pytest.raises(ValueError, match="same URI"):
        ResourceRegistry([made, made])
