"""From "kits23:/data/kits23" to a source of samples."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from cohort_builder.errors import ConfigError
from cohort_builder.pacs.instances import CT
from cohort_builder.training.readers import ALL_READERS, headers_below
from segmentation.training.manifest import Entry, Manifest, ManifestError
from segmentation.training.nifti import is_nifti
from segmentation.training.recipes import RECIPES, SplitSizes, manifest_of, with_digests, with_lesions
from segmentation.training.samples import SPLITS, CropPolicy, Split
from segmentation.training.sources import GeneratedSource, ManifestSource, Source
from segmentation.training.splits import proportional_splits

logger = logging.getLogger("cohort_builder")

_SHARES: Mapping[Split, int] = {"train": 8, "val": 1, "test": 1}
_PUBLISHED_SPLITS: Mapping[str, Split] = {"train": "train", "validation": "val", "test": "test"}
_BEST_TIER = "A"
_LABEL_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4": "dicom_seg", "1.2.840.10008.5.1.4.1.1.481.3": "rtstruct"}
_KINDS = {"dicom_seg": "seg", "rtstruct": "rtstruct"}
_OPTIONS = frozenset(
    {"values", "lesions", "least_mm3", "sizes", "split", "tiers", "backgrounds", "category", "deformed"}
)


@dataclass(frozen=True, slots=True)
class _Spec:
    """One spec, parsed."""

    kind: str
    places: tuple[str, ...]
    options: Mapping[str, str]

    @property
    def entry_options(self) -> dict[str, str]:
        """Those that a reader looks at."""
        return {name: self.options[name] for name in ("lesions", "least_mm3") if name in self.options}

    @property
    def values(self) -> tuple[int, ...]:
        """Values of a label that are lesion."""
        try:
            return tuple(int(value) for value in self.options.get("values", "").split("+") if value)
        except ValueError as error:
            raise ConfigError(f"values are whole numbers joined by +, got {self.options['values']!r}") from error

    @property
    def deformed(self) -> int:
        """Copies of every training lesion."""
        text = self.options.get("deformed", "0")
        if not text.isdecimal():
            raise ConfigError(f"deformed is a number of copies, got {text!r}")
        return int(text)


@dataclass(frozen=True, slots=True)
class _Listing:
    """Cases below a folder; where ``has_splits`` is False their splits are yet to be drawn."""

    root: Path
    entries: list[Entry]
    has_splits: bool = False


def open_sources(
    specs: Sequence[str], *, policy: CropPolicy | None = None, seed: int = 0, workers: int = 1
) -> list[Source]:
    """Open what the specs name, in their order, checked as far as it goes without reading all voxels.

    Parameters
    ----------
    specs
        Each a kind, a colon, and its places and options with commas between them:

        ``kits23:/path`` and the other names of `segmentation.training.recipes.RECIPES`; ``sizes=proportional`` takes
        all there is.
        ``nifti:/images,/labels``: two folders with files of the same names (``_0000`` before the ending of an image
        may be missing in the label's). ``nifti:/cases.csv``: columns ``image`` and ``label``, paths beside the file,
        and what there is of ``case_id``, ``patient``, ``split``, ``category``.
        ``dicom:/folder``, ``seg:/folder``, ``rtstruct:/folder``: CT series with the objects that refer to them; a
        pattern after the folder says which segment or structure is lesion.
        ``dataset:/cohort/dataset``: lesions of a published dataset, of the best tier; ``tiers=AB`` takes more.
        ``generated:N``: generated lesions; ``backgrounds=/folder`` puts them into real CTs (NIfTI) as well.

        Options: ``values=1+2`` (values of a label that are lesion), ``lesions=components|values|whole``,
        ``least_mm3=20``, ``split=train|val|test`` (all into one), ``category=...``,
        ``deformed=30`` (so many deformed copies of every training lesion beside it).
    policy
        How much around a lesion is kept.
    seed
        Of the splits by patient, and of generated lesions.
    workers
        Threads that read labels and make digests.

    Raises
    ------
    ConfigError
        If a spec cannot be understood.
    ManifestError
        If its data cannot be trained on.

    """
    if not specs:
        raise ConfigError("name at least one source of training data, such as nifti:/images,/labels")
    policy = policy or CropPolicy()
    return [_source(_parse(spec), policy, seed, workers) for spec in specs]


def open_manifest(spec: str, *, seed: int = 0, workers: int = 1) -> Manifest:
    """Make the manifest of one spec of `open_sources`; generated lesions have none.

    Raises
    ------
    ConfigError
        If the spec cannot be understood.
    ManifestError
        If its data cannot be trained on.

    """
    return _manifest(_parse(spec), seed, workers)


def _source(spec: _Spec, policy: CropPolicy, seed: int, workers: int) -> Source:
    if spec.kind == "generated":
        return _generated(spec, seed)
    return ManifestSource(_manifest(spec, seed, workers), policy, ALL_READERS, spec.deformed)


def _manifest(spec: _Spec, seed: int, workers: int) -> Manifest:
    if spec.kind in RECIPES:
        sizes: SplitSizes = "proportional" if spec.options.get("sizes") == "proportional" else "table1"
        manifest = manifest_of(spec.kind, spec.places[0], seed, sizes=sizes, workers=workers)
    elif spec.kind in _LISTS:
        listing = _LISTS[spec.kind](spec)
        if not listing.entries:
            raise ManifestError(f"{spec.kind}: the folder holds no case of this kind")
        entries = _counted(listing.entries, listing.root, workers)
        entries = entries if listing.has_splits else _drawn(entries, seed)
        manifest = Manifest(listing.root, tuple(with_digests(entries, listing.root, workers)))
    else:
        raise ConfigError(f"unknown kind {spec.kind!r}; known are {', '.join((*RECIPES, *_LISTS, 'generated'))}")
    forced = spec.options.get("split")
    entries = [entry if forced is None else replace(entry, split=_split(forced)) for entry in manifest.entries]
    return replace(manifest, entries=tuple(entries))


def _parse(spec: str) -> _Spec:
    kind, colon, rest = spec.partition(":")
    places = [part for part in rest.split(",") if part and "=" not in part]
    options = dict(part.split("=", 1) for part in rest.split(",") if "=" in part)
    if not colon or not places:
        raise ConfigError(
            f"a source of training data is a kind and its place, such as nifti:/images,/labels; got {spec!r}"
        )
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise ConfigError(f"unknown option {', '.join(unknown)} in {spec!r}; known are {', '.join(sorted(_OPTIONS))}")
    if options.get("sizes", "table1") not in get_args(SplitSizes):
        raise ConfigError(f"sizes must be one of {', '.join(get_args(SplitSizes))}, got {options['sizes']!r}")
    return _Spec(kind, tuple(places), options)


def _split(name: str) -> Split:
    for split in SPLITS:
        if split == name:
            return split
    raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")


def _generated(spec: _Spec, seed: int) -> GeneratedSource:
    try:
        count = int(spec.places[0])
    except ValueError as error:
        raise ConfigError(f"generated: takes a number of lesions, got {spec.places[0]!r}") from error
    folders = [Path(folder) for folder in spec.options.get("backgrounds", "").split("+") if folder]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise ConfigError(f"there is no folder {missing[0]} of backgrounds")
    try:
        return GeneratedSource(count, seed, tuple(folders))
    except ValueError as error:
        raise ConfigError(f"generated: {error}") from error


def _counted(entries: Sequence[Entry], root: Path, workers: int) -> list[Entry]:
    """Count lesions; those that only their reader can count are read whole."""
    masks = [entry for entry in entries if entry.reader == "nifti"]
    counted = {id(entry): done for entry, done in zip(masks, with_lesions(masks, root, workers), strict=True)}
    wrong: list[str] = []
    for entry in entries:
        if id(entry) not in counted and not entry.n_lesions:
            try:
                counted[id(entry)] = replace(entry, n_lesions=int(ALL_READERS[entry.reader](entry, root)[1].max()))
            except ManifestError as error:
                wrong.append(str(error))
    if wrong:
        raise ManifestError(f"{len(wrong)} of {len(entries)} cases cannot be used: {'; '.join(wrong[:10])}")
    result = [counted.get(id(entry), entry) for entry in entries]
    empty = [entry.case_id for entry in result if not entry.n_lesions]
    if empty:
        raise ManifestError(
            f"{len(empty)} of {len(entries)} labels hold no lesion: {', '.join(empty[:10])}; leave the cases out, name "
            "the values that are lesion, or take a smaller least_mm3"
        )
    return result


def _drawn(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """Draw splits by patient: of the lesions eight parts train, one val, one test."""
    lesions: Counter[str] = Counter()
    for entry in entries:
        lesions[entry.patient_id] += entry.n_lesions
    splits = proportional_splits(lesions, _SHARES, np.random.default_rng(seed))
    return [replace(entry, split=splits[entry.patient_id]) for entry in entries]


# ---- layouts ------------------------------------------------------------------------------------------------------


def _list_nifti(spec: _Spec) -> _Listing:
    places = [Path(place).resolve() for place in spec.places]
    if len(places) == 1 and places[0].suffix == ".csv":
        return _list_csv(places[0], spec)
    if len(places) != 2 or not all(place.is_dir() for place in places):
        raise ConfigError("nifti: takes two folders, of images and of labels, or one .csv file with both")
    images, labels = ({_stem(p): p for p in sorted(place.iterdir()) if is_nifti(p.name)} for place in places)
    apart = sorted(images.keys() ^ labels.keys())
    if apart:
        raise ManifestError(f"nifti: {len(apart)} files have no partner of that name: {', '.join(apart[:10])}")
    root = Path(os.path.commonpath(places))
    return _Listing(root, [_nifti_entry(spec, root, name, images[name], labels[name]) for name in images])


def _list_csv(path: Path, spec: _Spec) -> _Listing:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path.name} cannot be read as CSV ({type(error).__name__})") from error
    entries = []
    for number, row in enumerate(rows, start=2):
        if not row.get("image") or not row.get("label"):
            raise ConfigError(f"{path.name}, line {number}: a row needs the columns image and label")
        # Not resolved: a link below the folder may lead wherever the data lie.
        image, label = (Path(os.path.normpath(path.parent / row[name])) for name in ("image", "label"))
        if not (image.is_relative_to(path.parent) and label.is_relative_to(path.parent)):
            raise ConfigError(f"{path.name}, line {number}: images and labels must lie beside the file or below")
        case = row.get("case_id") or _stem(image)
        entry = _nifti_entry(spec, path.parent, case, image, label, patient=row.get("patient") or case)
        if row.get("category"):
            entry = replace(entry, category=str(row["category"]))
        if row.get("split"):
            entry = replace(entry, split=_split(str(row["split"])))
        entries.append(entry)
    with_split = sum(bool(row.get("split")) for row in rows)
    if with_split not in {0, len(rows)}:
        raise ConfigError(f"{path.name}: {with_split} of {len(rows)} rows say their split; either all do or none")
    return _Listing(path.parent, entries, has_splits=with_split > 0)


def _nifti_entry(spec: _Spec, root: Path, case: str, image: Path, label: Path, *, patient: str = "") -> Entry:
    return Entry(
        case_id=case,
        dataset="nifti",
        category=spec.options.get("category", "Lesion"),
        patient_id=f"nifti-{_key(root)}/{patient or case}",
        split="train",
        reader="nifti",
        image=image.relative_to(root).as_posix(),
        label=label.relative_to(root).as_posix(),
        label_values=spec.values,
        options=spec.entry_options,
    )


def _list_dicom(spec: _Spec) -> _Listing:
    """Pair label objects with the CT series that they refer to.

    Patients and cases are numbered, not named: cases in the order of the paths of their label objects.
    """
    root = Path(spec.places[0]).resolve()
    if not root.is_dir():
        raise ConfigError(f"{spec.kind}: takes a folder, got {spec.places[0]}")
    series: dict[str, list[Path]] = {}
    found: list[tuple[Path, str, str]] = []
    for path, header in headers_below(root):
        if header.kind == CT:
            series.setdefault(header.instance.series_instance_uid, []).append(path)
        elif (reader := _LABEL_CLASSES.get(header.instance.sop_class_uid)) and spec.kind in {"dicom", _KINDS[reader]}:
            found.append((path, reader, header.study.patient_id or ""))
    pairs = [(path, reader, patient, uid) for path, reader, patient in found if (uid := _referred(path)) in series]
    if len(pairs) < len(found):
        logger.warning(
            "%s: %d objects that refer to no CT below the folder are left out", spec.kind, len(found) - len(pairs)
        )
    number = {patient: i for i, patient in enumerate(sorted({pair[2] for pair in pairs}), start=1)}
    structure = {"structure": spec.places[1]} if len(spec.places) > 1 else {}
    entries = [
        Entry(
            case_id=f"{_KINDS[reader]}-{case:04d}",
            dataset=spec.kind,
            category=spec.options.get("category", "Lesion"),
            patient_id=f"{spec.kind}-{_key(root)}/{number[patient]:04d}",
            split="train",
            reader=reader,
            image=Path(os.path.commonpath([file.parent for file in series[uid]])).relative_to(root).as_posix(),
            label=path.relative_to(root).as_posix(),
            options={**spec.entry_options, **structure, "series": uid},
        )
        for case, (path, reader, patient, uid) in enumerate(pairs, start=1)
    ]
    return _Listing(root, entries)


def _referred(path: Path) -> str:
    """Series Instance UID of the images that a SEG or an RT Structure Set was made on; empty where it does not say."""
    import pydicom

    tags = ["ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence"]
    ds = pydicom.dcmread(path, specific_tags=tags, stop_before_pixels=True)
    for item in ds.get("ReferencedSeriesSequence") or ():
        return str(item.get("SeriesInstanceUID", ""))
    for frame in ds.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for item in study.get("RTReferencedSeriesSequence") or ():
                return str(item.get("SeriesInstanceUID", ""))
    return ""


def _list_published(spec: _Spec) -> _Listing:
    """List the lesions of a published dataset, each once, with the dataset's own splits."""
    import pyarrow.parquet as pq

    from exports import ExportError, read_findings

    root = Path(spec.places[0]).resolve()
    try:
        read_findings(root)
    except ExportError as error:
        raise ConfigError(f"dataset: {error}") from error
    tiers = spec.options.get("tiers", _BEST_TIER)
    entries: dict[str, Entry] = {}
    for path in sorted(root.glob("data/findings/*.parquet")) + sorted(root.glob("data/unlinked/*.parquet")):
        file, split = pq.ParquetFile(path), _PUBLISHED_SPLITS.get(path.name.split("-", 1)[0], "train")
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["lesion_id", "patient_id", "anatomy", "quality"]).to_pylist()
            for row, found in enumerate(rows):
                if found["quality"]["tier"] in tiers and found["lesion_id"] not in entries:
                    entries[found["lesion_id"]] = Entry(
                        case_id=found["lesion_id"],
                        dataset="cohort",
                        category=spec.options.get("category") or found["anatomy"] or "Lesion",
                        patient_id=found["patient_id"],
                        split=split,
                        reader="dataset",
                        image=path.relative_to(root).as_posix(),
                        label=path.relative_to(root).as_posix(),
                        options={"row_group": str(group), "row": str(row)},
                        n_lesions=1,
                    )
    return _Listing(root, list(entries.values()), has_splits=True)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_0000")


def _key(folder: Path) -> str:
    """Tell folders apart without their names."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:6]


_LISTS: Mapping[str, Callable[[_Spec], _Listing]] = {
    "nifti": _list_nifti,
    "dicom": _list_dicom,
    "seg": _list_dicom,
    "rtstruct": _list_dicom,
    "dataset": _list_published,
}
