"""The dataset's card: what it is, how it was made, and what it must not be taken for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from textwrap import dedent
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class CardInfo:
    """What only the one who built the dataset knows. Nothing here may name a patient, a person or a path.

    Parameters
    ----------
    title
        Heading of the card.
    software
        Name and version of what built it.
    config
        Setting to value, the ones that decide what is in the dataset; values may be mappings.
    counts
        What the build saw, stage by stage ("reports read", "lesions drawn" ...), in the order to print.
    license, license_name
        Identifier of the licence ("other" when none fits) and its name. Until they are filled in, the card says that
        nobody may use the data.
    language
        ISO 639-1 codes of the reports.

    """

    title: str = "Grounded CT findings"
    software: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    license: str = "other"
    license_name: str | None = None
    language: tuple[str, ...] = ("en",)


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """Exact size of one split of one config: rows, and bytes as Arrow."""

    name: str
    num_examples: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """One config: its splits, the file patterns of each, bytes on disk, digest of the files; no ``columns``: all."""

    name: str
    splits: tuple[SplitFacts, ...]
    paths: Mapping[str, tuple[str, ...]]
    download_size: int
    digest: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """What the published tables hold, counted from the tables themselves."""

    configs: tuple[ConfigFacts, ...]
    patients: int
    engines: Mapping[str, int]
    tiers: Mapping[str, int]
    assertions: Mapping[str, int]
    outcomes: Mapping[str, int]
    skipped: Mapping[str, int]


_ROW_IS = {
    "findings": "one grounded finding: a phrase of a report and the lesion it speaks of",
    "lesions": "one segmented lesion, with its phrase or (phrase columns null) without",
    "volumes": "one CT series, whole",
    "reports": "one scrubbed report with every phrase and what became of it",
    "preview": "one grounded finding as a small picture with its words, without voxels",
}

_COLUMNS_TEXT = """\
## Columns

Arrays are int16 Hounsfield units (`image`) and 0/1 uint8 (`mask`) in NIfTI order (i, j, k) with a RAS affine, never
flipped. Every `_ijk` counts voxel centres in that order, every `_ras_mm` is millimetres in that frame; spans are
half-open character offsets. Every id is a keyed pseudonym.

**findings** and **lesions**

| column | meaning |
|---|---|
| `finding_id`, `report_id` | the finding and the report that says it |
| `lesion_id`, `patient_id`, `study_id`, `series_id` | the lesion and the series it was segmented on |
| `phrase`, `phrase_start`, `phrase_end` | the exact words, and their span in `text` of config `reports` |
| `sentence`, `section`, `language` | around the phrase |
| `assertion`, `observation`, `anatomy`, `laterality` | `PRESENT`, `ABSENT` or `UNCERTAIN`; of what; where |
| `measurements` | each stated diameter, the mask's own, and their `ratio` (mask over report) |
| `annotation` | the stroke that was segmented: kind, points (`points_ijk` in the region), lengths drawn and stated, \
`confidence` of the rule that read it, the `series_id` it was drawn on |
| `other_annotations` | further strokes on the same lesion and series, by other readers for example |
| `link` | why phrase and drawing belong together: posterior, `evidence` in natural log odds, `summary` in one line |
| `image`, `mask`, `affine_ras`, `spacing_mm` | region around the lesion and its mask, on one grid; the float64 affine |
| `roi_origin_ijk`, `roi_shape_ijk`, `bbox_ijk` | region, and box of the mask (lower, upper exclusive), in the volume |
| `volume_shard`, `volume_row_group` | the whole volume in `data/volumes`; null where not published |
| `engine` | what made the mask, and the kind of prompt |
| `quality` | `tier`, the `flags` that decided it, `score` 0 to 1, the mask's volume and longest in-plane diameter |
| `preview` | PNG: axial, coronal, sagittal with drawing and contour |
| `split_key` | number in [0, 1) keyed by patient: cut it elsewhere for other splits that still keep patients apart |
| `provenance` | JSON: how this row came about |

A lesion that two reports speak of has two rows with one `lesion_id`.

**volumes**: `series_id`, `study_id`, `patient_id`, `image`, `affine_ras`, `spacing_mm`, `shape_ijk`, `acquisition`,
`voxel_sha256` (int16 little-endian, i fastest), `lesion_ids`, `split_key`.

**reports**: `report_id`, `patient_id`, `study_ids`, `text`, `language`, `sections`, `phrases`, `split_key`.

**preview**: `finding_id`, `phrase`, `measurements`, `preview` of **findings**, without voxels.
"""

_MAKING_TEXT = """\
Reports were scrubbed, then read for findings, their sizes and image references. Drawings were read from the
presentation states of the PACS, brought into patient space and grouped into lesions. Findings and lesions were linked
by size, image reference and side; what was not certain was withheld. Each lesion was segmented from its drawing, and
its mask checked against the radiologist's own measurement.
"""

_CAUTION_TEXT = """\
## Before you share or use it

- **The text was scrubbed by rules and must be reviewed by a person before sharing.** Rules miss what nobody foresaw.
  Images were not searched for burned-in text or for faces; a head CT can show a face.
- **The masks are machine-made** from what a radiologist drew on one slice. No radiologist has looked at them.
- **Quality tiers**: A (accept), the mask passed every check and its fitted probability of Dice 0.7 or more is so high
  that 95 % of such masks reach it on generated lesions; B (review), usable, with the flags it carries; C (reject),
  doubtful, kept for study. `quality.score` is that probability, `quality.flags` says what was found; a mask flagged
  `not_calibrated` is of an engine that no fit was made for: it is never A, and its score is no probability.
- **Links are chosen for precision.** A finding whose drawing is not certain is withheld (its outcome stands in
  `reports`), so the rows are not a random sample of what radiologists report.
- **An absent mask is not an absent lesion.** Only what was drawn is segmented.
- Regions are shifted at random around the lesion so that its place in the region says nothing.
- Not a medical device, and not for diagnosis.
"""


def render_card(info: CardInfo, contents: Contents) -> str:
    """README.md: the YAML block that ``datasets`` and the Hub read, then the text for people.

    Each config's ``description`` carries the digest of its files: ``datasets`` caches by directory base name and YAML
    alone, and would otherwise serve the rows of an earlier build, or of another dataset in a directory of that name.
    """
    header = yaml.safe_dump(_front_matter(info, contents), sort_keys=False, allow_unicode=True, width=120)
    parts = [
        f"---\n{header}---\n\n# {_line(info.title)}\n",
        _summary(contents),
        _loading(contents),
        _COLUMNS_TEXT,
        _counts(info, contents),
        _making(info),
        _CAUTION_TEXT,
        _licence(info),
    ]
    return "\n".join(parts)


def _front_matter(info: CardInfo, contents: Contents) -> dict[str, object]:
    rows = max(sum(split.num_examples for split in config.splits) for config in contents.configs)
    front: dict[str, object] = {"pretty_name": _line(info.title), "license": info.license}
    if info.license_name is not None:
        front["license_name"] = info.license_name
    return front | {
        "language": list(info.language),
        "task_categories": ["image-segmentation", "image-feature-extraction"],
        "tags": ["medical", "radiology", "CT", "3d", "visual-grounding", "segmentation"],
        "size_categories": [_size_category(rows)],
        "configs": [_config(config, default=index == 0) for index, config in enumerate(contents.configs)],
        "dataset_info": [
            {
                "config_name": config.name,
                "splits": [
                    {"name": split.name, "num_bytes": split.num_bytes, "num_examples": split.num_examples}
                    for split in config.splits
                ],
                "download_size": config.download_size,
                "dataset_size": sum(split.num_bytes for split in config.splits),
            }
            for config in contents.configs
        ],
    }


def _config(config: ConfigFacts, *, default: bool) -> dict[str, object]:
    entry: dict[str, object] = {"config_name": config.name}
    if default:
        entry["default"] = True
    if config.columns:
        entry["columns"] = list(config.columns)
    return entry | {
        "description": f"{_ROW_IS[config.name]}; content {config.digest}",
        "data_files": [{"split": split.name, "path": list(config.paths[split.name])} for split in config.splits],
    }


def _size_category(rows: int) -> str:
    """Name of the Hub's size class."""
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if rows < bound), "1M<n<10M")


def _summary(contents: Contents) -> str:
    lesions = _rows(contents, "lesions")
    findings = _rows(contents, "findings")
    engines = ", ".join(f"`{_line(engine)}`" for engine in contents.engines) or "no engine yet"
    text = f"""\
        CT lesions that radiologists measured or pointed at in daily work, segmented in 3D from those drawings, and
        grounded in the words of the report: **{findings:,}** phrase / mask pairs among **{lesions:,}** segmented
        lesions of **{contents.patients:,}** patients. Masks by {engines}.
        """
    return dedent(text)


def _loading(contents: Contents) -> str:
    default = contents.configs[0].name
    split = contents.configs[0].splits[0].name
    return f"""\
## Load

```python
from datasets import load_dataset  # datasets >= 4.4, with nibabel

ds = load_dataset("path/to/this/directory", split="{split}")  # config "{default}"
row = ds[0]
row["phrase"], row["image"].get_fdata(), row["mask"].affine
```

Configs: {", ".join(f"`{config.name}` ({_ROW_IS[config.name]})" for config in contents.configs)}. The same patient is in
the same split everywhere. `streaming=True` works; `columns=[...]` reads text alone. With the library that wrote it,
`exports.with_arrays(ds)` gives NumPy arrays and `exports.fetch_volume(directory, row)` the whole CT of a row.
`sha256sum -c checksums.sha256` verifies the files.
"""


def _counts(info: CardInfo, contents: Contents) -> str:
    names = sorted({split.name for config in contents.configs for split in config.splits})
    rows = [
        (config.name, *(f"{_split_rows(config, name):,}" for name in names), f"{config.download_size / 1e6:,.1f}")
        for config in contents.configs
    ]
    parts = ["## Counts\n", _table(("config", *names, "MB"), rows)]
    for heading, counts in (
        ("Lesions by quality tier", contents.tiers),
        ("Findings by assertion", contents.assertions),
        ("Phrases of all reports by outcome", contents.outcomes),
        ("Left out, by reason (see `skipped.jsonl`)", contents.skipped),
        ("What the build saw", info.counts),
    ):
        if counts:
            parts.append(f"**{heading}**\n")
            parts.append(_table(("", "n"), [(name, f"{count:,}") for name, count in counts.items()]))
    return "\n".join(parts)


def _making(info: CardInfo) -> str:
    parts = [
        "## How it was made\n",
        _MAKING_TEXT,
    ]
    if info.software:
        parts.append(f"Built with {_line(info.software)}.\n")
    if info.config:
        parts.append(_table(("setting", "value"), list(_flat(info.config))))
    return "\n".join(parts)


def _licence(info: CardInfo) -> str:
    if info.license == "other" and info.license_name is None:
        text = "To be filled in by the institution that owns the data. Until then nobody is allowed to use or share it."
    else:
        text = f"{_line(info.license_name or info.license)}."
    return f"## Licence\n\n{text}\n"


def _rows(contents: Contents, name: str) -> int:
    return sum(split.num_examples for config in contents.configs if config.name == name for split in config.splits)


def _split_rows(config: ConfigFacts, name: str) -> int:
    return sum(split.num_examples for split in config.splits if split.name == name)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings of nested mappings under dotted names."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _line(text: str) -> str:
    """One line of Markdown: no line break can start a heading or end the YAML block."""
    return " ".join(str(text).split())
