"""Published records over a small textured body, made from a seed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from exports import ShardWriter, choose_roi
from exports.types import (
    AnnotationRecord,
    EngineRecord,
    FindingRecord,
    LinkRecord,
    MeasurementRecord,
    PhraseRecord,
    QualityRecord,
    ReportPhraseRecord,
    ReportRecord,
    VolumeRecord,
)

# An axial CT as scanners make it: i towards the patient's left, j towards the back, k towards the head.
SHAPE = (150, 140, 48)
SPACING = (0.8, 0.8, 2.5)
AFFINE = np.array([[-0.8, 0, 0, 61.37], [0, -0.8, 0, 48.21], [0, 0, 2.5, -310.125], [0, 0, 0, 1]])
TEXT = "FINDINGS: A lobulated nodule in the right lung measures 1.7 x 1.2 cm. No effusion."
PHRASE = "A lobulated nodule in the right lung measures 1.7 x 1.2 cm"


@cache
def volume(seed: int = 0) -> VolumeRecord:
    """A noisy body with two lungs and a spine."""
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    hu = np.full(SHAPE, -1000.0)
    hu[((i - 60) / 58) ** 2 + ((j - 56) / 52) ** 2 < 1] = 45
    for side in (-1, 1):
        hu[((i - 60 - side * 27) / 23) ** 2 + ((j - 52) / 36) ** 2 + ((k - 60) / 58) ** 2 < 1] = -850
    hu[((i - 60) / 10) ** 2 + ((j - 90) / 9) ** 2 < 1] = 600
    hu += ndimage.gaussian_filter(rng.normal(size=SHAPE), (0.7, 0.7, 0)) * 25
    return VolumeRecord(
        series_id=f"series-{seed}",
        study_id=f"study-{seed}",
        patient_id=f"patient-{seed}",
        image=np.clip(hu, -1024, 3071).astype(np.int16),
        affine_ras=AFFINE,
        acquisition=(("kvp", "120"), ("slice_thickness_mm", "2.5")),
        lesion_ids=(f"lesion-{seed}-0", f"lesion-{seed}-1"),
        split_key=0.25,
    )


def finding(
    source: VolumeRecord,
    number: int = 0,
    *,
    said: bool = True,
    kind: str = "LINE",
    centre_mm: tuple[float, float, float] = (33.0, 50.0, 62.0),
    radii_mm: tuple[float, float, float] = (8.5, 6.0, 7.0),
) -> FindingRecord:
    """One ellipsoidal lesion of ``source`` and its region; ``centre_mm`` counts from the first voxel."""
    grid = np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    mask = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre_mm, radii_mm, strict=True)) < 1
    hit = np.argwhere(mask)
    lower, upper = hit.min(axis=0), hit.max(axis=0) + 1
    points = stroke(kind, np.asarray(centre_mm) / SPACING, np.asarray(radii_mm) / SPACING)
    origin, shape = choose_roi(
        (*lower[::-1], *upper[::-1]), points[:, ::-1], SHAPE[::-1], SPACING[::-1], np.random.default_rng(number)
    )
    first, size = np.array(origin[::-1]), np.array(shape[::-1])
    window = tuple(slice(int(o), int(o + n)) for o, n in zip(first, size, strict=True))
    affine = source.affine_ras.copy()
    affine[:3, 3] = source.affine_ras[:3, :3] @ first + source.affine_ras[:3, 3]
    ras = points @ source.affine_ras[:3, :3].T + source.affine_ras[:3, 3]
    drawn = (2 * radii_mm[0],) if kind == "LINE" else ()
    return FindingRecord(
        lesion_id=f"{source.series_id}-lesion-{number}",
        patient_id=source.patient_id,
        study_id=source.study_id,
        series_id=source.series_id,
        said=phrase(f"{source.series_id}-finding-{number}", f"report-{source.patient_id}") if said else None,
        annotations=(
            AnnotationRecord(
                kind,
                _points(ras),
                _points(points - first),
                drawn,
                drawn,
                "GSPS",
                "two-point polyline",
                0.95,
                source.series_id,
            ),
        ),
        image=source.image[window],
        mask=mask[window].astype(np.uint8),
        affine_ras=affine,
        roi_origin_ijk=_index3(first),
        bbox_ijk=(*_index3(lower), *_index3(upper)),
        volume_shard=None,
        volume_row_group=None,
        engine=EngineRecord("ellipsoid", "1", None, kind),
        quality=QualityRecord("A", ("LEAK",), 0.9, float(mask.sum() * np.prod(SPACING)), 2 * radii_mm[0]),
        split_key=source.split_key,
        provenance='{"joined_by": "accession_number"}',
    )


def stroke(kind: str, centre: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3) voxel-centre indices of a stroke in the axial plane nearest ``centre``."""
    x, y, z = *centre[:2], round(centre[2])
    r, q = radii[:2]
    shapes = {
        "LINE": [(x - r, y, z), (x + r, y, z)],
        "BIDIMENSIONAL": [(x - r, y, z), (x + r, y, z), (x, y - q, z), (x, y + q, z)],
        "ARROW": [(x + 2 * r, y + 2 * q, z), (x + 0.7 * r, y + 0.7 * q, z)],
        "POINTER": [(x, y, z)],
        "OUTLINE": [(x - r, y, z), (x, y + q, z), (x + r, y, z), (x, y - q, z)],
    }
    return np.array(shapes[kind], dtype=np.float64)


def phrase(finding_id: str, report_id: str, text: str = PHRASE) -> PhraseRecord:
    """What the report says, with one measurement and a link."""
    start = TEXT.index(PHRASE)
    return PhraseRecord(
        finding_id=finding_id,
        report_id=report_id,
        phrase=text,
        phrase_start=start,
        phrase_end=start + len(PHRASE),
        sentence=f"{text}.",
        section="findings",
        language="en",
        assertion="PRESENT",
        observation="nodule",
        anatomy="lung",
        laterality="RIGHT",
        measurements=(
            MeasurementRecord("LESION", "LONG", 17.0, 0.5, "1.7 x 1.2 cm", 56, 68, 17.0, 1.0),
            MeasurementRecord("LESION", None, 12.0, 0.5, "1.7 x 1.2 cm", 56, 68, None, None),
        ),
        link=LinkRecord("LINKED", 0.995, (("size", 4.5), ("side", 0.75)), "the size fits (+4.5), the side fits (+0.8)"),
    )


def report(source: VolumeRecord) -> ReportRecord:
    """The report that says ``PHRASE``, and a negated finding."""
    start = TEXT.index(PHRASE)
    return ReportRecord(
        report_id=f"report-{source.patient_id}",
        patient_id=source.patient_id,
        study_ids=(source.study_id,),
        text=TEXT,
        language="en",
        sections=(("findings", 0, len(TEXT)),),
        phrases=(
            ReportPhraseRecord(
                f"{source.series_id}-finding-0", start, start + len(PHRASE), "findings", "PRESENT", "nodule", "lung",
                "RIGHT", "LINKED", f"{source.series_id}-lesion-0", 0.995,
            ),
            ReportPhraseRecord(
                f"{source.series_id}-finding-9", 70, 81, "findings", "ABSENT", "effusion", None, None, "NEGATED", None,
                None,
            ),
        ),
        split_key=source.split_key,
    )  # fmt: skip


def placed(record: FindingRecord, shard: str, row_group: int) -> FindingRecord:
    """``record`` pointing at its published volume."""
    return replace(record, volume_shard=shard, volume_row_group=row_group)


def write_shard(directory: Path, split: str, number: int, count: int, seed: int) -> tuple[FindingRecord, FindingRecord]:
    """One patient: a volume, two lesions on it (one said), a report."""
    source = volume(seed)
    said, unsaid = finding(source, 0), finding(source, 1, said=False, centre_mm=(86.0, 44.0, 70.0))
    with ShardWriter(directory, split, number, count) as writer:
        place = writer.add_volume(source)
        said, unsaid = (placed(record, place.shard, place.row_group) for record in (said, unsaid))
        writer.add_finding(said)
        writer.add_finding(unsaid)
        writer.add_report(report(source))
    return said, unsaid


def _points(points: NDArray[np.float64]) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(x), float(y), float(z)) for x, y, z in points)


def _index3(values: NDArray[np.int64]) -> tuple[int, int, int]:
    a, b, c = (int(value) for value in values)
    return a, b, c
