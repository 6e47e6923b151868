"""``redstreamd tokens``: what it makes, lists and revokes, and that a token is seen once."""

from __future__ import annotations

import json
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from redstreamd.cli import main
from redstreamd.policy import Permission
from redstreamd.protection.bearer_tokens import BearerTokens
from redstreamd.protection.token_file import changed_tokens
from redstreamd.protection.token_records import read_tokens
from redstreamd.protection.verified_tokens import WrongTokenError

NOWHERE = ["--config", "/dev/null"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def run(*words: str) -> int:
    return main(["tokens", *words, *NOWHERE])


def new(file: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run("new", *words, "--file", str(file)) == 0
    return capsys.readouterr().out.strip()


def test_a_new_token_is_alone_on_standard_output_and_the_file_is_private(file, capsys):
    assert run("new", "ann", "--file", str(file)) == 0
    told = capsys.readouterr()
    token = told.out.removesuffix("\n")
    assert BearerTokens(str(file)).verify(token).proved == "token:ann"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token not in file.read_text()
    assert token not in told.err
    # What is to be done next.
    assert f'token_file = "{file}"' in told.err
    assert "this once" in told.err
    assert [each.name for each in file.parent.iterdir()] == [file.name]
    other = new(file, capsys, "ann")
    assert other != token


def test_the_settings_say_where_the_file_is(file, capsys):
    configured = ["--set", f"http.token_file={file}"]
    assert run("new", "ann", *configured) == 0
    told = capsys.readouterr()
    assert "http.token_file" not in told.err
    assert run("list", "--json", *configured) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["tokens"]] == ["ann"]
    assert run("new", "ann") == os.EX_USAGE
    assert "--file" in capsys.readouterr().err
    # The daemon has a copy of a credential, which this cannot write.
    credential = ["--set", "http.token_file=tokens"]
    assert run("revoke", "ann", *credential) == os.EX_USAGE
    assert "credential" in capsys.readouterr().err
    assert run("revoke", "ann", *credential, "--file", str(file)) == 0
    assert "systemctl restart redstreamd" in capsys.readouterr().err


def test_expiry_and_scopes_are_kept_and_listed(file, capsys):
    new(file, capsys, "ann", "--expires", "90d", "--scope", "read", "--scope", "publish")
    new(file, capsys, "ben", "--scope", "read,consume")
    new(file, capsys, "cat")
    by_name = {each.name: each for each in read_tokens(str(file)).tokens}
    assert by_name["ann"].scopes == {Permission.READ, Permission.PUBLISH}
    left = by_name["ann"].expires - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    assert (by_name["cat"].expires, by_name["cat"].scopes) == (None, None)
    assert run("list", "--file", str(file)) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "ID", "AGE", "EXPIRES", "SCOPES"]
    assert [row.split()[0] for row in rows] == ["ann", "ben", "cat"]
    assert rows[0].split()[1] == by_name["ann"].id
    assert "in 89 d 23 h" in rows[0]
    assert rows[0].endswith("publish, read")
    assert rows[1].endswith("consume, read")
    assert rows[2].endswith("all")
    assert "never" in rows[2]
    assert run("list", "--json", "--file", str(file)) == 0
    listed = json.loads(capsys.readouterr().out)["tokens"]
    assert set(listed[0]) == {"name", "id", "created", "expires", "scopes"}
    assert listed[1]["scopes"] == ["consume", "read"]


@pytest.mark.parametrize(
    "words",
    [
        ("a b",),
        ("",),
        ("a/b",),
        ("x" * 65,),
        ("ann", "--expires", "90"),
        ("ann", "--expires", "0d"),
        ("ann", "--expires", "1.5d"),
        ("ann", "--scope", "admin"),
        ("ann", "--scope", ""),
        ("ann", "--scope", "submit"),
    ],
)
def test_what_cannot_be_meant_makes_no_token(file, capsys, words):
    assert run("new", *words, "--file", str(file)) == os.EX_USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err
    assert not file.exists()


def test_revoke_takes_back_all_tokens_of_a_name_or_the_one_of_an_id(file, capsys):
    first, second, other = (new(file, capsys, name) for name in ("ann", "ann", "ben"))
    running = BearerTokens(str(file))
    token_id = first.split("_")[1]
    assert run("revoke", "ben", "--id", token_id, "--file", str(file)) == 1
    assert "there is no such token" in capsys.readouterr().err
    assert run("revoke", "ann", "--id", token_id, "--file", str(file)) == 0
    assert capsys.readouterr().out == "revoked 1 token of ann\n"
    assert running.renew()
    with pytest.raises(WrongTokenError):
        running.verify(first)
    assert running.verify(second)
    new(file, capsys, "ann")
    assert run("revoke", "ann", "--file", str(file)) == 0
    assert capsys.readouterr().out == "revoked 2 tokens of ann\n"
    assert running.renew()
    with pytest.raises(WrongTokenError):
        running.verify(second)
    assert running.verify(other)
    assert run("revoke", "ben", "--file", str(file)) == 0
    # A file without tokens is no missing file: it revokes the last one.
    assert running.renew()
    assert run("list", "--file", str(file)) == 0
    assert "There are no tokens" in capsys.readouterr().out


def test_a_file_keeps_its_mode_and_owner_and_a_new_one_belongs_to_the_user_of_the_directory(file, capsys):
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(file.parent, 4711, 4712)
    new(file, capsys, "ann")
    assert (file.stat().st_uid, file.stat().st_gid, stat.S_IMODE(file.stat().st_mode)) == (4711, 4712, 0o600)
    os.chown(file, 0, 4713)
    file.chmod(0o640)
    new(file, capsys, "ben")
    assert (file.stat().st_uid, file.stat().st_gid, stat.S_IMODE(file.stat().st_mode)) == (0, 4713, 0o640)


def test_a_link_stays_and_what_it_leads_to_is_changed(file, tmp_path, capsys):
    new(file, capsys, "ann")
    link = tmp_path / "link"
    link.symlink_to(file)
    new(link, capsys, "ben")
    assert link.is_symlink()
    assert [each.name for each in read_tokens(str(file)).tokens] == ["ann", "ben"]


def test_a_file_that_cannot_be_used_is_left_as_it_is(file, capsys):
    new(file, capsys, "ann")
    file.chmod(0o644)
    before = file.read_bytes()
    assert run("new", "ben", "--file", str(file)) == os.EX_CONFIG
    told = capsys.readouterr()
    assert "chmod o=" in told.err
    assert told.out == ""
    file.chmod(0o600)
    file.write_text("{")
    for words in (("new", "ben"), ("list",), ("revoke", "ann")):
        assert run(*words, "--file", str(file)) == os.EX_CONFIG
        assert "it is not JSON" in capsys.readouterr().err
    assert file.read_bytes() != before
    assert run("new", "ben", "--file", str(file.parent / "missing" / "tokens")) == os.EX_CANTCREAT
    assert run("list", "--file", str(file.parent / "missing")) == os.EX_CONFIG
    assert "redstreamd tokens new NAME" in capsys.readouterr().err


def test_what_is_wrong_with_the_place_of_the_file_is_told_without_a_guess(tmp_path, capsys):
    assert run("new", "ann", "--file", str(tmp_path / "none" / "tokens.json")) == os.EX_CANTCREAT
    assert capsys.readouterr().err.endswith("cannot change the file of tokens: No such file or directory\n")


def test_programs_that_change_the_file_at_once_wait_for_each_other(file):
    """Each of several makes a token; none is lost."""

    def make(number: int) -> None:
        with changed_tokens(str(file), may_make=True) as change:
            change.value, _ = change.value.with_new(f"n{number}", expires=None, scopes=None)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert {each.name for each in read_tokens(str(file)).tokens} == {f"n{number}" for number in range(8)}


def test_a_token_in_the_place_of_a_name_or_file_is_not_repeated(file, capsys):
    token = new(file, capsys, "ann")
    for words in (("new", token), ("revoke", token), ("new", "ann", "--expires", token)):
        assert run(*words, "--file", str(file)) != 0
        told = capsys.readouterr()
        assert token not in told.out + told.err
    assert run("list", "--set", f"http.token_file={token}") == os.EX_USAGE
    told = capsys.readouterr()
    assert token not in told.out + told.err
