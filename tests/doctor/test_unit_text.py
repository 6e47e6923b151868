"""The notations of systemd, against what systemd itself makes of them where one is booted (tests/systemd)."""

from __future__ import annotations

from pathlib import Path

import pytest

from redstreamd.doctor.unit_text import command_words, credentials, environment_file, environment_of

#: Lines of an environment file and what systemd makes of them; see also tests/systemd/test_doctor.py.
ENVIRONMENT_FILE = r"""
# a comment with an 'apostrophe and a \
; another
PLAIN=value
  INDENTED = value with blanks   
EMPTY=
EQUALS=a=b=c
APOSTROPHE=it's
SINGLE='a "b" $c \d'
DOUBLE="a 'b' \"c\" \\ \$d \x"
JOINED='a'"b"
MULTILINE="first
second"
CONTINUED=first \
second
ESCAPED=a\ b\\c
no assignment
9DIGIT=is no name
LAST=is here"""  # noqa: W291

ENVIRONMENT = {
    "PLAIN": "value",
    "INDENTED": "value with blanks",
    "EMPTY": "",
    "EQUALS": "a=b=c",
    "APOSTROPHE": "it's",
    "SINGLE": r'a "b" $c \d',
    "DOUBLE": r"""a 'b' "c" \ $d \x""",
    "JOINED": "ab",
    "MULTILINE": "first\nsecond",
    "CONTINUED": "first second",
    "ESCAPED": r"a b\c",
    "LAST": "is here",
}


def test_an_environment_file_is_read_as_systemd_reads_it() -> None:
    assert environment_file(ENVIRONMENT_FILE) == ENVIRONMENT


def test_the_property_environment_is_read() -> None:
    shown = r"""REDIS_PORT=6380 "A=b c" "B=d\$e \"q\" 's" C=/run/x"""
    assert environment_of(shown) == {"REDIS_PORT": "6380", "A": "b c", "B": 'd$e "q" \'s', "C": "/run/x"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("serve --embedded", ["serve", "--embedded"]),
        ("serve $OPTIONS --set x", ["serve", "--embedded", "--set", "a=b", "--set", "x"]),
        ("serve --config ${PLACE}/x.toml $$HOME", ["serve", "--config", "/etc/x.toml", "$HOME"]),
        ("serve $UNSET ${UNSET}", ["serve", ""]),
    ],
)
def test_a_command_line_has_its_variables_replaced(words: str, expected: list[str]) -> None:
    shown = f"{{ path=/bin/p ; argv[]=/bin/p {words} ; ignore_errors=no ; start_time=[n/a] ; pid=0 }}"
    environ = {"OPTIONS": "--embedded  --set a=b", "PLACE": "/etc"}
    assert command_words(shown, environ) == ["/bin/p", *expected]


def test_credentials_are_those_of_all_files_of_the_unit_after_the_last_reset() -> None:
    text = """
# /usr/lib/systemd/system/redstreamd.service
[Unit]
LoadCredential=not:here
[Service]
LoadCredential=gone:/etc/gone
SetCredential=kept:text with: colon

# /etc/systemd/system/redstreamd.service.d/one.conf
[Service]
LoadCredential=
# LoadCredential=commented:/etc/commented
LoadCredential = password:/etc/password
LoadCredential=stored
LoadCredentialEncrypted=sealed:/etc/sealed
"""
    found = {each.name: each for each in credentials(text)}
    assert list(found) == ["password", "stored", "sealed", "kept"]
    assert found["password"].source == Path("/etc/password")
    assert found["password"].origin == "/etc/systemd/system/redstreamd.service.d/one.conf"
    assert found["stored"].source == Path("stored")
    assert found["sealed"].encrypted
    assert found["kept"].content == "text with: colon"
    assert "text" not in repr(found["kept"])
