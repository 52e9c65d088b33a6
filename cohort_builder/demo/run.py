"""``cohort demo``: generate the hospital, run the real pipeline on it, and score it against the truth."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from cohort_builder.build import build_cohort
from cohort_builder.config import BuildConfig
from cohort_builder.demo.hospital import generate_hospital
from cohort_builder.demo.score import score_cohort
from cohort_builder.errors import ConfigError
from cohort_builder.progress import Progress

logger = logging.getLogger("cohort_builder")

_SHARD_MB = 64  # small, so that even the demo has several shards to resume
_MARKER = "hospital.json"


def run_demo(
    out: Path, *, patients: int = 12, seed: int = 0, engine: str = "classical", workers: int = 2, progress: bool = True
) -> str:
    """Generate, build and score in ``out``; run again, it continues where it was killed.

    Returns
    -------
    The summary and the score, as text. ``out`` then holds ``hospital/`` (export, reports, truth), ``cohort/`` (what
    ``build_cohort`` leaves), ``score.json``, ``score.txt`` and the demo's own pseudonym key.

    Raises
    ------
    ConfigError
        If ``out`` holds something else.

    """
    bars = Progress(show=progress)
    hospital = _prepare(out, {"patients": patients, "seed": seed}, bars)
    cohort = build_cohort(
        hospital / "reports.csv",
        hospital / "pacs_export",
        out=out / "cohort",
        config=BuildConfig(engine=engine, shard_mb=_SHARD_MB, workers=workers),
        key=out / "site.key",
        progress=progress,
    )
    with bars.stage("score", 1, unit="cohorts") as stage:
        score = score_cohort(out / "cohort", hospital / "truth")
        stage.advance()
    text = score.as_text()
    (out / "score.txt").write_text(text + "\n", encoding="utf-8")
    (out / "score.json").write_text(json.dumps(score.as_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    where = [f"dataset   {cohort.dataset_path}", f"pictures  {cohort.path / 'pictures' / 'contact_sheet.png'}"]
    return "\n\n".join([cohort.summary(), text, "\n".join(where)])


def _prepare(out: Path, wanted: dict[str, int], bars: Progress) -> Path:
    """Make the hospital once: under a temporary name, then renamed, so that a killed run leaves no half hospital."""
    hospital, temporary = out / "hospital", out / ".hospital.tmp"
    known = {"hospital", "cohort", "site.key", "score.txt", "score.json", temporary.name}
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - known):
        raise ConfigError("-o names a folder with other things in it; give an empty or new folder, or an earlier demo")
    marker = hospital / _MARKER
    if marker.is_file() and json.loads(marker.read_text()) == wanted:
        logger.info("the hospital is already there")
        return hospital
    for stale in (temporary, hospital):
        if stale.exists():
            shutil.rmtree(stale)
    temporary.mkdir(parents=True)
    with bars.stage("hospital", wanted["patients"], unit="patients") as stage:
        generate_hospital(temporary, patients=wanted["patients"], seed=wanted["seed"], progress=stage.advance)
    (temporary / _MARKER).write_text(json.dumps(wanted))
    temporary.rename(hospital)
    return hospital
