"""Splits by patient with a given number of lesions in each."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np

from segmentation.training.samples import Split

Sizes = Mapping[Split, int]


def exact_splits(lesions: Mapping[str, int], sizes: Sizes, rng: np.random.Generator) -> dict[str, Split]:
    """Draw patients until the splits hold ``sizes`` lesions; the patients that are left over are in none.

    In random order, every patient goes where the largest share is still missing among the splits that have room for
    all of the patient's lesions. Where a split ends short, one of its patients is exchanged for one left over that has
    just so many lesions more, if there is such a pair.

    Parameters
    ----------
    lesions
        Number of lesions by patient, at least one each.

    """
    room = dict(sizes)
    splits: dict[str, Split] = {}
    order = _shuffled(lesions, rng)

    def fill() -> None:
        for patient in order:
            fitting = [split for split in room if patient not in splits and lesions[patient] <= room[split]]
            if fitting:
                splits[patient] = max(fitting, key=lambda s: room[s] / sizes[s])
                room[splits[patient]] -= lesions[patient]

    fill()
    for split, missing in room.items():
        left = {lesions[patient]: patient for patient in order if patient not in splits}
        placed = [patient for patient in order if splits.get(patient) == split]
        swap = next((p for p in placed if missing and lesions[p] + missing in left), None)
        if swap is not None:
            del splits[swap]
            splits[left[lesions[swap] + missing]] = split
            room[split] = 0
    fill()
    return splits


def proportional_splits(lesions: Mapping[str, int], sizes: Sizes, rng: np.random.Generator) -> dict[str, Split]:
    """Put every patient where, of the proportions of ``sizes``, the largest part is still missing."""
    scale = sum(lesions.values()) / sum(sizes.values())
    wanted = {split: size * scale for split, size in sizes.items() if size > 0}
    room = dict(wanted)
    splits: dict[str, Split] = {}
    for patient in _shuffled(lesions, rng):
        split = max(room, key=lambda s: room[s] / wanted[s])
        splits[patient] = split
        room[split] -= lesions[patient]
    return splits


def _shuffled(patients: Mapping[str, Hashable], rng: np.random.Generator) -> list[str]:
    ordered = sorted(patients)
    return [ordered[i] for i in rng.permutation(len(ordered))]
