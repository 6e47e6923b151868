"""Problems with sentinels and with the primary that they name, and what to do about them.

Owns the words.
"""

from __future__ import annotations

import attrs
import msgspec
from redis.exceptions import RedisError

from redstreamd.errors.remedies import setting
from redstreamd.redisio.error_replies import reply_code, reply_text
from redstreamd.redisio.redis_errors import Problem, ProblemKind, ServerReplied


@attrs.frozen
class PrimaryOperator:
    """Says about the primary that sentinels decide which server it is."""

    primary: str
    label: str

    @property
    def name(self) -> str:
        """The server, at the beginning of a sentence."""
        return f"Redis at {self.label}, which the sentinels name as the primary {self.primary!r},"

    def problem(self) -> Problem | None:
        """Return None: nothing is known beside what it replies."""
        return None

    def adapted(self, problem: Problem) -> Problem:
        """Return the problem with what the sentinels can do in its next step, if they can."""
        if problem.kind is not ProblemKind.UNREACHABLE:
            return problem
        step = (
            "Wait for a failover, which is followed at once; `SENTINEL CKQUORUM "
            f"{self.primary}` says whether the sentinels can begin one. Else start the server."
        )
        return msgspec.structs.replace(problem, next_step=step)

    def advise(self, answer: ServerReplied) -> None:
        """Do nothing: the advice about a reply fits."""


def refused_question(error: RedisError, primary: str) -> Problem:
    """Read an error reply to a question about the primary."""
    text = reply_text(error)
    if "no such master" in text.lower():
        return Problem(
            ProblemKind.SETTINGS,
            f"it does not know a primary named {primary!r}",
            f"Correct {setting('redis.sentinel_primary')}, or have it monitor that primary; `SENTINEL "
            "MASTERS` lists those that it knows.",
        )
    if reply_code(error) == "NOPERM":
        return Problem(
            ProblemKind.SETTINGS,
            text,
            "Allow the user +sentinel|master, +sentinel|get-master-addr-by-name, +sentinel|sentinels, "
            "+sentinel|myid, +subscribe and the channel &+switch-master, or log in as another one: set "
            f"{setting('redis.sentinel_username')}.",
        )
    return Problem(ProblemKind.NOT_SERVING, text, "Look at the log of the sentinel.")


def unreadable_answer(detail: str) -> Problem:
    """Return the problem of a sentinel whose answers make no sense."""
    return Problem(
        ProblemKind.UNREACHABLE,
        f"its answer could not be read ({detail})",
        f"Check that {setting('redis.nodes')} name sentinels, and what is between.",
    )


def disagrees(named: str, epoch: int, used: str, used_epoch: int, primary: str) -> Problem:
    """Return the problem of a sentinel that goes on naming another server than the one that is used."""
    return Problem(
        ProblemKind.NOT_SERVING,
        f"it names {named} as the primary (configuration epoch {epoch}), while {used} is used (epoch "
        f"{used_epoch})",
        f"Compare `SENTINEL MASTER {primary}` of all sentinels. One that was cut off follows the others once "
        "it reaches them; else set it up anew.",
    )


def not_known(primary: str, problems: tuple[Problem, ...]) -> Problem:
    """Return why the primary is not known, from what is the matter with each sentinel."""
    if not problems:
        return Problem(
            ProblemKind.UNREACHABLE,
            "no sentinel has named a primary yet",
            "Repeat in a moment.",
        )
    causes = "; ".join(problem.cause for problem in problems)
    return Problem(
        problems[0].kind, f"no sentinel names the primary {primary!r}: {causes}", problems[0].next_step
    )


def none_answers(count: int) -> Problem:
    """Return the problem of a primary that serves while no sentinel answers."""
    return Problem(
        ProblemKind.UNREACHABLE,
        f"none of the {count} sentinels answers, so a failover would not be noticed; the primary known last "
        "is used",
        "Start the sentinels, or see what keeps this host from reaching them.",
    )
