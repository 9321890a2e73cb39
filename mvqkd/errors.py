"""The one error that programs show to people without a traceback."""

from __future__ import annotations

STEPS = {
    "corpus": "fetch the corpus",
    "manifests": "prepare the manifests",
    "features": "compute the features",
    "tokens": "prepare the tokens",
    "embeddings": "extract the embeddings",
    "quantizer": "train the quantizer",
    "codes": "dump the codes",
    "hypotheses": "dump the hypotheses",
    "training": "train the experiment",
    "decoding": "decode with the experiment",
    "export": "export the experiment",
}
"""Work that makes the files which other work reads, and what it is called in remedies."""


class UserError(Exception):
    """Bad input that a person can mend: a file, an utterance, a parameter.

    Programs print it without a traceback and exit with status 1; everything else is a defect and
    keeps its traceback. Its parts are apart, so that a program can say with which of its commands
    a step is done and which of its options a parameter is.

    Args:
        problem: what is wrong, naming the file or the utterance.
        remedy: what to do about it.
        step: key of `STEPS`: what to do again, after the remedy if there is one.
        parameters: names of parameters of functions that the remedy speaks of.
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str | None = None,
        step: str | None = None,
        parameters: tuple[str, ...] = (),
    ) -> None:
        self.problem = problem
        self.advice = remedy
        self.step = step
        self.parameters = parameters
        super().__init__(problem if self.remedy is None else f"{problem}\n  remedy: {self.remedy}")

    @property
    def remedy(self) -> str | None:
        """What to do about it, the step included."""
        parts = [self.advice, STEPS[self.step] if self.step else None]
        return "; ".join(part for part in parts if part) or None

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send their errors home pickled; keyword-only arguments need this to
        # survive.
        return _rebuild, (self.problem, self.advice, self.step, self.parameters)


def _rebuild(
    problem: str, remedy: str | None, step: str | None, parameters: tuple[str, ...]
) -> UserError:
    return UserError(problem, remedy=remedy, step=step, parameters=parameters)
