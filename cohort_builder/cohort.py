"""A handle on what was built: tables, pictures, and why the rest is not in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort_builder.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

    from cohort_builder.audit.search import Leak


def open_cohort(out: str | Path) -> Cohort:
    """Open what ``build_cohort`` left in ``out``.

    Raises
    ------
    ConfigError
        If there is no finished dataset in ``out``.

    """
    path = Path(out)
    if not (path / "dataset" / "manifest.json").is_file():
        raise ConfigError(
            "this folder holds no finished cohort (no dataset/manifest.json): build one with `cohort build`"
        )
    return Cohort(path)


class Cohort:
    """What ``build_cohort`` left in a folder. Reads on demand; holds no voxels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dataset_path = path / "dataset"

    def __repr__(self) -> str:
        return f"<Cohort of {len(self)} grounded findings>"

    def __len__(self) -> int:
        return int(self.findings.num_rows)

    @cached_property
    def findings(self) -> pa.Table:
        """One row per grounded finding, without voxels."""
        from exports.parquet import read_findings

        return read_findings(self.dataset_path)

    @cached_property
    def skipped(self) -> list[dict[str, Any]]:
        """Everything that did not become a row: stage, keyed item, reason, detail."""
        lines = (self.dataset_path / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @cached_property
    def run(self) -> Mapping[str, Any]:
        """``run.json``: counts, versions, configuration and timings; empty while the first build still runs."""
        path = self.path / "run.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def summary(self) -> str:
        """Counts by stage, phrases by outcome, quality tiers, skips by reason; names nobody."""
        counts = self.run.get("counts", {})
        lines = ["Cohort"]
        if (status := self.run.get("status", "complete")) != "complete":
            lines.append(f"  the last run: {status}; the dataset is that of the run before, the counts are not")
        stages = (
            "index_dicom",
            "selected_studies",
            "patients",
            "lesions",
            "reports_read",
            "reports",
            "findings",
            "unlinked_lesions",
            "volumes",
        )
        lines += [f"  {name.replace('_', ' '):<20}{counts[name]:>8}" for name in stages if name in counts]
        groups = (
            ("Left out by the selection", "not_selected_"),
            ("Patient IDs of the opt-out list", "opt_out_ids_"),
            ("Phrases of the reports", "phrases_"),
            ("Quality", "tier_"),
            ("Links to review", "reviews_"),
        )
        for title, prefix in groups:
            chosen = {name.removeprefix(prefix): n for name, n in counts.items() if name.startswith(prefix)}
            if chosen:
                width = max(20, *map(len, chosen))
                lines += [title, *(f"  {name:<{width}}{n:>8}" for name, n in sorted(chosen.items()))]
        if lost := counts.get("verdicts_lost"):
            lines.append(f"  none of the {lost} verdicts of private/review.csv counts: was another key used (--key)?")
        reasons = Counter(row["reason"] for row in self.skipped)
        if reasons:
            lines += ["Skipped", *(f"  {reason:<28}{n:>8}" for reason, n in reasons.most_common())]
        return "\n".join(lines)

    def row(self, i: int) -> dict[str, Any]:
        """Finding ``i`` whole, with its image and mask, as ``datasets`` would give it.

        Raises
        ------
        IndexError
            If there is no such finding.

        """
        from exports.parquet import read_row

        if not 0 <= i < len(self):
            raise IndexError(f"finding {i} does not exist: the cohort has {len(self)}")
        return read_row(self.dataset_path, i)

    def show(self, i: int) -> Image:
        """Draw finding ``i``: axial, coronal and sagittal, the annotation, the mask's contour, the phrase."""
        from exports.pictures import finding_picture

        return finding_picture(self.row(i))

    def contact_sheet(self, n: int = 12) -> Image:
        """Picture of the first ``n`` findings side by side."""
        from exports.pictures import contact_sheet

        return contact_sheet([self.row(i) for i in range(min(n, len(self)))])

    def draw(self, n: int, *, on_each: Callable[[], None] | None = None) -> None:
        """Write ``pictures/``: one for each of the first ``n`` findings, named by pseudonym, and a contact sheet."""
        folder = self.path / "pictures"
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        for i in range(min(n, len(self))):
            self.show(i).save(folder / f"{self.findings['finding_id'][i].as_py()}.png")
            if on_each is not None:
                on_each()
        if n and len(self):
            self.contact_sheet(n).save(folder / "contact_sheet.png")

    def audit(self) -> list[Leak]:
        """Search all that is published for the identifiers of the index and the originals behind the pseudonyms.

        Raises
        ------
        ConfigError
            If the cohort's private folder is not there.

        """
        from cohort_builder.audit.search import find_leaks
        from cohort_builder.pacs.index import open_index

        private = self.path / "private"
        if not (private / "crosswalk.jsonl").is_file():
            raise ConfigError(
                "this cohort has no private/crosswalk.jsonl, so what to search for is not known; audit it where it was "
                "built, with its private folder"
            )
        lines = (private / "crosswalk.jsonl").read_text(encoding="utf-8").splitlines()
        needles = {part for line in lines for part in json.loads(line)["original"].split("/")}
        index = open_index(private / "index.sqlite")
        try:
            needles |= {value for study in index.studies() for value in study.identifiers}
            needles |= {study.study_date.isoformat() for study in index.studies() if study.study_date is not None}
        finally:
            index.close()
        return find_leaks(self.path, needles)
