"""The report of a trained quantizer, as Markdown."""

from __future__ import annotations

from typing import Any


def describe(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    metadata, held_out = report["metadata"], report["held_out"]
    probed = report.get("predictability")
    captured = [f"{bits:.2f}" for bits in probed["captured"]] if probed else held_out["entropy"]
    rows = "\n".join(
        f"| {number} | {entropy:.2f} | {100 * used:.1f} % | {bits if probed else ''} |"
        for number, (entropy, used, bits) in enumerate(
            zip(held_out["entropy"], held_out["utilization"], captured, strict=True), start=1
        )
    )
    median = f"{held_out['median_error']:.4f}" if "median_error" in held_out else ""
    from_features = f"{probed['reconstruction_error']:.4f}" if probed else ""
    training = report["training"]
    if "imported" in metadata:
        origin = f"from a file with SHA-256 {metadata['imported']}..."
    elif training["seconds"] is None:
        origin = "before this report was lost and made again"
    else:
        origin = f"on {training['frames']} frames, in {training['seconds']} s"
    return f"""# Quantizer {report["id"]}

| | |
|---|---|
| teacher | `{metadata["teacher"]}`, layer {metadata["layer"]} |
| embeddings | {metadata["dim"]} dimensions, {metadata["frame_rate"]:g} Hz |
| codebooks | {metadata["num_codebooks"]} of {metadata["codebook_size"]} entries |
| {"imported" if "imported" in metadata else "trained"} | {origin} |
| held out | {held_out["num_frames"]} frames of {held_out["utterances"]} other utterances |
| relative error on these | {held_out["relative_error"]:.4f} |
| ... of the direct sum alone | {held_out["direct_sum_error"]:.4f} |
| ... of each dimension by itself, median | {median} |
| ... of codes predicted from features | {from_features} |

The relative error is the energy of the reconstruction's error, as a fraction of the energy of
the embeddings around their mean. Where a few dimensions have most of that energy, the median over
dimensions says more. Predictability: mutual information of a code and the utterance's
filterbank features, estimated from below by a small network; at most the entropy.

| codebook | entropy (bits) | entries used | predictability (bits) |
|---|---|---|---|
{rows}
{_describe_tradeoff(report.get("tradeoff", []))}"""


def _describe_tradeoff(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = "\n".join(
        f"| {row['rate_weight']:g} | {row['relative_error']:.4f} | {row['captured']:.2f} |"
        for row in rows
    )
    return f"""
Codes that are chosen for rate and distortion together (`rate_distortion_weight`):

| rate-distortion weight | relative error | predictability (bits for a codebook) |
|---|---|---|
{lines}
"""
