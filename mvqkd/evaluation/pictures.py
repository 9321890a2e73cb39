"""Pictures: word error rates with intervals, also against storage, and training curves.

Drawn with the object-oriented interface of matplotlib (no window, no global state) in the colours
of Okabe and Ito, which people with any colour vision can distinguish.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from mvqkd.evaluation.gather import Experiment, at_own_chunk, chunk_of, context_of, interval_of
from mvqkd.storage.files import atomic_path

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "D", "^", "v", "P", "X"]
_GREY = "#666666"
_LABEL_WIDTH = 0.3  # of the width of a panel, about
_LABELS = {
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm before clipping",
    "x_real_time": "speed (x real time)",
}


def draw_error_rates(path: Path, experiments: Sequence[Experiment], *, by_speaker: bool) -> None:
    """A panel for each test set: WER and 95 % interval of each experiment and way of decoding, with
    its real-time factor beside it; size and hours of training below the experiment's name.

    Args:
        path: of the picture.
        experiments: with results, from top to bottom.
        by_speaker: intervals that resample speakers, where there are such.
    """
    save_figure(_error_rates(experiments, by_speaker=by_speaker), path)


def _error_rates(experiments: Sequence[Experiment], *, by_speaker: bool) -> Figure:
    sets = sorted({result["set"] for e in experiments for result in e.results})
    methods = sorted({result["method"] for e in experiments for result in e.results})
    height = 1.6 + 0.55 * sum(max(1, len(_ways(e))) for e in experiments)
    figure = Figure(figsize=(2.6 + 4.2 * len(sets), max(2.6, height)), layout="constrained")
    axes = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    ticks, labels = [], []
    row = 0.0
    for experiment in experiments:
        ways = _ways(experiment)
        for way in ways:
            for ax, name in zip(axes, sets, strict=True):
                for result in experiment.results:
                    if (result["method"], result["suffix"]) == way and result["set"] == name:
                        _draw_rate(ax, row, result, methods.index(result["method"]), by_speaker)
            row += 1.0
        if ways:
            ticks.append(row - 0.5 - len(ways) / 2)
            labels.append(_label(experiment))
            row += 0.6
    for ax, name in zip(axes, sets, strict=True):
        ax.set_title(name, loc="left", fontweight="bold")
        ax.set_xlabel("word error rate, %")
        _beside(ax, -0.8, "RTF")
        ax.set_yticks(ticks, labels)
        ax.set_ylim(row - 0.8, -0.8)
        ax.margins(x=0.12)
        ax.grid(axis="x", color="#dddddd")
        tidy(ax)
        ax.tick_params(axis="y", length=0)
    for index, method in enumerate(methods):
        axes[0].plot([], [], MARKERS[index], color=COLOURS[index], label=method)
    figure.legend(
        loc="outside lower center",
        ncols=len(methods),
        frameon=False,
        title="RTF: seconds of decoding for a second of audio",
        title_fontsize="small",
    )
    return figure


def draw_storage(path: Path, experiments: Sequence[Experiment], *, by_speaker: bool) -> bool:
    """A panel for each test set: WER against the stored bytes of the teacher, students without a
    teacher as lines across. Of each student the search that most of them share, of several such the
    one with the fewest errors, with the chunk size of its training, and the last decoded.

    Args:
        path: of the picture.
        experiments: with results.
        by_speaker: intervals that resample speakers, where there are such.

    Returns:
        whether there are two amounts of storage to compare, and error rates; otherwise nothing is
        drawn.
    """
    # To three digits: the sizes of two dumps of the same codes differ by their headers.
    amounts = {e.name: float(f"{e.stored_bytes / 1e6:.3g}") for e in experiments}
    stored = {amount for amount in amounts.values() if amount > 0}
    if len(stored) < 2:
        return False
    span = max(stored) / min(stored)
    limits = (min(stored) * span**-0.15, max(stored) * span**0.5)  # on the right there are labels
    method = common_method(experiments)
    results = [
        (experiment, result)
        for experiment in experiments
        for (_, used), result in at_own_chunk(experiment).items()
        if used == method and result["wer"] is not None
    ]
    if not results:
        return False
    sets = sorted({result["set"] for _, result in results})
    figure = Figure(figsize=(1 + 4.6 * len(sets), 4.4), layout="constrained")
    axes = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    rates = [
        rate
        for _, r in results
        for rate in (r["wer"], *(interval_of(r, by_speaker=by_speaker) or ()))
    ]
    gap = 0.045 * (max(rates) - min(rates))
    for ax, name in zip(axes, sets, strict=True):
        labels: list[tuple[float, float, str]] = []
        for experiment, result in results:
            if result["set"] == name:
                amount, rate = amounts[experiment.name], result["wer"]
                labels.append((amount, rate, f"{experiment.name}  {rate:.2f}"))
                _draw_stored(ax, amount, result, by_speaker)
        _label_stored(ax, labels, gap, (limits[1] / limits[0]) ** _LABEL_WIDTH)
        ax.set_xscale("log")
        ax.set_xlim(limits)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 30 else (1,)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_title(f"{name}, {method}", loc="left", fontweight="bold")
        ax.set_xlabel("stored of the teacher, MB for an hour of audio")
        ax.grid(color="#eeeeee")
        tidy(ax)
    axes[0].set_ylabel("word error rate, %")
    save_figure(figure, path)
    return True


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Places of labels for these values: in their order, at least `gap` from each other, and those
    that had to move around where they belong on average."""
    groups: list[list[float]] = []  # of neighbours that would touch
    for value in sorted(values):
        groups.append([value])
        while len(groups) > 1 and _spread(groups[-1], gap)[0] < _spread(groups[-2], gap)[-1] + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    places = [place for group in groups for place in _spread(group, gap)]
    order = sorted(range(len(values)), key=values.__getitem__)
    return [place for _, place in sorted(zip(order, places, strict=True))]


def _spread(group: Sequence[float], gap: float) -> list[float]:
    first = sum(group) / len(group) - gap * (len(group) - 1) / 2
    return [first + number * gap for number in range(len(group))]


def common_method(experiments: Sequence[Experiment]) -> str:
    """The search that most experiments share, of several such the one with the fewest errors.

    Args:
        experiments: with results.
    """
    rates: dict[str, list[float]] = {}
    students: dict[str, set[str]] = {}
    for experiment in experiments:
        for result in experiment.results:
            students.setdefault(result["method"], set()).add(experiment.name)
            rate = math.inf if result["wer"] is None else result["wer"]
            rates.setdefault(result["method"], []).append(rate)
    return max(sorted(rates), key=lambda m: (len(students[m]), -sum(rates[m]) / len(rates[m])))


def draw_training(path: Path, name: str, metrics: Sequence[dict[str, Any]]) -> None:
    """Losses, learning rate, gradient norm and speed of one training against its steps.

    Args:
        path: of the picture.
        name: of the experiment.
        metrics: lines of `log/metrics.jsonl`.
    """
    train = [line for line in metrics if line["kind"] == "train"]
    valid = [line for line in metrics if line["kind"] == "valid"]
    known = {"kind", "step", "epoch", "audio_hours", "elapsed", "clip_factor", *_LABELS}
    losses = [
        key
        for key in dict.fromkeys(key for line in [*train, *valid] for key in line)
        if key not in known and any(isinstance(line.get(key), int | float) for line in valid)
    ]
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=[1.5, 1])
    ax = figure.add_subplot(grid[0, :])
    for index, key in enumerate(losses):
        colour = COLOURS[index % len(COLOURS)]
        _curve(ax, train, key, color=colour, alpha=0.45, linewidth=1.2)
        last = next(line[key] for line in reversed(valid) if line.get(key) is not None)
        marker = MARKERS[index % len(MARKERS)]
        label = f"{key}, {last:.3g} at the end"
        _curve(ax, valid, key, color=colour, marker=marker, linewidth=1.6, label=label)
    _other_data(ax, metrics, len(losses))
    ax.set_title(f"{name}: losses per frame of 40 ms", loc="left", fontweight="bold")
    ax.set_ylabel("training plain, validation with marks")
    if losses:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _mark_epochs(ax, metrics)
    ax.xaxis.set_major_locator(MaxNLocator(5))  # of the small panels too
    panels = [ax]
    for column, (key, label) in enumerate(_LABELS.items()):
        small = figure.add_subplot(grid[1, column], sharex=ax)
        _curve(small, train, key, color=COLOURS[0], linewidth=1.4)
        small.set_title(label, loc="left", fontsize="medium")
        small.set_ylim(bottom=0)
        panels.append(small)
    for panel in panels:
        panel.set_xlabel("step")
        panel.grid(color="#eeeeee")
        tidy(panel)
    save_figure(figure, path)


def _other_data(ax: Axes, metrics: Sequence[dict[str, Any]], first: int) -> None:
    """Recognition losses on other data that were validated, dashed."""
    kinds = dict.fromkeys(x["kind"] for x in metrics if x["kind"].startswith("valid/"))
    for index, kind in enumerate(kinds, first):
        lines = [line for line in metrics if line["kind"] == kind]
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        label = f"recognition_loss, {kind.removeprefix('valid/')}"
        style = {"color": colour, "marker": marker, "linestyle": "--", "label": label}
        _curve(ax, lines, "recognition_loss", linewidth=1.6, **style)


def _ways(experiment: Experiment) -> list[tuple[str, str]]:
    ways = {(r["method"], chunk_of(r), r["suffix"]) for r in experiment.results}
    return [(method, suffix) for method, _, suffix in sorted(ways)]


def _label(experiment: Experiment) -> str:
    lines = [experiment.name, f"{(experiment.parameters or 0) / 1e6:.2f} M parameters"]
    if experiment.training_hours is not None:
        lines.append(f"{experiment.training_hours:.2f} h of training")
    return "\n".join(lines)


def _beside(ax: Axes, row: float, text: str) -> None:
    """Write a word to the right of a panel."""
    ax.annotate(
        text,
        (1, row),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=_GREY,
        fontsize="small",
        annotation_clip=False,
    )


def _draw_rate(ax: Axes, row: float, result: dict[str, Any], index: int, by_speaker: bool) -> None:
    _beside(ax, row, f"{result['rtf']:.4f}")
    if result["wer"] is None:
        return
    interval = interval_of(result, by_speaker=by_speaker)
    colour = COLOURS[index % len(COLOURS)]
    if interval is not None:
        ax.plot(interval, [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
    ax.plot(result["wer"], row, MARKERS[index % len(MARKERS)], color=colour, markersize=7)
    chunk = f", {context_of(result)}" if chunk_of(result) else ""
    ax.annotate(
        f"{result['wer']:.2f}{chunk}",
        (result["wer"], row),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        fontsize="small",
    )


def _draw_stored(ax: Axes, amount: float, result: dict[str, Any], by_speaker: bool) -> None:
    """A point with its interval; without a teacher, for which nothing is stored, a line across."""
    if amount == 0:
        ax.axhline(result["wer"], color=_GREY, linewidth=1.2, linestyle="--")
        return
    interval = interval_of(result, by_speaker=by_speaker)
    if interval is not None:
        ax.plot([amount, amount], interval, color=COLOURS[0], linewidth=2.2, solid_capstyle="butt")
    ax.plot(amount, result["wer"], MARKERS[0], color=COLOURS[0], markersize=7)


def _label_stored(
    ax: Axes, labels: list[tuple[float, float, str]], gap: float, width: float
) -> None:
    """Write (amount, rate, text) beside their points, those that would touch apart from each other:
    of amounts that differ by less than the factor `width`."""
    amounts = sorted({amount for amount, _, _ in labels})
    columns: list[list[float]] = []
    for amount in amounts:
        if columns and columns[-1][-1] > 0 and amount < columns[-1][-1] * width:
            columns[-1].append(amount)
        else:
            columns.append([amount])
    for column in columns:
        own = [label for label in labels if label[0] in column]
        heights = apart([rate for _, rate, _ in own], gap)
        for height, (amount, _, text) in zip(heights, own, strict=True):
            if amount == 0:
                _beside(ax, height, text)
                continue
            ax.annotate(
                text,
                (amount, height),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )


def _curve(ax: Axes, lines: Sequence[dict[str, Any]], key: str, **style: Any) -> None:
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    if points:
        ax.plot(*zip(*points, strict=True), **style)


def _mark_epochs(ax: Axes, metrics: Sequence[dict[str, Any]]) -> None:
    """The epoch at about ten of the validations, on an axis at the top."""
    ends = {line["epoch"]: line["step"] for line in metrics if line["kind"] == "valid"}
    chosen = list(ends.items())[:: max(1, len(ends) // 10)]
    top = ax.secondary_xaxis("top")
    top.set_xticks([step for _, step in chosen], [str(epoch) for epoch, _ in chosen])
    top.set_xlabel("epoch", loc="right", color=_GREY)
    top.tick_params(colors=_GREY, length=3)
    top.spines["top"].set_visible(False)


def tidy(ax: Axes) -> None:
    """Axes without a frame above and on the right."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file, atomically."""
    with atomic_path(path) as partial:
        FigureCanvasAgg(figure).print_png(str(partial))
