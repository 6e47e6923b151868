"""What encryption costs: ``.venv/bin/python -m tests.bench.encryption``.

In this process, without Redis: entries of 1 KiB are encoded, sealed and opened, in turn, so that what else
the machine does meets all alike. Counted is CPU time of this thread. A figure is the lowest of many rounds,
since whatever disturbs a round makes it longer; a round is short, so that some are not disturbed at all.
"""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from redstreamd.encryption.encryption_rules import EncryptionRule, EncryptionRules
from redstreamd.encryption.key_ring import Key, KeyRing
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.entry_decoding import decode_all
from redstreamd.streams.entry_encoding import Stamp, encode_all
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.names import judged_by

STREAM: Final = "shop:orders:paid"
STAMP: Final = Stamp(sender="mcp")
BATCH: Final = 100
#: Calls of a round: less than a millisecond.
CALLS: Final = 25
#: An entry of 1 KiB has so many bytes in names and values.
ENTRY_BYTES: Final = 1_024

Steps = Mapping[str, Callable[[], Any]]


def entries(count: int, fields: int) -> list[dict[str, str]]:
    """Return entries of texts of `ENTRY_BYTES`, in so many fields of the same size."""
    size = ENTRY_BYTES // fields - len("field0")
    return [{f"field{n}": secrets.token_hex(size)[:size] for n in range(fields)} for _ in range(count)]


def lowest(steps: Steps, *, rounds: int, calls: int) -> dict[str, float]:
    """Return the microseconds of a call of each step: the lowest of the rounds, in which they take turns."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.thread_time_ns()
            for _ in range(calls):
                step()
            found[name].append((time.thread_time_ns() - began) / calls / 1_000)
    return {name: min(times) for name, times in found.items()}


def encryption_by(text: str) -> tuple[Encryption, EncryptionRule]:
    """Return what encrypts by one rule, with a new key."""
    key = Key("k1", secrets.token_bytes(32))
    rule = EncryptionRule.parse(text)
    return Encryption(KeyRing({key.id: key}, key), EncryptionRules([rule], judged_by)), rule


def steps_of(rule_text: str, count: int, fields: int) -> Steps:
    """Return what is measured of `count` entries: encoding without and with sealing, and likewise back."""
    encryption, rule = encryption_by(rule_text)
    given = entries(count, fields)
    plain = _stored(encode_all(given, STAMP))
    sealed = _stored(encryption.seal_all(STREAM, rule, encode_all(given, STAMP)))

    def opening() -> Any:
        return decode_all([encryption.open_entry(STREAM, each) for each in sealed])

    assert [each.members for each in opening()] == given
    assert all(text not in str(sealed) for text in given[0].values())
    return {
        "encoding": lambda: encode_all(given, STAMP),
        "with sealing": lambda: encryption.seal_all(STREAM, rule, encode_all(given, STAMP)),
        "decoding": lambda: decode_all(plain),
        "with opening": opening,
    }


def _stored(encoded: list[dict[str, str]]) -> list[RawEntry]:
    return [
        RawEntry(f"1-{n}", [word for pair in each.items() for word in pair]) for n, each in enumerate(encoded)
    ]


def added(rule_text: str, count: int, fields: int, *, rounds: int = 400) -> tuple[float, float]:
    """Return the microseconds that sealing and opening add to one entry."""
    took = lowest(steps_of(rule_text, count, fields), rounds=rounds, calls=max(1, CALLS // count))
    return (
        (took["with sealing"] - took["encoding"]) / count,
        (took["with opening"] - took["decoding"]) / count,
    )


def main() -> None:
    """Measure, and print a line for each shape of an entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    print("| entry of 1 KiB | encoding, µs | sealing adds | decoding, µs | opening adds |")
    print("| --- | --- | --- | --- | --- |")
    for hidden in ("", " with names"):
        for fields in (1, 4, 16):
            for count in (1, BATCH):
                steps = steps_of(f"* are encrypted{hidden}", count, fields)
                took = lowest(steps, rounds=rounds, calls=max(1, CALLS // count))
                each = {name: us / count for name, us in took.items()}
                what = f"{fields} field{'s' if fields > 1 else ''}{', names hidden' if hidden else ''}"
                print(
                    f"| {what}, {'alone' if count == 1 else f'one of {count}'} | {each['encoding']:.1f} "
                    f"| {each['with sealing'] - each['encoding']:.1f} | {each['decoding']:.1f} "
                    f"| {each['with opening'] - each['decoding']:.1f} |"
                )


if __name__ == "__main__":
    main()
