"""One line of the doctor, and the check that makes one of a mistake."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from plgen_ddp.errors import UserError, user_message
from plgen_ddp.screen_text import MESSAGE, visible


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        subject: what was looked at.
        level: ok; warning: a run works, and something should be known; error: a run would fail.
        message: what was found.
        remedy: what to do; empty for ok.
    """

    subject: str
    level: Literal["ok", "warning", "error"]
    message: str
    remedy: str = ""

    def line(self) -> str:
        """The finding as a person reads it."""
        line = f"{self.level:<8} {self.subject}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")
        return visible(line, MESSAGE)


def checked(subject: str, work: Callable[[], str], remedy: str) -> Finding:
    """What `work` says in an ok finding; an error where it raises a user's mistake.

    Args:
        remedy: what to do where the mistake's own message is not enough.
    """
    try:
        return Finding(subject, "ok", work())
    except (UserError, OSError) as error:
        if (message := user_message(error)) is None:
            raise
        return Finding(subject, "error", message, remedy)
