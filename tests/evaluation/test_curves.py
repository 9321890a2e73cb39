"""Training curves."""

from __future__ import annotations

from matplotlib.figure import Figure

from mvqkd.evaluation.pictures import _other_data


def test_other_data_that_was_validated_has_curves_of_its_own() -> None:
    lines = [
        {"kind": kind, "step": step, "recognition_loss": 1.0 + step, "loss": 2.0}
        for step in (0, 5)
        for kind in ("train", "valid", "valid/old/dev-a", "valid/old/dev-b")
    ]
    ax = Figure().subplots()
    _other_data(ax, lines, 1)
    labels = [f"recognition_loss, old/dev-{name}" for name in "ab"]
    assert [curve.get_label() for curve in ax.get_lines()] == labels
    assert ax.get_lines()[0].get_xydata().tolist() == [[0, 1.0], [5, 6.0]]
    assert len({curve.get_color() for curve in ax.get_lines()}) == 2
