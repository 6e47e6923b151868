"""Lease tokens cannot be read by another key, nor changed."""

from __future__ import annotations

import base64
import hmac

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.errors import BusError, Code
from redstreamd.streams.lease_tokens import Lease, LeaseKey

KEY = LeaseKey(b"0123456789abcdef")
LEASES = st.builds(
    Lease,
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.just("unix"),
    st.dictionaries(
        st.builds("{}-{}".format, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        st.integers(1, 2**31),
        min_size=1,
    ),
    st.integers(0, 2**53),
    st.integers(0, 1_000_000),
)
WITH_TERMS = st.builds(
    msgspec.structs.replace,
    LEASES,
    length_ms=st.integers(1, 30 * 86_400_000),
    own_limit=st.none() | st.integers(0, 1_000_000),
)


@given(LEASES | WITH_TERMS)
def test_a_token_says_what_was_signed(lease: Lease) -> None:
    token = KEY.sign(lease)
    # What it signed is known the first time, and authenticated later.
    assert [KEY.read(token), KEY.read(token)] == [lease, lease]
    assert token.isascii()
    assert token.isprintable()


@given(WITH_TERMS)
def test_the_first_release_reads_a_token_as_one_of_its_own(lease: Lease) -> None:
    """A daemon that was set back finishes what the newer one gave."""
    token = KEY.sign(lease)
    assert as_the_first_release_reads(token) == msgspec.structs.replace(lease, length_ms=None, own_limit=None)


def as_the_first_release_reads(token: str) -> Lease:
    """Decode a token by the rules of the first release."""
    assert token.startswith("lease2.")
    text = token.removeprefix("lease2.")
    body = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[:-16]
    *who, taken_at, max_deliveries, numbers = msgspec.msgpack.decode(
        body, type=tuple[str, str, str, str, int, int, tuple[int, ...]]
    )
    triples = zip(*[iter(numbers)] * 3, strict=True)
    return Lease(*who, {f"{ms}-{seq}": attempt for ms, seq, attempt in triples}, taken_at, max_deliveries)


def test_a_token_of_the_first_release_is_read() -> None:
    """Its limit holds as what the taker may have asked for, and its length is not known."""
    body = msgspec.msgpack.encode(("s", "g", "ann", "unix", 1_700_000_000_000, 3, (5, 0, 1, 6, 2, 4)))
    mac = hmac.digest(b"0123456789abcdef", body, "sha256")[:16]
    token = "lease2." + base64.urlsafe_b64encode(body + mac).decode().rstrip("=")
    lease = KEY.read(token)
    assert lease == Lease("s", "g", "ann", "unix", {"5-0": 1, "6-2": 4}, 1_700_000_000_000, 3)
    assert lease.least_limit == 3


@given(LEASES, st.data())
def test_a_changed_token_is_refused(lease: Lease, data: st.DataObject) -> None:
    token = KEY.sign(lease)
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABab01-_."))
    changed = token[:place] + letter + token[place + 1 :]
    # The last character of base64 has bits that mean nothing.
    if changed != token and place < len(token) - 1:
        with pytest.raises(BusError) as refused:
            KEY.read(changed)
        assert refused.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("token", ["", "lease2.", "lease2.!!!!", "lease2.AAAA", "x" * 100_000, "lease2.é"])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(BusError):
        KEY.read(token)


@pytest.mark.parametrize("length", [16, 32, 64, 65, 200])
def test_a_token_is_authenticated_by_hmac_whatever_the_length_of_the_key(length: int) -> None:
    key = bytes(range(length))
    token = LeaseKey(key).sign(Lease("s", "g", "c", "me", {"1-1": 1}, 1, 10))
    text = token.removeprefix("lease2.")
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    assert raw[-16:] == hmac.digest(key, raw[:-16], "sha256")[:16]
    assert LeaseKey(key).read(token).attempts == {"1-1": 1}


def test_another_key_refuses() -> None:
    token = KEY.sign(Lease("s", "g", "c", "unix", {"1-0": 1}, 1, 10))
    with pytest.raises(BusError):
        LeaseKey(b"fedcba9876543210").read(token)


def test_a_token_of_one_entry_is_short_enough_to_copy() -> None:
    token = KEY.sign(
        Lease(
            "billing:invoices:created",
            "mailer",
            "worker-1",
            "unix",
            {"1767225600000-0": 1},
            1767225600000,
            10,
        )
    )
    assert len(token) < 130
