"""The one error that programs show to people without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Bad input that a person can mend: a file, an utterance, an option.

    Programs print it as two lines and exit with status 1; everything else is a defect and keeps its
    traceback.

    Args:
        problem: what is wrong, naming the file or the utterance.
        remedy: what to do about it, as a command wherever there is one.
    """

    def __init__(self, problem: str, *, remedy: str | None = None) -> None:
        super().__init__(problem if remedy is None else f"{problem}\n  remedy: {remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send their errors home pickled; keyword-only arguments need this to
        # survive.
        return _rebuild, (self.problem, self.remedy)


def _rebuild(problem: str, remedy: str | None) -> UserError:
    return UserError(problem, remedy=remedy)
