"""Random points in labelled organs, named by a locator: the figures of docs/anatomy.md and their test."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import nibabel as nib
import numpy as np
from cases import real_data

from cohort_builder.anatomy.locators import AnatomyLocator
from cohort_builder.anatomy.organs import organ_agreement
from cohort_builder.anatomy.totalsegmentator import LabelMap, read_labels
from segmentation.geometry import apply_affine, lps_to_ras
from segmentation.phantoms import LABELS, Phantom
from segmentation.types import Volume

_SAID = {
    "autochthon": "paraspinal muscle", "iliopsoas": "psoas muscle", "portal_vein_and_splenic_vein": "portal vein",
    "lung_upper_lobe": "upper lobe", "lung_middle_lobe": "middle lobe", "lung_lower_lobe": "lower lobe",
    "vertebrae": "vertebra", "costal_cartilages": "rib",
}  # fmt: skip
_SAID_OF_PHANTOM = {"bone": "bone", "vertebra": "vertebra", "lung": "lung", "heart": "heart", "liver": "liver",
                    "spleen": "spleen", "kidney": "kidney", "adrenal": "adrenal gland", "airway": "trachea"}  # fmt: skip


def said_of(label: str) -> str:
    """What a report would call an organ of TotalSegmentator."""
    name = re.sub(r"_(?:left|right)\b|_[A-Z]?\d+$", "", re.sub(r"_(left|right)_\d+$", "", label))
    return _SAID.get(name, name.replace("_", " "))


def labelled_abdomen(name: str = "example_ct.nii.gz") -> tuple[Volume, LabelMap]:
    """The abdomen of ct_plain, whole or its highest 9 cm ("_sm"), and the labels of those.

    Both files and the labels say the same origin, but the labels (and "_sm") are the highest slices of the whole.
    """
    folder = real_data("ct_plain")
    volume, labels = lps_volume(folder / name), read_labels(folder / "example_seg.nii.gz")
    above = labels.affine_ras.copy()
    above[:3, 3] += above[:3, 2] * (len(volume.voxels) - labels.labels.shape[2])
    return volume, LabelMap(labels.labels, above, labels.names)


def lps_volume(path) -> Volume:
    """A NIfTI CT as a Volume."""
    image = nib.load(path)
    voxels = np.clip(np.asarray(image.dataobj), -2048, 3071).astype(np.int16).transpose(2, 1, 0)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine @ np.eye(4)[:, [2, 1, 0, 3]]
    return Volume(np.ascontiguousarray(voxels), affine, "1.2", "1.3", tuple(f"1.2.{i}" for i in range(len(voxels))))


def points_in(labels: LabelMap, n: int, rng: np.random.Generator) -> Iterable[tuple[str, np.ndarray]]:
    """Up to ``n`` random voxel centres of each labelled organ with its name, LPS mm."""
    for label in np.unique(labels.labels[labels.labels > 0]):
        voxels = np.argwhere(labels.labels == label)
        for voxel in voxels[rng.permutation(len(voxels))[:n]]:
            yield labels.names[int(label)], lps_to_ras(apply_affine(labels.affine_ras, voxel[None]))


def points_of_phantom(phantom: Phantom, n: int, rng: np.random.Generator) -> Iterable[tuple[str, np.ndarray]]:
    """The same of a generated body."""
    for name in _SAID_OF_PHANTOM:
        voxels = np.argwhere(phantom.labels == LABELS[name])
        for voxel in voxels[rng.permutation(len(voxels))[:n]]:
            yield name, apply_affine(phantom.volume.affine, voxel[None])


def named(
    locator: AnatomyLocator, volume: Volume, points: Iterable[tuple[str, np.ndarray]]
) -> dict[str, Counter[str | None]]:
    """How often each organ's points get each name."""
    found: dict[str, Counter[str | None]] = {}
    for organ, point in points:
        found.setdefault(organ, Counter())[locator.organ_at(volume, point)] += 1
    return found


def verdicts(found: Mapping[str, Counter[str | None]]) -> Counter[bool | None]:
    """How often the name is compatible with the organ as a report says it (True, False), or says nothing (None)."""
    total: Counter[bool | None] = Counter()
    for organ, names in found.items():
        for name, count in names.items():
            verdict = organ_agreement(_SAID_OF_PHANTOM.get(organ, said_of(organ)), name)
            total[None if verdict is None else verdict[0]] += count
    return total
