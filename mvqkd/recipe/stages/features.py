"""Stage 2: cuts with features of every split."""

from __future__ import annotations

from collections.abc import Mapping

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.fbank import manifest_cuts, store_cuts, store_features
from mvqkd.data.prepare.noise_cuts import noise_cuts
from mvqkd.data.prepare.preparation_report import read_report
from mvqkd.geometry import FeatureKind
from mvqkd.storage.locks import own_folder

SPEEDS = (1.0, 0.9, 1.1)
"""Of training audio, with speed perturbation."""


def compute_features(
    data: DataFolder,
    patterns: Mapping[str, list[str]],
    *,
    kind: FeatureKind = "fbank",
    speed_perturb: bool,
    musan: bool,
    on_the_fly: bool,
    num_jobs: int,
    strict: bool = False,
) -> None:
    """Write `fbank/<prefix>_cuts_<split>.jsonl.gz` of every split, with features beside them.

    Args:
        data: prepared by stage 1.
        patterns: names or patterns of splits by role, where not all are wanted.
        kind: of features.
        speed_perturb: training splits at speeds 0.9 and 1.1, too.
        musan: noises too.
        on_the_fly: store no features: loaders extract them from the audio.
        num_jobs: processes.
        strict: stop when audio is unreadable.

    Raises:
        UserError: no such splits, or as of `store_features`.
    """
    splits = data.splits(patterns)
    # A run that waited finds done what the other one did.
    with own_folder(data.fbank, work="extraction of features", wait=True):
        for role in ("train", "unlabelled", "dev", "test"):
            for split in splits[role]:
                cuts = manifest_cuts(data, split)
                trained_on = role in ("train", "unlabelled")
                speeds = SPEEDS if speed_perturb and trained_on else SPEEDS[:1]
                if on_the_fly:
                    store_cuts(cuts, data.cuts(split), kind=kind, speeds=speeds)
                    continue
                report = read_report(data.report(split))
                store_features(
                    cuts,
                    data.cuts(split),
                    kind=kind,
                    speeds=speeds,
                    num_jobs=num_jobs,
                    strict=strict,
                    # One of an older version has one fingerprint for all.
                    audio=report.get("audio", report.get("fingerprint", "")),
                )
        if musan:
            # Always stored: noise is read many times.
            noises = noise_cuts(data.manifests)
            store_features(noises, data.musan_cuts, kind=kind, num_jobs=num_jobs, strict=strict)
