"""The tables and the picture of `benchmarks/quantizer.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantizer_peers import METHODS


def gaussian_bound(dim: int, num_codebooks: int) -> float:
    """The least relative error of any quantizer of independent Gaussian frames: D(R) = 2^(-2R)
    with R bits per dimension (Cover and Thomas, Elements of Information Theory, section 10.3.2)."""
    return 2.0 ** (-2 * 8 * num_codebooks / dim)


Results = dict[tuple[str, int], dict[str, Any]]


def write_tables(
    name: str, gaussian: int | None, results: Results, regression: float | None, path: Path
) -> None:
    """Write Markdown: errors, times, and what is told of codes. A row for every method, a column
    for every rate.

    Args:
        name: what was quantized.
        gaussian: dimensions of independent Gaussian frames; None for other frames.
        results: of pairs of method and bytes.
        regression: error of a regression on the frames themselves, if they have features.
        path: the file.
    """
    rates = sorted({rate for _, rate in results})
    lines = [f"Frames of {name}.", "", *_errors(gaussian, results, rates)]
    lines += ["", *_times(results, rates)]
    for rate in rates:
        lines += _predictability(results, rate)
    if regression is not None:
        lines += ["", f"Regression on the frames themselves: error {regression:.3f}."]
    path.write_text("\n".join(lines) + "\n")


def _methods(results: Results) -> list[str]:
    return [method for method in METHODS if any(method == m for m, _ in results)]


def _row(name: str, cells: list[str]) -> str:
    return f"| {f'{name} ' if name else ''}| {' | '.join(cells)} |"


def _values(results: Results, method: str, key: str, rates: list[int], style: str) -> list[str]:
    found = [results.get((method, rate), {}).get(key) for rate in rates]
    return ["" if value is None else format(value, style) for value in found]


def _efforts(results: Results, method: str, key: str) -> list[str]:
    """Endings of keys: of the default search and, where they were measured, the other two."""
    rows = [r for (m, _), r in results.items() if m == method]
    return ["", *(e for e in (" fast", " thorough") if any(key + e in r for r in rows))]


def _errors(gaussian: int | None, results: Results, rates: list[int]) -> list[str]:
    head = ["relative error, bytes a frame", *map(str, rates)]
    lines = [_row(head[0], head[1:]), "|---|" + "---:|" * len(rates)]
    if gaussian:
        bounds = [f"{gaussian_bound(gaussian, rate):.4f}" for rate in rates]
        lines.append(_row("Shannon's bound", bounds))
    for method in _methods(results):
        for effort in _efforts(results, method, "error"):
            name = METHODS[method] + (f",{effort} search" if effort else "")
            lines.append(_row(name, _values(results, method, "error" + effort, rates, ".4f")))
        sums = _values(results, method, "direct_sum_error", rates, ".4f")
        if any(sums):
            lines.append(_row(f"{METHODS[method]}, direct sum alone", sums))
    parts = [("", "")] if gaussian else [("", ""), ("_other", ", other speakers")]
    for method in _methods(results):
        for suffix, kind in parts:
            ratios = []
            for rate in rates:
                ours, peer = results.get(("ours", rate)), results.get((method, rate))
                key = "error" + suffix
                ratios.append(f"{ours[key] / peer[key]:.3f}" if ours and peer else "")
            if method != "ours" and any(ratios):
                lines.append(_row(f"ours / {METHODS[method]}{kind}", ratios))
    return lines


def _times(results: Results, rates: list[int]) -> list[str]:
    keys = {"train_seconds": "training, core s", "encode_per_second": "encoding, frames per core s"}
    head = [
        f"{title}: {rate}" if rate == rates[0] else str(rate)
        for title in keys.values()
        for rate in rates
    ]
    lines = [_row("", head), "|---|" + "---:|" * len(head)]
    for method in _methods(results):
        for effort in _efforts(results, method, "encode_per_second"):
            name = METHODS[method] + (f",{effort} search" if effort else "")
            train = _values(results, method, "train_seconds" + effort, rates, ".0f")
            encode = _values(results, method, "encode_per_second" + effort, rates, ".0f")
            lines.append(_row(name, train + encode))
    for method in _methods(results):
        ratios = []
        for key in keys:
            for rate in rates:
                ours, peer = results.get(("ours", rate)), results.get((method, rate))
                ratios.append(f"{ours[key] / peer[key]:.3g}" if ours and peer else "")
        if method != "ours" and any(ratios):
            lines.append(_row(f"ours / {METHODS[method]}", ratios))
    return lines


def _predictability(results: Results, rate: int) -> list[str]:
    lines = []
    for method in _methods(results):
        r = results.get((method, rate), {})
        if "captured" in r:
            low, high = r["captured_range"]
            told = [f"{r['entropy']:.2f}", f"{r['captured']:.2f}", f"{low:.1f} to {high:.1f}"]
            lines.append(_row(METHODS[method], [*told, f"{r['posterior_error']:.3f}"]))
    if not lines:
        return []
    head = [
        "entropy, bits",
        "captured",
        "of the codebooks, least and most",
        "error from posteriors",
    ]
    return ["", _row(f"{rate} bytes", head), "|---|---:|---:|---|---:|", *lines]


def draw(name: str, gaussian: int | None, results: Results, path: Path) -> None:
    """Draw error against rate, one line per method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for method in _methods(results):
        points = sorted((rate, r["error"]) for (m, rate), r in results.items() if m == method)
        style = {"linewidth": 2.5, "color": "black"} if method == "ours" else {}
        axes.plot(*zip(*points, strict=True), marker="o", label=METHODS[method], **style)
    rates = sorted({rate for _, rate in results})
    if gaussian:
        bounds = [gaussian_bound(gaussian, rate) for rate in rates]
        axes.plot(rates, bounds, "k--", label="Shannon's bound")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(rates, [str(rate) for rate in rates])
    axes.set_xlabel("bytes per frame")
    axes.set_ylabel("relative error, held-out frames")
    axes.set_title(name, fontsize=10)
    axes.grid(alpha=0.3, which="both")
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=100)
    plt.close(figure)
