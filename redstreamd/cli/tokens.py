"""``redstreamd tokens``: makes bearer tokens for clients that come over HTTP, lists and revokes them."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from redstreamd.cli.options import add_settings_options, with_settings

if TYPE_CHECKING:
    from datetime import datetime

    from redstreamd.policy import Permission
    from redstreamd.protection.token_records import TokenList, TokenRecord
    from redstreamd.settings import Loaded

_UNITS: Final = {"m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,4})([mhdw])")


def add_to(commands: Any) -> None:
    """Add the command and its three parts to the parser."""
    parser = commands.add_parser(
        "tokens",
        help="make, list and revoke the bearer tokens of clients that come over HTTP",
        allow_abbrev=False,
    )
    parts = parser.add_subparsers(metavar="COMMAND", required=True)
    new = parts.add_parser(
        "new", help="make a token and print it, this once; the file keeps a hash of it", allow_abbrev=False
    )
    new.add_argument("name", metavar="NAME", help="whose it is; the client is the principal http/token:NAME")
    new.add_argument(
        "--expires",
        metavar="TIME",
        help="how long it is valid: a number and m, h, d or w, such as 90d; without it until it is revoked",
    )
    new.add_argument(
        "--scope",
        metavar="SCOPE",
        action="append",
        help="read, publish, consume or manage: what it may be used for at most; repeatable; without it for "
        "all that the policy grants",
    )
    listing = parts.add_parser(
        "list", help="print the name, ID, age, expiry and scopes of each token", allow_abbrev=False
    )
    listing.add_argument("--json", action="store_true", help="print the result as JSON")
    revoke = parts.add_parser(
        "revoke",
        help="take back the tokens of a name; running daemons notice it within some seconds",
        allow_abbrev=False,
    )
    revoke.add_argument("name", metavar="NAME", help="whose tokens")
    revoke.add_argument("--id", metavar="ID", help="only the one with this ID, which `list` prints")
    for part, run in ((new, _new), (listing, _list), (revoke, _revoke)):
        part.add_argument(
            "--file", metavar="FILE", help="the file of tokens, instead of the one that the settings name"
        )
        add_settings_options(part)
        part.set_defaults(run=lambda arguments, run=run: with_settings(arguments, partial(run, arguments)))


class _UsageError(Exception):
    """Something on the command line cannot be meant."""


def _guarded(run: Any) -> Any:
    """Return a command that tells what is wrong instead of raising it."""

    def guarded(arguments: argparse.Namespace, loaded: Loaded) -> int:
        from redstreamd.cli.terminal import print_error

        try:
            status: int = run(arguments, loaded)
        except _UsageError as wrong:
            print_error(str(wrong))
            return os.EX_USAGE
        except OSError as error:
            who = "; is this its owner, or root?" if isinstance(error, PermissionError) else ""
            print_error(f"cannot change the file of tokens: {error.strerror}{who}")
            return os.EX_CANTCREAT
        return status

    return guarded


@_guarded
def _new(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from redstreamd.cli.terminal import print_error
    from redstreamd.protection.token_file import changed_tokens
    from redstreamd.protection.token_records import NAME, NAME_ALLOWED

    if not NAME.fullmatch(arguments.name):
        raise _UsageError(f"this is no name; allowed: {NAME_ALLOWED}")
    expires, scopes = _expiry(arguments.expires), _scopes(arguments.scope)
    path = _file(arguments, loaded)
    with changed_tokens(path, may_make=True) as tokens:
        has = sum(each.name == arguments.name for each in tokens.value.tokens)
        tokens.value, token = tokens.value.with_new(arguments.name, expires=expires, scopes=scopes)
    # Alone on standard output, so that it can be piped to where it is needed.
    print(token)
    print_error(*_next_steps(arguments.name, path, loaded, has))
    return os.EX_OK


def _next_steps(name: str, path: str, loaded: Loaded, has: int) -> Iterator[str]:
    from redstreamd.errors.remedies import setting

    yield f"made a token of {name} in {path}; it is shown this once"
    yield "Clients send it in the header Authorization: Bearer TOKEN."
    if loaded.settings.http.token_file is None:
        yield f'Set {setting("http.token_file")}: token_file = "{path}"'
    elif not loaded.settings.http.token_file.is_absolute():
        yield "The daemon has a copy of the file as its credential: `systemctl restart redstreamd`."
    if has:
        yield (
            f"{name} has {has + 1} tokens now. When nobody uses the former any more: `redstreamd tokens "
            f"revoke {name} --id ID`; `redstreamd tokens list` prints the IDs."
        )


@_guarded
def _list(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from redstreamd.cli.terminal import print_lines
    from redstreamd.protection.token_file import tokens_in

    tokens = tokens_in(_file(arguments, loaded))
    if arguments.json:
        print_lines([_as_json(tokens)])
    elif not tokens.tokens:
        print_lines(["There are no tokens. `redstreamd tokens new NAME` makes one."])
    else:
        print_lines(_table(tokens))
    return os.EX_OK


def _table(tokens: TokenList) -> Iterator[str]:
    from datetime import UTC, datetime

    from redstreamd.cli.status_units import duration

    now = datetime.now(UTC)
    wide = max(4, *(len(each.name) for each in tokens.tokens))
    yield f"{'NAME':<{wide}}  {'ID':<8}  {'AGE':<12}  {'EXPIRES':<17}  SCOPES"
    for each in tokens.tokens:
        age = duration(max(0.0, (now - each.created).total_seconds()))
        scopes = "all" if each.scopes is None else ", ".join(sorted(each.scopes)) or "none"
        yield f"{each.name:<{wide}}  {each.id}  {age:<12}  {_expiry_text(each, now):<17}  {scopes}"


def _expiry_text(token: TokenRecord, now: datetime) -> str:
    from redstreamd.cli.status_units import duration

    if token.expires is None:
        return "never"
    left = (token.expires - now).total_seconds()
    return f"in {duration(left)}" if left > 0 else "expired"


def _as_json(tokens: TokenList) -> str:
    import msgspec

    listed = [
        {
            "name": each.name,
            "id": each.id,
            "created": each.created,
            "expires": each.expires,
            "scopes": None if each.scopes is None else sorted(each.scopes),
        }
        for each in tokens.tokens
    ]
    text: str = msgspec.json.encode({"tokens": listed}).decode()
    return text


@_guarded
def _revoke(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from redstreamd.cli.terminal import print_error, print_lines
    from redstreamd.protection.token_file import changed_tokens

    path = _file(arguments, loaded)
    with changed_tokens(path) as tokens:
        before = len(tokens.value.tokens)
        tokens.value = tokens.value.without(arguments.name, arguments.id)
        count = before - len(tokens.value.tokens)
    if not count:
        print_error(f"there is no such token in {path}; `redstreamd tokens list` says which there are")
        return 1
    print_lines([f"revoked {count} token{'s' if count > 1 else ''} of {arguments.name}"])
    configured = loaded.settings.http.token_file
    if configured is not None and not configured.is_absolute():
        print_error("The daemon has a copy of the file as its credential: `systemctl restart redstreamd`.")
    return os.EX_OK


def _file(arguments: argparse.Namespace, loaded: Loaded) -> str:
    configured = loaded.settings.http.token_file
    if arguments.file is not None:
        return str(Path(arguments.file).absolute())
    if configured is None or not configured.is_absolute():
        why = (
            "the settings name no file of tokens"
            if configured is None
            else "it is a credential of the service"
        )
        raise _UsageError(
            f"{why}, so say where it is with --file, such as --file /etc/redstreamd/http-tokens.json"
        )
    return str(configured)


def _expiry(text: str | None) -> datetime | None:
    from datetime import UTC, datetime, timedelta

    if text is None:
        return None
    found = _DURATION.fullmatch(text)
    if found is None:
        raise _UsageError("--expires takes a number and m, h, d or w, such as 12h or 90d")
    seconds = int(found[1]) * _UNITS[found[2]]
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)


def _scopes(given: list[str] | None) -> list[Permission] | None:
    from redstreamd.policy import Permission

    if given is None:
        return None
    words = [word for each in given for word in re.split(r"[\s,]+", each) if word]
    if not words or not all(word in list(Permission) for word in words):
        raise _UsageError(f"--scope takes {', '.join(Permission)}")
    return [Permission(word) for word in words]
