"""``redstreamd keys``: makes keys of encryption, lists them, and checks the ring."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redstreamd.cli.options import add_settings_options, with_settings

if TYPE_CHECKING:
    from redstreamd.encryption.key_files import KeyFile, KeyPlace
    from redstreamd.settings import EncryptionSettings, Loaded


def add_to(commands: Any) -> None:
    """Add the command and its three parts to the parser."""
    parser = commands.add_parser(
        "keys", help="make, list and check the keys that entries are encrypted with", allow_abbrev=False
    )
    parts = parser.add_subparsers(metavar="COMMAND", required=True)
    new = parts.add_parser(
        "new",
        help="make a key in a file of mode 0600, and say what to do with it on each host",
        allow_abbrev=False,
    )
    new.add_argument("id", metavar="ID", help="its name, which entries carry, such as the month: 2026-11")
    new.add_argument(
        "--directory",
        metavar="DIR",
        help="where to make it instead of where the settings say; made with mode 0700 if it is missing",
    )
    listing = parts.add_parser(
        "list",
        help="print the ID, age and mode of each key, and which one writes; exit 1 if one cannot be used",
        allow_abbrev=False,
    )
    check = parts.add_parser(
        "check",
        help="say whether the daemon can use the keys and the rules of encryption; exit 1 if not",
        allow_abbrev=False,
    )
    for part in (listing, check):
        part.add_argument("--json", action="store_true", help="print the result as JSON")
    for part, run in ((new, _new), (listing, _list), (check, _check)):
        add_settings_options(part)
        part.set_defaults(run=lambda arguments, run=run: with_settings(arguments, partial(run, arguments)))


def _new(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from redstreamd.cli.terminal import print_error, print_lines
    from redstreamd.encryption.key_files import ID_ALLOWED, KEY_ID
    from redstreamd.encryption.new_key import make_key

    if not KEY_ID.fullmatch(arguments.id):
        print_error(f"this is no ID of a key; allowed: {ID_ALLOWED}")
        return os.EX_USAGE
    configured = loaded.settings.encryption.keys
    directory = configured if arguments.directory is None else Path(arguments.directory).absolute()
    if directory is None or not directory.is_absolute():
        why = "the settings name no directory of keys"
        if directory is not None:
            why = "the settings say that the keys are credentials"
        print_error(
            f"{why}, so say where to make the key with --directory: for the service "
            "/var/lib/redstreamd/keys, or the directory that LoadCredential= names"
        )
        return os.EX_USAGE
    try:
        made = make_key(directory, arguments.id)
    except FileExistsError:
        print_error(f"there is a key {arguments.id} in {directory}, and it stays as it is; choose another ID")
        return os.EX_CANTCREAT
    except OSError as error:
        print_error(f"cannot make a key in {directory}: {error.strerror}; name another one with --directory")
        return os.EX_CANTCREAT
    print_lines(_next_steps(made, arguments.id, loaded.settings.encryption))
    return os.EX_OK


def _next_steps(made: Path, key_id: str, encryption: EncryptionSettings) -> Iterator[str]:
    from redstreamd.errors.remedies import setting

    yield f"made {made}"
    copy = (
        f"Copy {made} to every other host that shares the streams, with the same name, mode 0600 and the "
        "daemon as its owner; and to a safe place apart from Redis: without it nobody can read the entries."
    )
    steps = [copy]
    if encryption.keys is None:
        steps.append(f'Set {setting("encryption.keys")} on each host: keys = "{made.parent}"')
    steps.append(
        "On each host: `systemctl reload redstreamd`, or `systemctl restart redstreamd` if the keys are "
        "credentials; `redstreamd status` then shows how many keys the daemon has."
    )
    steps.append(
        f"Only when every host has the key, set {setting('encryption.writing_key')} on each: writing_key = "
        f'"{key_id}"; then reload each again.'
    )
    if not encryption.streams:
        steps.append(
            f"Say which streams are encrypted: set {setting('encryption.streams')}, such as streams = "
            '["jobs:* are encrypted except kind"].'
        )
    if encryption.writing_key is not None:
        steps.append(f"Keep {encryption.writing_key} and older keys while there are entries that need them.")
    yield from (f"{number}. {step}" for number, step in enumerate(steps, 1))


def _list(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from redstreamd.cli.terminal import print_lines

    encryption = loaded.settings.encryption
    place, files = _files(encryption)
    if arguments.json:
        print_lines([_as_json(files, encryption.writing_key, [])])
    elif place is None:
        print_lines(["There are no keys: the settings name none. `redstreamd keys new ID` makes one."])
    else:
        print_lines(_table(files, encryption.writing_key))
    return 1 if any(file.problem for file in files) else os.EX_OK


def _files(encryption: EncryptionSettings) -> tuple[KeyPlace | None, Sequence[KeyFile]]:
    from redstreamd.encryption.key_files import key_files
    from redstreamd.settings.configured_keys import key_place

    place = key_place(encryption)
    return (None, ()) if place is None else (place, key_files(place))


def _table(files: Sequence[KeyFile], writing_key: str | None) -> Iterator[str]:
    from redstreamd.cli.status_units import duration

    now = time.time()
    wide = max(2, *(len(file.id) for file in files))
    yield f"{'ID':<{wide}}  WRITES  {'AGE':<12}  MODE  FILE"
    for file in files:
        age = "?" if file.changed is None else duration(max(0, now - file.changed))
        mode = "?   " if file.mode is None else f"{file.mode:04o}"
        writes = "yes" if file.id == writing_key else "no"
        yield f"{file.id:<{wide}}  {writes:<6}  {age:<12}  {mode}  {file.path}"
        if file.problem:
            yield f"{'':<{wide}}  PROBLEM: {file.problem}"


def _check(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from redstreamd.cli.terminal import print_lines

    encryption = loaded.settings.encryption
    place, files = _files(encryption)
    problems = [f"{file.path}: {file.problem}" for file in files if file.problem]
    problems += _writing_problem(encryption, place, files)
    if arguments.json:
        print_lines([_as_json(files, encryption.writing_key, problems)])
    else:
        print_lines(_report(encryption, files, problems))
    return 1 if problems else os.EX_OK


def _writing_problem(
    encryption: EncryptionSettings, place: KeyPlace | None, files: Sequence[KeyFile]
) -> Iterator[str]:
    from redstreamd.encryption.key_ring import missing_writing_key

    there = {file.id: file for file in files}
    if place is not None and encryption.writing_key is not None and encryption.writing_key not in there:
        yield str(missing_writing_key(place, encryption.writing_key, there))


def _report(
    encryption: EncryptionSettings, files: Sequence[KeyFile], problems: Sequence[str]
) -> Iterator[str]:
    from redstreamd.errors.remedies import setting

    if not files:
        yield "Nothing is encrypted: the settings name no keys. `redstreamd keys new ID` makes one."
        return
    usable = [file.id for file in files if file.key is not None]
    yield f"keys that can be used: {', '.join(usable) or 'none'}"
    yield f"new entries are encrypted with: {encryption.writing_key or 'none'}"
    for number, rule in enumerate(encryption.streams, 1):
        yield f"rule {number}: {rule}"
    if not any(rule.is_encrypted for rule in encryption.streams):
        yield f"note: no rule encrypts a stream; to encrypt any, set {setting('encryption.streams')}"
    yield from (f"PROBLEM: {each}" for each in problems)
    yield "The ring cannot be used." if problems else "The ring can be used."


def _as_json(files: Sequence[KeyFile], writing_key: str | None, problems: Sequence[str]) -> str:
    import msgspec

    listed = [
        {
            "id": file.id,
            "path": file.path,
            "writes": file.id == writing_key,
            "mode": None if file.mode is None else f"{file.mode:04o}",
            "changed": file.changed,
            "problem": file.problem or None,
        }
        for file in files
    ]
    report = {"writing_key": writing_key, "keys": listed, "problems": list(problems)}
    return msgspec.json.encode(report).decode()
