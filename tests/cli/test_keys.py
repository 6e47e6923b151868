"""``redstreamd keys``: what it makes, lists and finds wrong."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from redstreamd.cli import main

NOWHERE = ["--config", "/dev/null"]


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    return tmp_path / "keys"


def run(*words: str) -> int:
    return main(["keys", *words, *NOWHERE])


def test_a_new_key_is_a_private_file_of_32_random_bytes(keys, capsys):
    assert run("new", "2026-11", "--directory", str(keys)) == 0
    file = keys / "2026-11.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    text = file.read_text()
    assert len(base64.b64decode(text, validate=False)) == 32
    assert list(keys.iterdir()) == [file]
    told = capsys.readouterr().out
    assert text.strip() not in told
    lines = told.splitlines()
    assert lines[0] == f"made {file}"
    # The key is everywhere before anything is written with it.
    order = [told.index(each) for each in ("Copy", "encryption.keys", "reload", "encryption.writing_key")]
    assert order == sorted(order)
    assert run("new", "2026-12", "--directory", str(keys)) == 0
    assert (keys / "2026-12.key").read_text() != text


def test_a_key_that_is_there_is_never_replaced(keys, capsys):
    run("new", "a", "--directory", str(keys))
    before = (keys / "a.key").read_bytes()
    assert run("new", "a", "--directory", str(keys)) == os.EX_CANTCREAT
    assert "choose another ID" in capsys.readouterr().err
    assert (keys / "a.key").read_bytes() == before
    assert [each.name for each in keys.iterdir()] == ["a.key"]


def test_a_new_key_belongs_to_the_user_of_the_directory(keys):
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(keys.parent, 4711, 4712)
    run("new", "a", "--directory", str(keys))
    for made in (keys, keys / "a.key"):
        assert (made.stat().st_uid, made.stat().st_gid) == (4711, 4712)


@pytest.mark.parametrize("key_id", ["A", "../a", "-a", "a" * 33, "", "a/b"])
def test_what_is_no_id_is_refused(keys, capsys, key_id):
    words = ("new", "--directory", str(keys), "--", key_id)
    assert main(["keys", *words[:1], *NOWHERE, *words[1:]]) == os.EX_USAGE
    assert "1 to 32 characters" in capsys.readouterr().err
    assert not keys.exists()


def test_where_a_key_is_made_has_to_be_known(keys, capsys):
    assert run("new", "a") == os.EX_USAGE
    assert "--directory" in capsys.readouterr().err
    assert run("new", "a", "--directory", str(keys / "x" / "y")) == os.EX_CANTCREAT
    keys.mkdir(mode=0o777)
    keys.chmod(0o777)
    assert run("new", "a", "--directory", str(keys)) == os.EX_CONFIG
    assert "chmod go-w" in capsys.readouterr().err


def test_the_list_says_which_key_writes_how_old_it_is_and_what_is_wrong(keys, capsys):
    for key_id in ("old", "new"):
        run("new", key_id, "--directory", str(keys))
    os.utime(keys / "old.key", (0, 0))
    capsys.readouterr()
    words = ("--set", f"encryption.keys={keys}", "--set", "encryption.writing_key=new")
    assert run("list", *words) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "WRITES", "AGE", "MODE", "FILE"]
    assert [row.split()[:2] for row in rows] == [["new", "yes"], ["old", "no"]]
    assert "0600" in rows[0]
    assert int(rows[1].split()[2]) > 20_000  # days since 1970
    (keys / "old.key").chmod(0o644)
    assert run("list", *words) == 1
    assert "PROBLEM: other users may read or change it (mode 0644)" in capsys.readouterr().out
    assert run("list", "--json", *words) == 1
    listed = json.loads(capsys.readouterr().out)
    assert [(key["id"], key["writes"], key["mode"]) for key in listed["keys"]] == [
        ("new", True, "0600"),
        ("old", False, "0644"),
    ]


def test_the_check_says_whether_the_ring_can_be_used(keys, capsys):
    run("new", "a", "--directory", str(keys))
    capsys.readouterr()
    words = ["--set", f"encryption.keys={keys}", "--set", "encryption.writing_key=a"]
    rule = ["--set", "encryption.streams=jobs:* are encrypted"]
    assert run("check", *words, *rule) == 0
    told = capsys.readouterr().out
    assert "rule 1: jobs:* are encrypted" in told
    assert told.endswith("The ring can be used.\n")
    assert run("check", *words[:2], "--set", "encryption.writing_key=b", *rule) == 1
    told = capsys.readouterr().out
    assert "PROBLEM: setting encryption.writing_key='b' cannot be used: there is no " in told
    assert told.endswith("The ring cannot be used.\n")
    (keys / "a.key").write_text("short")
    assert run("check", "--json", *words, *rule) == 1
    assert "it does not hold 32 bytes" in json.loads(capsys.readouterr().out)["problems"][0]


def test_streams_to_encrypt_without_a_key_are_a_wrong_setting(keys, capsys):
    """They would otherwise be written clear."""
    assert run("check", "--set", "encryption.streams=* are encrypted") == os.EX_CONFIG
    assert "only with encryption.writing_key" in capsys.readouterr().err
    assert run("check", "--set", "encryption.writing_key=a") == os.EX_CONFIG
    assert "only with encryption.keys" in capsys.readouterr().err
    assert run("check") == 0


def test_a_key_in_the_place_of_its_file_or_id_is_not_shown(keys, capsys):
    for secret in (base64.b64encode(bytes(range(200, 232))).decode(), "/" + "a" * 42 + "="):
        for key in ("encryption.keys", "encryption.writing_key"):
            assert run("list", "--set", f"{key}={secret}") == os.EX_CONFIG
            told = capsys.readouterr()
            assert secret not in told.out + told.err


def test_check_config_reads_the_ring_and_finds_rules_without_effect(keys, capsys):
    run("new", "a", "--directory", str(keys))
    words = ["--set", f"encryption.keys={keys}", "--set", "encryption.writing_key=a"]
    rules = "encryption.streams=* are encrypted,jobs:* are clear"
    assert main(["check-config", *NOWHERE, *words, "--set", rules]) == 0
    told = capsys.readouterr()
    assert "rule 2 of encryption says nothing of jobs:*: '* are encrypted' before it counts" in told.err
    assert 'encryption.streams = ["* are encrypted", "jobs:* are clear"]' in told.out
    (keys / "a.key").chmod(0o640)
    assert main(["check-config", *NOWHERE, *words]) == os.EX_CONFIG
    assert "chmod 0600" in capsys.readouterr().err
