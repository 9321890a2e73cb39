"""Picture of word error rates against emission delays: a student that waits is not better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mvqkd.evaluation.gather import (
    Experiment,
    chunk_of,
    context_of,
    interval_of,
    last_decoded,
)
from mvqkd.evaluation.pictures import COLOURS, MARKERS, common_method, save_figure, tidy

_WIDTH = 5.0  # of a panel, inches
_GREY = "#666666"


def draw_delays(
    path: Path, experiments: Sequence[Experiment], *, reference: str, by_speaker: bool
) -> bool:
    """A panel for each test set: WER against the mean delay of words until their chunk is complete,
    a point for each streaming student (colour) and chunk size (mark); the WER of the reference is a
    line across. Of each the search that most students share.

    Args:
        path: of the picture.
        experiments: with results, those of streaming with `delays`.
        reference: name of the experiment that aligned.
        by_speaker: intervals that resample speakers, where there are such.

    Returns:
        whether there is a point; otherwise nothing is drawn.
    """
    points = [(e, r) for e in experiments for r in last_decoded(e) if _has_delay(r)]
    if not points:
        return False
    method = common_method([e for e in experiments if any(e is other for other, _ in points)])
    points = [(e, r) for e, r in points if r["method"] == method and r["wer"] is not None]
    if not points:
        return False
    sets = sorted({result["set"] for _, result in points})
    names = list(dict.fromkeys(experiment.name for experiment, _ in points))
    chunks = sorted({(chunk_of(r), context_of(r)) for _, r in points})
    figure = Figure(figsize=(0.6 + _WIDTH * len(sets), 4.8), layout="constrained")
    axes = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, sets, strict=True):
        for number, student in enumerate(names):
            own = [r for e, r in points if e.name == student and r["set"] == name]
            _draw_student(ax, own, number, chunks, by_speaker)
        for result in (r for e in experiments if e.name == reference for r in last_decoded(e)):
            if (result["set"], result["method"]) == (name, method) and not chunk_of(result):
                _draw_full_context(ax, reference, result)
        ax.set_title(f"{name}, {method}", loc="left", fontweight="bold")
        ax.set_xlabel("mean delay of words until their chunk is complete, ms")
        ax.margins(x=0.15)
        ax.grid(color="#eeeeee")
        tidy(ax)
    axes[0].set_ylabel("word error rate, % (95 %)")
    for number, student in enumerate(names):
        axes[0].plot([], [], label=student, linewidth=2.0, **_line(number))
    for index, (_, context) in enumerate(chunks):
        label = f"chunks of {context}"
        axes[0].plot([], [], _marker(index), color=_GREY, label=label)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path)
    return True


def _has_delay(result: dict[str, Any]) -> bool:
    return bool((result.get("delays") or {}).get("chunk"))


def _delay(result: dict[str, Any]) -> float:
    return float(result["delays"]["chunk"]["mean"])


def _line(number: int) -> dict[str, Any]:
    """Of a student: with more of them than colours, a colour comes again with another line."""
    styles = ["-", "--", ":", "-."]
    style = styles[number // len(COLOURS) % len(styles)]
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": style}


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


def _draw_student(
    ax: Axes,
    results: Sequence[dict[str, Any]],
    number: int,
    chunks: Sequence[tuple[int, str]],
    by_speaker: bool,
) -> None:
    """One student's points, by chunk size, and the line that connects them."""
    colour = _line(number)["color"]
    ax.plot([_delay(r) for r in results], [r["wer"] for r in results], **_line(number))
    for result in results:
        delay = _delay(result)
        interval = interval_of(result, by_speaker=by_speaker)
        if interval is not None:
            ax.plot([delay, delay], interval, color=colour, linewidth=1.4, alpha=0.5)
        marker = _marker([chunk for chunk, _ in chunks].index(chunk_of(result)))
        ax.plot(delay, result["wer"], marker, color=colour, markersize=7)


def _draw_full_context(ax: Axes, name: str, result: dict[str, Any]) -> None:
    if result["wer"] is None:
        return
    ax.axhline(result["wer"], color=_GREY, linewidth=1.0, linestyle="--")
    ax.annotate(
        f"{name}, full context",
        (1, result["wer"]),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        fontsize="small",
        color=_GREY,
    )
