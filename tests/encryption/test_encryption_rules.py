"""Which streams are encrypted: the notation of rules, and the first that matches."""

from __future__ import annotations

import pytest

from redstreamd.encryption.encryption_rules import EncryptionRule, EncryptionRules
from redstreamd.policy.access import judged_by_itself
from redstreamd.streams.names import Kind, companion_key, judged_by


def rules(*texts: str) -> EncryptionRules:
    return EncryptionRules([EncryptionRule.parse(text) for text in texts], judged_by)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a:* b are encrypted", EncryptionRule(("a:*", "b"))),
        ("a are encrypted except x", EncryptionRule(("a",), clear=frozenset({"x"}))),
        ("a are encrypted with names", EncryptionRule(("a",), hide_names=True)),
        ("a are encrypted with names except x y", EncryptionRule(("a",), True, frozenset("xy"), True)),
        ("a:* are clear", EncryptionRule(("a:*",), is_encrypted=False)),
    ],
)
def test_a_rule_is_read_as_it_is_written(text: str, rule: EncryptionRule) -> None:
    assert EncryptionRule.parse(text) == rule
    assert str(rule) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "are encrypted",
        "a are",
        "a are secret",
        "a are clear except x",
        "a are encrypted except",
        "a are encrypted with",
        "a are encrypted with names x",
        "a are encrypted x",
        "a a are encrypted",
        "a \0x are encrypted",
    ],
)
def test_what_is_no_rule_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"'STREAM [.]{3} are encrypted'") as raised:
        EncryptionRule.parse(text.replace("a ", "hunter2 "))
    assert "hunter2" not in str(raised.value)


def test_the_first_rule_that_matches_counts() -> None:
    found = rules("jobs:public are clear", "jobs:* are encrypted except kind", "* are encrypted with names")
    assert found.rule_for("jobs:public") is None
    assert found.rule_for("jobs:x").clear == {"kind"}
    assert found.rule_for("x").hide_names
    assert rules("jobs:* are encrypted").rule_for("x") is None


def test_keys_beside_a_stream_follow_its_rule() -> None:
    found = rules("jobs are encrypted")
    assert found.rule_for(companion_key("jobs", Kind.DEAD, "g")) is not None
    assert found.rule_for(companion_key("other", Kind.DEAD, "g")) is None


def test_a_rule_is_found_once_for_a_stream_and_a_bounded_number_is_remembered() -> None:
    asked = []

    def judged(stream: str) -> tuple[str, bool]:
        asked.append(stream)
        return judged_by_itself(stream)

    found = EncryptionRules([EncryptionRule(("s*",))], judged)
    for _ in range(3):
        assert found.rule_for("s1") is not None
        assert found.rule_for("x") is None
    assert asked == ["s1", "x"]
    for number in range(5000):
        found.rule_for(f"s{number}")
    assert len(found._found) <= 4096


def test_without_a_stream_to_encrypt_nobody_is_asked() -> None:
    def never(stream: str) -> tuple[str, bool]:
        raise AssertionError(stream)

    found = EncryptionRules([EncryptionRule(("s",), is_encrypted=False)], never)
    assert not found.encrypts
    assert found.rule_for("s") is None
