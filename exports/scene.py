"""A published row turned to the patient's axes and ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exports.types import FindingRecord

FloatArray = NDArray[np.float64]

# Air around the lesion that decides for the lung window, and how far around counts.
_RIM_MM = 8.0
_LUNG_HU, _BONE_HU = (-960, -500), 220
_LUNG_SHARE, _BONE_SHARE = 0.4, 0.3
# Level and width in HU.
WINDOWS = {"lung": (-500.0, 1500.0), "soft tissue": (40.0, 400.0), "bone": (450.0, 1800.0)}
# Half the side of what a panel shows beyond the lesion; the region holds at least 20 mm.
_MARGIN_MM = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A row turned to (left, posterior, head) axes. ``strokes`` are (kind, (n, 3) voxel-centre indices)."""

    image: NDArray[np.int16]
    mask: NDArray[np.bool_]
    spacing: FloatArray
    strokes: tuple[tuple[str, FloatArray], ...]
    centre: tuple[int, int, int]
    window: str
    row: Mapping[str, Any]

    def view(self) -> tuple[FloatArray, float]:
        """Centre (mm from the first voxel's centre) and half side (mm) of the cube that all planes show."""
        points = np.vstack([np.argwhere(self.mask), *(points for _, points in self.strokes)]) * self.spacing
        lower, upper = points.min(axis=0), points.max(axis=0)
        return (lower + upper) / 2, float((upper - lower).max() / 2 + _MARGIN_MM)


def scene_of(row: Mapping[str, Any] | FindingRecord) -> Scene:
    """Turn a row so that its axes run to the patient's left, back and head."""
    import nibabel
    from nibabel import orientations

    if isinstance(row, FindingRecord):
        row = _row_of(row)
    affine = np.asarray(row["affine_ras"], dtype=np.float64)
    image, mask = _voxels(row["image"]), _voxels(row["mask"]).astype(np.bool_)
    turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt("LPS"))
    # Maps indices of the turned array to those of the published one.
    back = orientations.inv_ornt_aff(turn, image.shape)
    image, mask = orientations.apply_orientation(image, turn), orientations.apply_orientation(mask, turn)
    strokes = tuple(
        (
            str(annotation["kind"]),
            nibabel.affines.apply_affine(
                np.linalg.inv(back), np.asarray(annotation["points_ijk"], dtype=np.float64).reshape(-1, 3)
            ),
        )
        for annotation in drawn_on(row)
    )
    spacing = np.asarray(nibabel.affines.voxel_sizes(affine @ back), dtype=np.float64)
    return Scene(image, mask, spacing, strokes, _centre(mask, strokes), window_of(image, mask, spacing), row)


def drawn_on(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Everything drawn on the lesion, the stroke it was segmented from first."""
    first = row["annotation"]
    return [*([] if first is None else [first]), *row["other_annotations"]]


def _row_of(record: FindingRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in ("image", "mask", "affine_ras")}
    drawn = [asdict(annotation) for annotation in record.annotations]
    row |= {
        "annotation": drawn[0] if drawn else None,
        "other_annotations": drawn[1:],
        "quality": asdict(record.quality),
        "engine": asdict(record.engine),
        "phrase": None,
        "measurements": None,
        "link": None,
    }
    if record.said is not None:
        row["phrase"] = record.said.phrase
        row["measurements"] = [asdict(measurement) for measurement in record.said.measurements]
        row["link"] = asdict(record.said.link)
    return row


def _voxels(value: Any) -> NDArray[Any]:
    """Voxels of a NIfTI image, an array, or undecoded ``{"bytes": ...}``."""
    import nibabel

    if isinstance(value, Mapping):
        value = nibabel.Nifti1Image.from_bytes(value["bytes"])
    return np.asarray(getattr(value, "dataobj", value))


def _centre(mask: NDArray[np.bool_], strokes: Sequence[tuple[str, FloatArray]]) -> tuple[int, int, int]:
    """Voxel of the mask through which the planes pass, on the slice of the first stroke."""
    voxels = np.argwhere(mask)
    level = int(np.median(voxels[:, 2]))
    if strokes:
        level = int(np.clip(np.rint(strokes[0][1][:, 2].mean()), 0, mask.shape[2] - 1))
    on_level = voxels[voxels[:, 2] == level]
    chosen = on_level if len(on_level) else voxels
    x, y, _ = chosen[np.linalg.norm(chosen - chosen.mean(axis=0), axis=1).argmin()]
    return int(x), int(y), level


def window_of(image: NDArray[np.int16], mask: NDArray[np.bool_], spacing: FloatArray) -> str:
    """Name of the grey scale, of ``WINDOWS``, that shows the tissue in and right around the lesion."""
    from scipy import ndimage

    hit = np.argwhere(mask)
    rim_voxels = np.ceil(_RIM_MM / spacing).astype(np.int64) + 1
    around = tuple(
        slice(int(max(low, 0)), int(high))
        for low, high in zip(hit.min(axis=0) - rim_voxels, hit.max(axis=0) + rim_voxels + 1, strict=True)
    )
    image, mask = image[around], mask[around]
    near = ndimage.distance_transform_edt(~mask, sampling=spacing) <= _RIM_MM
    rim = image[near & ~mask]
    if rim.size and ((rim > _LUNG_HU[0]) & (rim < _LUNG_HU[1])).mean() > _LUNG_SHARE:
        return "lung"
    return "bone" if (image[near] > _BONE_HU).mean() > _BONE_SHARE else "soft tissue"
