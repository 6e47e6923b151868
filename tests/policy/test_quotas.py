"""Quotas: their text, which of several applies, and what check-config and `policy explain` say of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.cli import main
from redstreamd.daemon.call_rates import rate_rules
from redstreamd.errors import SettingsError
from redstreamd.policy.quotas import Most, Quantity, Quota, Quotas
from redstreamd.policy.unused_quotas import without_effect
from redstreamd.settings import load, quotas_of

_NAMES = st.text("abc:/*", min_size=1, max_size=4)
_PARTS = st.lists(
    st.sampled_from(["connections=1", "waits=20", "stream_add=5/s burst 7", "result_bytes=1024", "x=1/h"]),
    min_size=1,
    unique=True,
)


@given(st.lists(_NAMES, min_size=1, max_size=3), _PARTS)
def test_a_quota_is_written_as_it_is_read(principals: list[str], parts: list[str]) -> None:
    quota = Quota.parse(f" {' '.join(principals)}  have {' '.join(parts)}")
    assert Quota.parse(str(quota)) == quota
    assert quota.principals == tuple(principals)
    assert len(quota.amounts) + len(quota.rates) == len(parts)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it names no principal"),
        ("have waits=5", "it names no principal"),
        ("a b", "it does not say what the principals have"),
        ("a have", "it does not say what the principals have"),
        ("a have waits", "word 3: waits is an integer from 1"),
        ("a have waits=0", "word 3: waits is an integer from 1"),
        ("a have waits=1 waits=2", "it names something twice"),
        ("a have x=1/s x=2/s", "it names something twice"),
        ("a have result_bytes=1023", "word 3: result_bytes is an integer from 1024"),
        ("a have waits=1 stream_add@b=5/s", "word 4 names a principal"),
        ("a have stream_add=5/s burst", "word 3 is neither a quantity nor the rate"),
        ("a have secret", "word 3 is neither a quantity nor the rate"),
        ("ä have waits=1", "word 1 is no name of a principal"),
    ],
)
def test_a_mistake_is_named_without_the_text(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as wrong:
        Quota.parse(text)
    assert "secret" not in str(wrong.value)


def test_of_several_quotas_the_first_counts_for_each_quantity_by_itself() -> None:
    quotas = Quotas([Quota.parse("ops have waits=9"), Quota.parse("* have waits=2 connections=3")])
    found = {
        (name, each): quotas.most(each, name).number
        for name in ("ops", "ops/uid:7")
        for each in (Quantity.WAITS, Quantity.CONNECTIONS, Quantity.SUBSCRIPTIONS)
    }
    assert list(found.values()) == [9, 3, None, 2, 3, None]


def test_it_is_known_of_what_some_principal_may_have_less_than_there_is() -> None:
    quotas = Quotas([Quota.parse("ops have waits=9")], {Quantity.CONNECTIONS: Most(5, "limits.max")})
    assert quotas.limited == {Quantity.WAITS, Quantity.CONNECTIONS}
    quotas.replace([])
    assert quotas.limited == frozenset()


def test_a_quota_takes_the_place_of_the_limit_of_each_principal_and_of_its_rate() -> None:
    settings = load(
        assignments=[
            "limits.max_waits_per_principal=5",
            "limits.rates=stream_add@ops=1/s",
            "policy.quotas=ops have waits=50 stream_add=7/s,* have stream_add=3/s",
        ],
        environ={"HOME": "/root"},
    ).settings
    quotas = quotas_of(settings)
    most = quotas.most(Quantity.WAITS, "ops")
    assert (most.number, most.setting) == (50, "policy.quotas")
    most = quotas.most(Quantity.WAITS, "mcp")
    assert (most.number, most.setting) == (5, "limits.max_waits_per_principal")
    assert quotas.most(Quantity.RESULT_BYTES, "mcp").number == settings.tools.max_result_bytes
    rules = [(rule.principal, rule.per_second, rule.setting) for rule in rate_rules(settings)]
    assert rules == [("ops", 7, "policy.quotas"), ("*", 3, "policy.quotas"), ("ops", 1, "limits.rates")]


@pytest.mark.parametrize(
    ("quota", "bound"),
    [
        ("connections=4097", "limits.max_connections (4096)"),
        ("waits=10001", "limits.max_waits (10000)"),
        ("result_bytes=32769", "tools.max_result_bytes (32768)"),
    ],
)
def test_no_quota_is_more_than_all_may_have(quota: str, bound: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        load(assignments=[f"policy.quotas=mcp have {quota}"], environ={"HOME": "/root"})
    assert wrong.value.key == "policy.quotas"
    assert bound in wrong.value.allowed


@pytest.mark.parametrize(
    ("quotas", "findings"),
    [
        (["mcp mcp/uid:* have waits=5"], []),
        (["agents have waits=5"], ["no principal is known that 'agents' matches"]),
        (["mcp have waits=5", "* have waits=3"], []),
        (
            ["* have waits=5", "mcp have waits=3"],
            ["quota 2", "waits never applies to 'mcp'", "quota 1 comes"],
        ),
        (["* have waits=5", "mcp have connections=3"], []),
        (["mcp m* have waits=5"], ["'mcp' adds nothing to 'm*'"]),
        (["mcp have stream_manage=5/s"], ["stream_manage is not offered"]),
        (["* have stream_read=1/s"], ["rate 1 ('stream_read=5/s')", "never applies, because quota 1"]),
    ],
)
def test_check_config_finds_quotas_without_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quotas: list[str], findings: list[str]
) -> None:
    file = tmp_path / "redstreamd.toml"
    file.write_text(f'[limits]\nrates = ["stream_read=5/s"]\n[policy]\nquotas = {quotas}\n')
    assert main(["check-config", "--config", str(file)]) == 0
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == (1 if findings else 0), said.err
    for finding in findings:
        assert finding in said.err
    assert quotas[0] in said.out


def test_a_quota_of_connections_for_whom_a_token_tells_apart_is_found() -> None:
    quotas = [Quota.parse("http http/token:ann http/oauth:* http/* have connections=5 waits=3")]
    known = {"http", "http/token:ann", "http/oauth:x"}
    found = [
        each
        for each in without_effect(quotas, [], principals=known, offered=())
        if "counts for its listener, 'http'" in each
    ]
    assert len(found) == 2
    assert "connections never applies to 'http/token:ann'" in found[0]
    assert "connections never applies to 'http/oauth:*'" in found[1]


def test_a_quota_for_a_tool_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--set", "policy.quotas=mcp have stream_ad=5/s"]) == 78
    said = capsys.readouterr().err
    assert "policy.quotas" in said
    assert "such as stream_add" in said


def test_the_quota_that_applies_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--set", "policy.quotas=ops have waits=9,* have waits=2 stream_add=3/s"]
    options += ["--set", "limits.rates=stream_read=5/s", "--set", "limits.max_connections_per_principal=8"]
    for who, tool, lines in (
        ("mcp", "stream_add", ["waits: at most 2: quota 2, ", "rate: stream_add=3/s: quota 2, "]),
        ("ops", "stream_add", ["waits: at most 9: quota 1, 'ops have waits=9'", "stream_add=3/s: quota 2"]),
        (
            "mcp",
            "stream_read",
            ["connections: at most 8: limits.max_conn", "rate: stream_read=5/s: the first"],
        ),
        ("mcp", "stream_list", ["result_bytes: at most 32768: tools.max_result_bytes"]),
    ):
        assert main(["policy", "explain", who, tool, "s", *options]) == 0
        said = capsys.readouterr().out
        assert [line for line in lines if line not in said] == []
        assert ("rate:" in said) == (tool != "stream_list")
