"""The table and the picture of `benchmarks/quantizer.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantizer_peers import METHODS


def gaussian_bound(dim: int, num_codebooks: int) -> float:
    """The least relative error of any quantizer of independent Gaussian frames: D(R) = 2^(-2R)
    with R bits per dimension (Cover and Thomas, Elements of Information Theory, section 10.3.2)."""
    return 2.0 ** (-2 * 8 * num_codebooks / dim)


def _rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(results, key=lambda r: (r["bytes"], METHODS.index(r["method"])))


def write_table(name: str, gaussian: int | None, results: list[dict[str, Any]], path: Path) -> None:
    """Write Markdown: one row per method and rate, ratios against ours."""
    lines = [
        f"Relative error on held-out frames of {name}.",
        "",
        "| bytes | quantizer | error | other speakers | / ours | train, core s "
        "| encode, frames per core s | entropy, bits | captured, bits (least/most) "
        "| error from posteriors |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    ours = {r["bytes"]: r for r in results if r["method"] == "ours"}
    bounded = set()
    for r in _rows(results):
        if gaussian and r["bytes"] not in bounded:
            bounded.add(r["bytes"])
            bound = gaussian_bound(gaussian, r["bytes"])
            lines.append(f"| {r['bytes']} | Shannon's bound | {bound:.4f} | | | | | | | |")
        base = ours.get(r["bytes"])
        ratio = f"{r['error'] / base['error']:.3f}" if base else ""
        captured = posterior = ""
        if "captured" in r:
            low, high = r["captured_range"]
            captured = f"{r['captured']:.2f} ({low:.1f}/{high:.1f})"
            posterior = f"{r['posterior_error']:.3f}"
        lines.append(
            f"| {r['bytes']} | {r['method']} | {r['error']:.4f} | {r['error_other']:.4f} | {ratio} "
            f"| {r['train_seconds']:.0f} | {r['encode_per_second']:.0f} | {r['entropy']:.2f} "
            f"| {captured} | {posterior} |"
        )
        for effort in (" fast", " thorough"):
            if "error" + effort in r and base:
                error = r["error" + effort]
                lines.append(
                    f"| {r['bytes']} | {r['method']},{effort} search | {error:.4f} "
                    f"| {r['error_other' + effort]:.4f} | {error / base['error']:.3f} | "
                    f"| {r['encode_per_second' + effort]:.0f} | | | |"
                )
    path.write_text("\n".join(lines) + "\n")


def draw(name: str, gaussian: int | None, results: list[dict[str, Any]], path: Path) -> None:
    """Draw error against rate, one line per method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for method in METHODS:
        points = [(r["bytes"], r["error"]) for r in _rows(results) if r["method"] == method]
        if points:
            style = {"linewidth": 2.5, "color": "black"} if method == "ours" else {}
            axes.plot(*zip(*points, strict=True), marker="o", label=method, **style)
    rates = sorted({r["bytes"] for r in results})
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
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
