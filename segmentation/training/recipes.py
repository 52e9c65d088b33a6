"""The public data sets of SAM2CT (Table 1) as they are downloaded, as manifests with the paper's split sizes.

Table 1 counts lesions, not cases: it has 557 lymph nodes of the abdomen, from a data set of 86 patients.
Here a lesion is a connected component (26 neighbours) of at least 20 mm³, a value of the label for lymph nodes,
and all that is labelled for DeepLesion3D, whose files hold one lesion each. All lesions of a patient are in one split.
The paper does not say which lesions it left out to arrive at its numbers: patients are drawn at random (by the seed)
until the numbers are reached, and the others are left out.

Nothing is downloaded; every function takes the folder that an archive was unpacked into, or one above it.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from segmentation.training.manifest import Entry, Manifest, ManifestError, file_digest
from segmentation.training.nifti import count_lesions, has_geometry
from segmentation.training.samples import SPLITS, Split
from segmentation.training.splits import exact_splits, proportional_splits

logger = logging.getLogger("segmentation")

SplitSizes = Literal["table1", "proportional"]
"""The very numbers of Table 1, or all that is there in its proportions."""


Cases = Callable[[Path], list[Entry]]
"""Lists the cases below a folder; which split they are in is drawn later."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a downloaded data set becomes entries.

    Parameters
    ----------
    category
        The one that Table 1 counts. Cases of others are a test set of their own, without the patients of training and
        validation: ``"<name>-external"``.
    sizes
        Lesions for training, validation and test in Table 1.

    """

    name: str
    category: str
    sizes: tuple[int, int, int]
    cases: Cases

    def __call__(
        self, folder: str | Path, seed: int = 0, *, sizes: SplitSizes = "table1", workers: int = 1
    ) -> list[Entry]:
        """List the cases in ``folder`` with their splits.

        Parameters
        ----------
        sizes
            ``"proportional"`` uses every case, and an incomplete download.
        workers
            Threads that read labels and make digests.

        Raises
        ------
        ManifestError
            If the layout is not that of the download, a case is damaged or its label does not fit its image, or, by
            ``"table1"``, there are fewer lesions than Table 1 has.

        """
        if sizes not in get_args(SplitSizes):
            raise ValueError(f"sizes must be one of {get_args(SplitSizes)}, got {sizes!r}")
        folder = Path(folder)
        if not folder.is_dir():
            raise ManifestError(f"{self.name}: there is no folder {folder}")
        cases = self.cases(folder)
        if not cases:
            raise ManifestError(f"{self.name}: {folder} holds none of its cases; give the folder it was unpacked into")
        counted = [case for case in with_lesions(cases, folder, workers) if case.n_lesions]
        if len(counted) < len(cases):
            logger.warning("%s: %d cases without a lesion are left out", self.name, len(cases) - len(counted))
        return with_digests(self._split(counted, seed, sizes), folder, workers)

    def _split(self, cases: Sequence[Entry], seed: int, sizes: SplitSizes) -> list[Entry]:
        own = [case for case in cases if case.category == self.category]
        lesions: Counter[str] = Counter()
        for case in own:
            lesions[case.patient_id] += case.n_lesions
        table: Mapping[Split, int] = dict(zip(SPLITS, self.sizes, strict=True))
        if sizes == "table1" and lesions.total() < sum(self.sizes):
            raise ManifestError(
                f"{self.name}: {lesions.total()} lesions in {len(lesions)} patients, Table 1 has {sum(self.sizes)}; "
                "finish the download, or take sizes='proportional' to split what there is in its proportions"
            )
        draw = exact_splits if sizes == "table1" else proportional_splits
        splits = draw(lesions, table, np.random.default_rng([seed, *self.name.encode()]))
        got = {split: sum(lesions[p] for p, s in splits.items() if s == split) for split in SPLITS}
        left_out = len(lesions) - len(splits)
        logger.log(
            logging.INFO if got == table else logging.WARNING,
            "%s: %s lesions in train/val/test, Table 1 has %s; %d patients are left over",
            *(self.name, _slashed(got), _slashed(table), left_out),
        )
        placed = [replace(c, split=splits[c.patient_id]) for c in own if c.patient_id in splits]
        external = [
            replace(case, split="test", dataset=f"{self.name}-external")
            for case in cases
            if case.category != self.category and splits.get(case.patient_id, "test") == "test"
        ]
        return placed + external


def manifest_of(
    name: str, folder: str | Path, seed: int = 0, *, sizes: SplitSizes = "table1", workers: int = 1
) -> Manifest:
    """Make the manifest of the data set ``name`` of `RECIPES` from its unpacked download.

    Raises
    ------
    ManifestError
        If the name is unknown, or as `Recipe` says.

    """
    if name not in RECIPES:
        raise ManifestError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    root = Path(folder).resolve()
    return Manifest(root, tuple(RECIPES[name](root, seed, sizes=sizes, workers=workers)))


def with_lesions(cases: Sequence[Entry], root: Path, workers: int = 1) -> list[Entry]:
    """Count the lesions of cases with NIfTI labels, and check that labels fit their images.

    Raises
    ------
    ManifestError
        Naming the first ten that are wrong.

    """

    def count(case: Entry) -> Entry | str:
        try:
            return replace(case, n_lesions=count_lesions(case, root))
        except ManifestError as error:
            return str(error)

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(count, cases))
    wrong = [result for result in results if isinstance(result, str)]
    if wrong:
        raise ManifestError(f"{len(wrong)} of {len(cases)} cases cannot be used: {'; '.join(wrong[:10])}")
    return [result for result in results if isinstance(result, Entry)]


def with_digests(cases: Sequence[Entry], root: Path, workers: int = 1) -> list[Entry]:
    """Fill in the digests of the images and labels."""
    paths = sorted({path for case in cases for path in (case.image, case.label)})
    with ThreadPoolExecutor(workers) as pool:
        digests = dict(zip(paths, pool.map(lambda path: file_digest(root / path) or "", paths), strict=True))
    return [replace(case, files={path: digests[path] for path in sorted({case.image, case.label})}) for case in cases]


# ---- layouts ------------------------------------------------------------------------------------------------------


def _kits23(folder: Path) -> list[Entry]:
    """List ``dataset/case_00000/{imaging,segmentation}.nii.gz``; 1 kidney, 2 tumour, 3 cyst. One case a patient."""
    return [
        _entry("kits23", "Kidney", label.parent.name, folder, (label.with_name("imaging.nii.gz"), label), values=(2,))
        for label in _files(folder, r"case_\d+/segmentation\.nii\.gz")
    ]


def _lits17(folder: Path) -> list[Entry]:
    """List ``**/volume-0.nii`` with ``segmentation-0.nii``; 1 liver, 2 tumour.

    The headers of volumes 28 to 47 hold an identity affine in place of their voxel sizes: these are left out.
    """
    labels = _files(folder, r"segmentation-\d+\.nii(\.gz)?")
    pairs = [(label.with_name(label.name.replace("segmentation", "volume")), label) for label in labels]
    placed = [pair for pair in pairs if has_geometry(pair[1])]
    if len(placed) < len(pairs):
        logger.warning("lits17: %d cases without voxel sizes in their header are left out", len(pairs) - len(placed))
    return [_entry("lits17", "Liver", pair[0].name.split(".")[0], folder, pair, values=(2,)) for pair in placed]


def _msd(organ: str, category: str, value: int) -> Cases:
    """List ``Task06_Lung/{imagesTr,labelsTr}/lung_001.nii.gz``. One case a patient."""

    def cases(folder: Path) -> list[Entry]:
        return [
            _entry(
                f"msd_{organ}",
                category,
                label.name.split(".")[0],
                folder,
                (label.parents[1] / "imagesTr" / label.name, label),
                values=(value,),
            )
            for label in _files(folder, rf"labelsTr/{organ}_\d+\.nii\.gz")
        ]

    return cases


def _nih(prefix: str, dataset: str, category: str) -> Cases:
    """List ``CT Lymph Nodes/ABD_LYMPH_001/**/*.dcm`` with ``MED_ABD_LYMPH_MASKS/ABD_LYMPH_001/*_mask.nii.gz``.

    Every node has a value of its own. Only the axes of a mask's header are relied on, not where it says to lie.
    """

    def cases(folder: Path) -> list[Entry]:
        series = {p.name: p for p in sorted(folder.rglob(f"{prefix}_LYMPH_*")) if p.is_dir() and any(p.rglob("*.dcm"))}
        masks = _files(folder, rf"({prefix}_LYMPH_\d+)/\1_mask\.nii\.gz")
        missing = [mask.parent.name for mask in masks if mask.parent.name not in series]
        if missing:
            raise ManifestError(f"{dataset}: no DICOM files below a folder {', '.join(missing[:10])}")
        options = {"lesions": "values", "grid": "shape"}
        return [
            replace(
                _entry(dataset, category, mask.parent.name, folder, (series[mask.parent.name], mask)),
                reader="dicom_nifti",
                options=options,
            )
            for mask in masks
        ]

    return cases


def _deeplesion3d(folder: Path) -> list[Entry]:
    """List ``images`` and ``labels/000010_02_02_100_lesion_01.nii.gz`` and ``categories/Bone/000010_02_02_100*``.

    The name begins with patient, study, series and slice. The labels may lie apart from the rest, as they are
    downloaded from elsewhere.
    """
    labels = _files(folder, r"labels/\d+_\d+_\d+_\d+_lesion_\d+\.nii\.gz")
    if not labels and any(folder.rglob("labels/*_lesion_*.nii.gz.zip")):
        raise ManifestError("deeplesion3d: its labels are still zipped one by one; unzip them in their folder")
    images = {path.name: path for path in _files(folder, r"images/[^/]*_lesion_\d+\.nii\.gz")}
    categories = {
        _slice_of(path): _DEEPLESION3D[path.parent.name]
        for path in folder.rglob("categories/*/*")
        if path.parent.name in _DEEPLESION3D
    }
    wrong = [label.name for label in labels if label.name not in images or _slice_of(label) not in categories]
    if wrong:
        raise ManifestError(f"deeplesion3d: no image or no category for {', '.join(wrong[:10])}")
    return [
        replace(
            _entry(
                "deeplesion3d",
                categories[_slice_of(label)],
                label.name.split(".")[0],
                folder,
                (images[label.name], label),
            ),
            patient_id=f"deeplesion3d/{label.name.split('_')[0]}",
            options={"lesions": "whole"},
        )
        for label in labels
    ]


def _slice_of(path: Path) -> str:
    return "_".join(path.name.split(".")[0].split("_")[:4])


def _entry(
    dataset: str, category: str, case: str, root: Path, pair: tuple[Path, Path], *, values: tuple[int, ...] = ()
) -> Entry:
    """Make an entry of a pair of image and label; the split is yet to be drawn."""
    image, label = (path.relative_to(root).as_posix() for path in pair)
    return Entry(case, dataset, category, f"{dataset}/{case}", "train", "nifti", image, label, values)


def _files(folder: Path, pattern: str) -> list[Path]:
    """Find the files whose path ends as ``pattern`` says."""
    ending = re.compile(rf"(?:.*/)?{pattern}")
    found = (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if ending.fullmatch(path.relative_to(folder).as_posix()))


def _slashed(sizes: Mapping[Split, int]) -> str:
    return "/".join(str(sizes[split]) for split in SPLITS)


_DEEPLESION3D = {
    "Abdominal": "Abd. Lymph Nodes",
    "Bone": "Bone",
    "Kidney": "Kidney",
    "Liver": "Liver",
    "Lung": "Lung",
    "Mediastinal": "Med. Lymph Nodes",
    "Other": "Misc.",
}

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("kits23", "Kidney", (217, 33, 24), _kits23),
        Recipe("lits17", "Liver", (454, 44, 46), _lits17),
        Recipe("msd_colon", "Colon", (79, 11, 10), _msd("colon", "Colon", 1)),
        Recipe("msd_lung", "Lung", (37, 16, 10), _msd("lung", "Lung", 1)),
        Recipe("msd_pancreas", "Pancreas", (177, 28, 19), _msd("pancreas", "Pancreas", 2)),
        Recipe("nih_ln_abd", "Abd. Lymph Nodes", (376, 139, 42), _nih("ABD", "nih_ln_abd", "Abd. Lymph Nodes")),
        Recipe("nih_ln_med", "Med. Lymph Nodes", (251, 100, 24), _nih("MED", "nih_ln_med", "Med. Lymph Nodes")),
        Recipe("deeplesion3d", "Bone", (71, 13, 13), _deeplesion3d),
    )
}
"""By name; the sizes are those of Table 1: lesions for training, validation and test."""
