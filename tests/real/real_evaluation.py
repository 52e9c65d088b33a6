"""``cohort evaluate`` on all real lesions: ``python tests/real/real_evaluation.py -o OUT --engine classical ...``.

Everything behind ``-o OUT`` is that of the command. DeepLesion's stacks have no reader of their own: they become NIfTI
in ``OUT/deeplesion``, which holds their images and stays on this machine, as all that is made from the real data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from cases import RealCase, load_deeplesion, real_data

from cohort_builder.cli import main


def real_sources(scratch: Path) -> list[str]:
    """Name all real lesions as ``cohort evaluate`` takes them; ``scratch`` gets what has to be converted."""
    return [
        f"lidc=seg:{real_data('lidc_0001')},lesions=whole",
        f"sarcoma=rtstruct:{real_data('sarcoma')},GTV_Mass_CT,lesions=whole",
        f"ibsi=rtstruct:{real_data('ibsi_phantom') / 'dicom'},GTV-1,lesions=whole",
        f"deeplesion=nifti:{','.join(map(str, as_nifti(load_deeplesion(), scratch)))},lesions=whole",
    ]


def as_nifti(cases: Sequence[RealCase], folder: Path) -> tuple[Path, Path]:
    """Write each case as an image and a label of its name; the folders of the two."""
    images, labels = folder / "images", folder / "labels"
    for path in (images, labels):
        path.mkdir(parents=True, exist_ok=True)
    for case in cases:
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ case.volume.affine[:, [2, 1, 0, 3]]
        for path, voxels in ((images, case.volume.voxels), (labels, case.truth.astype(np.uint8))):
            nib.save(nib.Nifti1Image(voxels.transpose(2, 1, 0), affine), path / f"{case.case_id}.nii.gz")
    return images, labels


def evaluate_real(out: Path, *arguments: str) -> int:
    """Run the command on all real lesions."""
    return main(["evaluate", *real_sources(out / "deeplesion"), "--split", "all", "-o", str(out), *arguments])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given, rest = parser.parse_known_args()
    sys.exit(evaluate_real(given.out, *rest))
