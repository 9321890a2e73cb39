"""A picture of how near layers of students are to layers of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mvqkd.evaluation.pictures import COLOURS, MARKERS, save_figure, tidy


def draw_layers(path: Path, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Cosine and divergence of relations, layer by layer; solid lines are the layers of students,
    dashed ones the branches on them.

    Args:
        path: PNG file.
        found: by experiment, rows with `teacher_layer`, `layer`, `of` (`layer` or `branch`) and
            `values`: cosine, and nats or None.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    labels = ["cosine", "KL of relations, nats a frame"]
    for number, (name, rows) in enumerate(found.items()):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        for of, line in (("layer", "-"), ("branch", "--")):
            chosen = [row for row in rows if row["of"] == of]
            for index, ax in enumerate(panels):
                points = [
                    (place, row["values"][index])
                    for place, row in enumerate(chosen)
                    if row["values"][index] is not None
                ]
                if points:
                    label = name if of == "layer" else f"{name}, branch"
                    ax.plot(*zip(*points, strict=True), line, label=label, **style)
    pairs = max(([row for row in rows if row["of"] == "layer"] for rows in found.values()), key=len)
    for ax, label in zip(panels, labels, strict=True):
        ax.set_xticks(
            range(len(pairs)), [f"{row['teacher_layer']} → {row['layer']}" for row in pairs]
        )
        ax.set_xlabel("layer of the teacher → of the student")
        ax.set_ylabel(label)
        tidy(ax)
    panels[0].legend(frameon=False, fontsize="small")
    save_figure(figure, path)
