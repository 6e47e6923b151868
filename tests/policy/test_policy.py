"""Rules, how they combine, and what their patterns mean."""

from __future__ import annotations

import itertools
import re

import pytest

from redstreamd.errors import BusError, Code
from redstreamd.policy import Permission, Policy, Principal, Rule
from redstreamd.policy.access import Why
from redstreamd.policy.rules import covers, matcher
from redstreamd.streams.names import Kind, companion_key, judged_by

READ, PUBLISH, CONSUME, MANAGE = Permission
A, B = Principal("team-a", "unix"), Principal("team-b", "unix")


def policy(*rules: str, read_only: bool = False) -> Policy:
    return Policy([Rule.parse(rule) for rule in rules], read_only=read_only, judged=judged_by)


def granted(rules: Policy, principal: Principal, stream: str) -> set[Permission]:
    return {each for each in Permission if rules.may(principal, stream, each)}


def test_without_rules_everything_is_granted() -> None:
    assert granted(policy(), A, "any:stream") == set(Permission)
    assert policy().readable(A) is None
    assert not policy().restricts


def test_with_a_rule_what_none_grants_is_refused_to_everybody() -> None:
    rules = policy("team-a may read publish on a:*")
    assert granted(rules, A, "a:jobs") == {READ, PUBLISH}
    assert granted(rules, A, "b:jobs") == set()
    assert granted(rules, B, "a:jobs") == set()
    assert rules.somewhere(B) == set()


def test_what_several_rules_grant_is_granted_together_in_any_order() -> None:
    texts = (
        "team-a may read on *",
        "team-* may publish on a:*",
        "* may consume on a:jobs",
        "b may manage on *",
    )
    for order in itertools.permutations(texts):
        rules = policy(*order)
        assert granted(rules, A, "a:jobs") == {READ, PUBLISH, CONSUME}
        assert granted(rules, A, "b:jobs") == {READ}
        assert granted(rules, B, "a:other") == {PUBLISH}


def test_read_only_overrides_every_rule() -> None:
    rules = policy("team-a may read publish consume manage on *", read_only=True)
    assert granted(rules, A, "s") == {READ}
    assert granted(rules, B, "s") == set()
    assert granted(policy(read_only=True), B, "s") == {READ}
    assert rules.judge("team-a", "s", MANAGE).why is Why.READ_ONLY


def test_a_star_stands_for_any_text_and_everything_else_for_itself() -> None:
    alphabet = "ab:"
    names = ["".join(letters) for size in range(5) for letters in itertools.product(alphabet, repeat=size)]
    patterns = ["".join(p) for size in range(4) for p in itertools.product("ab*", repeat=size)]
    for pattern in patterns:
        expected = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
        matches = matcher(pattern)
        for name in names:
            assert matches(name) == bool(expected.fullmatch(name)), (pattern, name)
    for pattern in ("a?", "[ab]", "a\\*", "{a}", "."):
        assert matcher(pattern)(pattern)
        assert not matcher(pattern)("ab")


def test_one_pattern_covers_another_if_it_matches_all_that_the_other_matches() -> None:
    patterns = ["".join(p) for size in range(4) for p in itertools.product("ab*", repeat=size)]
    # c is in no pattern, and stands for all such letters.
    names = ["".join(p) for size in range(6) for p in itertools.product("abc", repeat=size)]
    found = {pattern: {name for name in names if matcher(pattern)(name)} for pattern in patterns}
    for wider, narrower in itertools.product(patterns, patterns):
        assert covers(wider, narrower) == (found[narrower] <= found[wider]), (wider, narrower)


def test_a_long_name_and_many_stars_cost_no_more_than_their_product() -> None:
    assert not matcher("*a" * 200 + "b")("a" * 60_000)


@pytest.mark.parametrize("kind", Kind)
def test_a_key_beside_a_stream_is_judged_by_the_stream(kind: Kind) -> None:
    rules = policy("team-a may read consume on a:jobs", "team-b may manage on *:rs:*")
    for stream in ("a:jobs", "{a}:jobs"):
        key = companion_key(stream, kind, "g")
        expected = {READ, CONSUME} if stream == "a:jobs" else set()
        assert granted(rules, A, key) - {PUBLISH} == expected
        assert granted(rules, B, key) == set()


def test_reply_streams_are_read_by_requesters_and_published_to_by_consumers() -> None:
    rules = policy("team-a may publish on jobs", "team-b may consume on jobs")
    replies = companion_key("jobs", Kind.REPLY, "team-a")
    assert granted(rules, A, replies) == {READ, PUBLISH}
    assert granted(rules, B, replies) == {PUBLISH, CONSUME}
    letters = companion_key("jobs", Kind.DEAD, "g")
    assert granted(rules, A, letters) == {PUBLISH}
    assert granted(rules, B, letters) == {CONSUME}


def test_a_refusal_is_the_same_whatever_exists_and_names_no_rule() -> None:
    rules = policy("team-b may read on secret:*")
    with pytest.raises(BusError) as refused:
        rules.authorise(A, "secret:plans", READ)
    assert refused.value.code is Code.PERMISSION_DENIED
    assert "team-b" not in str(refused.value)


def test_what_may_be_named_is_what_may_be_read_or_used() -> None:
    rules = policy("team-a may read on a:*", "team-a may publish on inbox")
    readable, known = rules.readable(A), rules.known(A)
    assert readable is not None
    assert known is not None
    assert (readable("a:x"), readable("inbox"), known("inbox"), known("b:x")) == (True, False, True, False)
    assert readable == policy("team-b may read consume on a:*").readable(B)
    assert policy("* may read on *").readable(A) is None


def test_verdicts_are_remembered_within_a_bound() -> None:
    rules = policy("team-a may read on *0")
    for number in range(10_000):
        assert rules.may(A, f"s{number}", READ) == (number % 10 == 0)
    assert len(rules._verdicts) <= 4_096
    for number in range(3_000):
        rules.may(Principal(f"p{number}", "unix"), "s", READ)
    assert len(rules._grants) <= 1_024


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no principal"),
        ("agents", "names no permission"),
        ("may read on *", "names no principal"),
        ("agents may on *", "names no permission"),
        ("agents may read", "names no stream"),
        ("agents may read on", "names no stream"),
        ("agents may reed on *", "word 3 is no permission"),
        ("agents may read may publish on *", "word 4 is no permission"),
        ("ägents may read on *", "word 1 is no name of a principal"),
        ("agents agents may read on *", "names something twice"),
    ],
)
def test_a_rule_that_is_not_valid_says_where(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Rule.parse(text)


@pytest.mark.parametrize(
    "text", ["a may read on *", "a b* may publish manage on may on x:*", "on may read on on"]
)
def test_a_rule_reads_what_it_writes(text: str) -> None:
    assert str(Rule.parse(text)) == text
    assert Rule.parse(str(Rule.parse(text))) == Rule.parse(text)


SUBMITTING = ("team-a may read submit on a:*", "team-b may consume submit on *", "team-b may publish on b:*")


@pytest.mark.parametrize("order", list(itertools.permutations(SUBMITTING)))
def test_who_may_submit_publishes_and_what_it_publishes_waits(order: tuple[str, ...]) -> None:
    rules = policy(*order)
    assert granted(rules, A, "a:jobs") == {READ, PUBLISH}
    assert rules.somewhere(A) == {READ, PUBLISH}
    assert rules.quarantines(A, "a:jobs")
    assert rules.judge("team-a", "a:jobs", PUBLISH).why is Why.SUBMIT
    assert rules.judge("team-a", "a:jobs", READ).why is Why.RULE
    # What several rules grant is granted together.
    assert not rules.quarantines(B, "b:jobs")
    assert rules.quarantines(B, "c:jobs")
    # Neither what is not granted nor what needs no rule waits.
    assert not rules.quarantines(A, "b:jobs")
    assert not policy().quarantines(A, "a:jobs")
    assert not policy("team-a may publish on a:*").submits


def test_replies_of_who_may_only_submit_wait() -> None:
    rules = policy("team-a may consume submit on s", "team-b may consume on s", "team-b may submit on t")
    replies = companion_key("s", Kind.REPLY, "somebody")
    assert granted(rules, A, replies) >= {PUBLISH}
    assert rules.quarantines(A, replies)
    assert granted(rules, B, replies) >= {PUBLISH}
    assert not rules.quarantines(B, replies)
    # It may read the answers to what it submits.
    assert READ in granted(rules, A, replies)


def test_a_rule_that_submits_is_written_as_it_was_read() -> None:
    text = "a b/* may read submit manage on s t:*"
    rule = Rule.parse(text)
    assert (str(rule), rule.permissions, rule.submits) == (text, (READ, PUBLISH, MANAGE), True)
    for wrong in ("a may submit publish on s", "a may submit submit on s", "a may submits on s"):
        with pytest.raises(ValueError, match=r"submit adds nothing to publish|something twice|no permission"):
            Rule.parse(wrong)


def test_verdicts_that_are_remembered_are_bounded() -> None:
    rules = policy("* may submit on *")
    for number in range(5_000):
        assert rules.quarantines(A, f"s{number}")
    assert len(rules._waiting) == 4_096


SCOPED = Principal("team-a", "http", permissions=frozenset({READ, MANAGE}))
NO_SCOPE = Principal("team-a", "http", permissions=frozenset())


def test_scopes_narrow_what_the_rules_grant_and_never_widen_it() -> None:
    rules = Policy(
        [Rule.parse("team-a may read publish on a:*"), Rule.parse("team-a may publish on b:*")],
        judged=judged_by,
        has_scopes=True,
    )
    # In either order: verdicts are remembered by name, and scopes are the token's.
    for _ in range(2):
        assert granted(rules, A, "a:jobs") == {READ, PUBLISH}
        assert granted(rules, SCOPED, "a:jobs") == {READ}
        assert granted(rules, SCOPED, "b:jobs") == set()
    assert rules.somewhere(A) == {READ, PUBLISH}
    assert rules.somewhere(SCOPED) == {READ}
    seen = rules.readable(SCOPED), rules.known(SCOPED)
    assert [each.patterns for each in seen if each is not None] == [{"a:*"}, {"a:*"}]
    known = rules.known(A)
    assert known is not None
    assert known.patterns == {"a:*", "b:*"}


def test_scopes_narrow_where_there_are_no_rules() -> None:
    rules = Policy(judged=judged_by, has_scopes=True)
    assert rules.restricts
    assert granted(rules, A, "s") == set(Permission)
    assert rules.readable(A) is None
    assert granted(rules, SCOPED, "s") == rules.somewhere(SCOPED) == {READ, MANAGE}
    assert granted(Policy(read_only=True, has_scopes=True), SCOPED, "s") == {READ}
    assert rules.readable(SCOPED) is None
    for seen in (rules.readable(NO_SCOPE), rules.known(NO_SCOPE)):
        assert seen is not None
        assert not seen("s")
    publishing = Principal("team-a", "http", permissions=frozenset({PUBLISH}))
    assert (rules.readable(publishing), rules.known(publishing)) == (seen, None)


def test_a_refusal_for_want_of_a_scope_says_so() -> None:
    rules = Policy(has_scopes=True)
    with pytest.raises(BusError, match="does not have the scope publish") as refused:
        rules.authorise(SCOPED, "s", PUBLISH)
    assert refused.value.code is Code.PERMISSION_DENIED


def test_on_reply_streams_a_scope_grants_what_goes_with_it_and_the_quarantine_stays() -> None:
    replies = companion_key("a:jobs", Kind.REPLY, "team-a")
    who = [Principal("team-a", "http", permissions=frozenset({each})) for each in (PUBLISH, CONSUME, MANAGE)]
    rules = [Rule.parse("team-a may submit consume on a:*")]
    for scoped in (
        Policy(judged=judged_by, has_scopes=True),
        Policy(rules, judged=judged_by, has_scopes=True),
    ):
        assert [granted(scoped, each, replies) & {READ, PUBLISH} for each in who[:2]] == [
            {READ, PUBLISH},
            {PUBLISH},
        ]
        assert granted(scoped, who[2], replies) <= {MANAGE}
    assert scoped.quarantines(who[0], replies)
    assert scoped.quarantines(who[1], replies)
