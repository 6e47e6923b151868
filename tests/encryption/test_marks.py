"""What looks for values finds them: without that, the absence of a value would show nothing."""

from __future__ import annotations

import base64

import pytest

from tests.encryption.marks import Marks, files_of, open_redis


@pytest.mark.parametrize("beside", range(4))
def test_a_mark_is_found_in_every_form(beside: int) -> None:
    marks = Marks()
    for value in (marks.text(), str(marks.number())):
        whole = b"." * beside + value.encode() + b"!" * beside
        forms = (whole, whole.hex().encode(), whole.hex().upper().encode())
        for form in (*forms, base64.b64encode(whole), base64.urlsafe_b64encode(whole)):
            assert marks.found_in(b"before " + form + b" behind")
    assert not marks.found_in(base64.b64encode(Marks().text().encode()))


def test_what_lies_in_redis_in_the_clear_is_found_in_each_place() -> None:
    marks = Marks()
    with open_redis() as (server, monitor):
        server.command("XADD", "s", "*", "n", marks.text() * 50)
        assert marks.found_in(monitor.shown())
        assert len(marks.found_in(files_of(server))) >= 2
