"""Links for a person to judge: the file and whatever saved it, verdicts kept and obeyed, pictures, nothing published."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom import Patient, StudyInfo, ct_series, gsps, line, on, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset

from cohort_builder import BuildConfig, Cohort, ConfigError, LinkConfig, build_cohort, link, open_cohort
from cohort_builder.audit.search import find_leaks
from cohort_builder.cli import main
from cohort_builder.linking.evidence import explain
from cohort_builder.linking.refit import refit_links
from cohort_builder.privacy.pseudonyms import Pseudonyms
from cohort_builder.review.file import COLUMNS, cell_text, read_review, verdict_of, write_review
from cohort_builder.review.judging import Verdict, match_verdicts
from cohort_builder.review.pictures import draw_reviews
from cohort_builder.types import Annotation, AnnotationKind, Lesion, LocatedAnnotation, Source
from exports import ExportError
from exports.slices import DrawnSlice, slice_picture
from nlp import load_extractor
from nlp.findings import Extractor
from nlp.types import Assertion, Finding, Mention, Report, Size

# ---- the file ------------------------------------------------------------------------------------------------------


def cells(name: str = "a", **others: str) -> dict[str, str]:
    """A row that is complete; ``name`` keys its ids."""
    ids = {column: f"{column}-{name}" for column in ("review_id", "finding_id", "lesion_id")}
    features = json.dumps({"size": 1.25, "side": -0.5})
    return {**ids, "patient": "patient-a", "report": "report-a", "features": features, **others}


def saved(
    rows: Iterable[dict[str, str]], *, delimiter: str = ",", encoding: str = "utf-8-sig", **options: object
) -> bytes:
    """A review file as a spreadsheet would save it."""
    stream = io.StringIO(newline="")
    columns = options.pop("columns", COLUMNS)
    writer = csv.DictWriter(stream, columns, delimiter=delimiter, restval="", **options)  # type: ignore[arg-type,call-overload]
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode(encoding)


def read(tmp_path: Path, content: bytes) -> dict[str, bool | None]:
    (tmp_path / "review.csv").write_bytes(content)
    return {row.cells["review_id"]: row.right for row in read_review(tmp_path / "review.csv").rows}


def test_a_file_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert read_review(tmp_path / "review.csv").rows == ()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_whatever_saved_it_it_is_read(tmp_path: Path, delimiter: str, encoding: str, quoting: int, end: str) -> None:
    rows = [
        cells("a", verdict="yes", comment='größer; oder, "nicht"\tso', sentence="Knoten, 1,2 cm; links"),
        cells("b", verdict="no"),
        cells("c"),
    ]
    shuffled = sorted(COLUMNS, key=lambda name: name[::-1])
    content = saved(rows, delimiter=delimiter, encoding=encoding, quoting=quoting, lineterminator=end, columns=shuffled)
    assert read(tmp_path, content) == {"review_id-a": True, "review_id-b": False, "review_id-c": None}
    first = read_review(tmp_path / "review.csv").rows[0]
    assert first.cells["comment"] == 'größer; oder, "nicht"\tso'
    assert json.loads(first.cells["features"]) == {"size": 1.25, "side": -0.5}


def test_a_spreadsheets_habits_are_forgiven(tmp_path: Path) -> None:
    """A line that names the delimiter, empty rows, cells cut off at the end, capitals and blanks in the header."""
    header = " ; ".join(name.upper() for name in COLUMNS)
    row = ";".join(cells("a", verdict=" WAHR ").get(name, "") for name in COLUMNS[:18])
    assert read(tmp_path, f"sep=;\r\n{header}\r\n;;;\r\n\r\n{row}\r\n".encode()) == {"review_id-a": True}


@pytest.mark.parametrize("word", ["yes", "y", "Y", "true", "TRUE", "1", "right", " Right "])
def test_words_for_yes(word: str) -> None:
    assert verdict_of(word) is True


@pytest.mark.parametrize("word", ["no", "N", "false", "FALSE", "0", "wrong"])
def test_words_for_no(word: str) -> None:
    assert verdict_of(word) is False


@given(st.lists(st.text(max_size=60), min_size=3, max_size=3))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    phrase, sentence, comment = map(cell_text, texts)
    path = tmp_path_factory.mktemp("review") / "review.csv"
    write_review(path, [cells(phrase=phrase, sentence=sentence, comment=comment, verdict="no")], ";")
    file = read_review(path)
    (row,) = file.rows
    assert file.delimiter == ";"
    assert [row.cells[name] for name in ("phrase", "sentence", "comment")] == [phrase, sentence, comment]
    assert row.right is False


@pytest.mark.parametrize("text", ["=1+1", "-12 mm nodule", "+ 3 mm", "@nodule"])
def test_no_cell_is_a_formula(tmp_path: Path, text: str) -> None:
    path = tmp_path / "review.csv"
    write_review(path, [cells(phrase=text)])
    assert not any(cell.startswith(text[0]) for cell in next(csv.reader([path.read_text("utf-8-sig").splitlines()[1]])))
    assert read_review(path).rows[0].cells["phrase"] == text


SECRET = "12 mm nodule of Mrs Quorvash"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved([cells("a"), cells("b", verdict="perhaps", phrase=SECRET)]), "row 3 .* none of yes, no"),
        (saved([cells("a", finding_id="", phrase=SECRET)]), "row 2 .* lacks finding_id"),
        (saved([cells("a", phrase=SECRET)])[:-2] + b",,,more\r\n", "row 2 .* has 22 cells"),
        (b"", "needs a header"),
        (b"just some words\n", "needs a header"),
        (saved([cells("a", phrase=SECRET)]) + b'"' + SECRET.encode(), "quotes that are closed"),
        (b"\x81\x8d\x8f\x90\x9d" * 9, "no text"),
        (b"\xff\xfe\x00", "no text"),
        (saved([cells("a", verdict="yes"), cells("a", verdict="no", comment=SECRET)]), "rows 2 and 3 .* differently"),
        (
            saved([cells("a", verdict="yes"), cells("b", verdict="1", lesion_id="lesion_id-a")]),
            "rows 2 and 3 .* lesion",
        ),
        (
            saved([cells("a", verdict="yes"), cells("b", verdict="y", finding_id="finding_id-a")]),
            "rows 2 and 3 .* finding",
        ),
    ],
)
def test_what_cannot_be_understood_is_said_by_its_row_and_never_quoted(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, content)
    assert not any(word in str(caught.value) for word in ("Quorvash", "nodule", "12 mm"))
    assert (tmp_path / "review.csv").read_bytes() == content


def test_verdicts_that_only_look_contradictory(tmp_path: Path) -> None:
    rows = [
        cells("a", verdict="yes"),
        cells("b", verdict="yes", lesion_id="lesion_id-a", report="report-b"),  # two reports may speak of one lesion
        cells("c", verdict="no", finding_id="finding_id-a"),
        cells("d", verdict="yes", finding_id="finding_id-a", stale="stale"),  # the pair is no longer there
        cells("e"),
        cells("e", verdict="no"),  # a copied row
    ]
    answers = [True, True, False, True, False]
    assert list(read(tmp_path, saved(rows)).values()) == answers


# ---- finding the pair again ----------------------------------------------------------------------------------------

NAMES = Pseudonyms(bytes(range(32)))
TEXT = "FINDINGS: A 12 mm nodule. Another 12 mm nodule. A 9 mm mass."


def said(identity: str, phrase: str, occurrence: int = 0) -> Finding:
    start = -1
    for _ in range(occurrence + 1):
        start = TEXT.index(phrase, start + 1)
    span = (start, start + len(phrase))
    return Finding(identity, "r", "nodule", Assertion.PRESENT, (Mention("findings", span, span),), "test")


def drawn(*names: str) -> Lesion:
    """A lesion of that many strokes, named after the first."""
    strokes = [
        Annotation(name, AnnotationKind.LINE, ((0, 0), (9, 0)), "1.2.1", "1.2.3", "1.2", Source("1.9", name, "test"))
        for name in names
    ]
    located = tuple(LocatedAnnotation(stroke, (9.0,), ((0, 0, 0), (9, 0, 0)), "1.1") for stroke in strokes)
    return Lesion(names[0], located, (9.0,), (0.0, 0.0, 0.0), "1.1", "1.2")


def verdict(finding_id: str, lesion_id: str, phrase: str, *, right: bool = True) -> Verdict:
    keyed = (NAMES.pseudonym(kind, value) for kind, value in (("finding", finding_id), ("lesion", lesion_id)))
    return Verdict(f"review-{finding_id}-{lesion_id}", NAMES.pseudonym("report", "r"), *keyed, phrase, right)


def matched(verdicts: list[Verdict], findings: list, lesions: list) -> dict[tuple[str, str], bool]:
    found = match_verdicts(verdicts, Report("r", TEXT), findings, lesions, NAMES)
    return {pair: match.right for pair, match in found.items()}


MASS, LESIONS = said("r#1", "9 mm mass"), [drawn("A"), drawn("B", "C")]


def test_a_verdict_is_found_by_its_ids() -> None:
    assert matched([verdict("r#1", "A", "other words", right=False)], [MASS], LESIONS) == {("r#1", "A"): False}
    assert matched([verdict("r#1", "Z", "9 mm mass")], [MASS], LESIONS) == {}
    other = replace(verdict("r#1", "A", "9 mm mass"), report=NAMES.pseudonym("report", "another"))
    assert matched([other], [MASS], LESIONS) == {}


def test_a_finding_that_moved_is_found_by_its_words() -> None:
    assert matched([verdict("r#gone", "A", "9 mm mass")], [MASS], LESIONS) == {("r#1", "A"): True}
    twice = [said("r#2", "12 mm nodule"), said("r#3", "12 mm nodule", 1)]
    assert matched([verdict("r#gone", "A", "12 mm nodule")], twice, LESIONS) == {}


def test_a_lesion_is_found_by_any_of_its_strokes() -> None:
    assert matched([verdict("r#1", "C", "9 mm mass")], [MASS], LESIONS) == {("r#1", "B"): True}


def test_what_became_contradictory_counts_for_nothing() -> None:
    """Two lesions that somebody said yes to, of two findings, are one now."""
    findings = [MASS, said("r#2", "12 mm nodule")]
    both = [verdict("r#1", "B", ""), verdict("r#2", "C", "")]
    assert matched(both, findings, LESIONS) == {}
    assert matched([*both, verdict("r#1", "A", "", right=False)], findings, LESIONS) == {("r#1", "A"): False}
    moved = [verdict(f"r#{name}", "A", "9 mm mass", right=name == "old") for name in ("old", "older")]
    assert matched(moved, findings, LESIONS) == {}
    assert matched([*moved, verdict("r#1", "A", "")], findings, LESIONS) == {("r#1", "A"): True}


# ---- the picture ---------------------------------------------------------------------------------------------------


def test_a_picture_shows_the_stroke_where_it_is_and_the_phrase_in_the_same_colour() -> None:
    def yellow(image: Image.Image) -> np.ndarray:
        red, green, blue = (np.asarray(image, dtype=int)[..., i] for i in range(3))
        return (red > 180) & (green > 150) & (blue < 110)

    ct = np.full((80, 120), -700, np.int16)
    stroke = np.array([[30.0, 40.0], [50.0, 40.0]])
    slice_ = DrawnSlice(ct, (1.0, 1.0), [("LINE", stroke)], letters=("R", "L", "A", "P"))
    sentence = "There is a nodule of 20 mm in the lung. " * 30
    start = sentence.index("nodule", 600)
    picture = slice_picture(slice_, sentence, (start, start + 15), ["said 20 mm"])
    marked = yellow(picture)
    height, width = marked.shape
    near = marked[:, : int(0.35 * width)]
    rows, columns = np.nonzero(near)
    assert abs(rows.mean() / height - 0.5) < 0.02
    assert abs(columns.mean() / near.shape[1] - 0.51) < 0.03
    assert np.ptp(columns) > 3 * np.ptp(rows)
    assert marked[:, int(0.67 * width) :].sum() > 100  # the phrase, though the sentence is far longer than the room
    plain = slice_picture(slice_, sentence, (0, 0), [])
    assert not yellow(plain)[:, int(0.67 * width) :].any()


@pytest.mark.parametrize("text", ["", "x" * 500, "小 $\\frac{1}{2}$ \t\n\x00 nodule"])
def test_any_text_can_be_drawn(text: str) -> None:
    arrow = [("ARROW", np.array([[1.0, 1.0], [9.0, 7.0]])), ("POINTER", np.array([[3.0, 3.0]]))]
    slice_picture(DrawnSlice(np.zeros((12, 14), np.int16), (0.7, 0.9), arrow), text, (0, min(9, len(text))), [text])


def test_a_slice_without_a_stroke_is_refused() -> None:
    with pytest.raises(ExportError, match="a stroke"):
        DrawnSlice(np.zeros((4, 4), np.int16), (1.0, 1.0), [])


# ---- builds --------------------------------------------------------------------------------------------------------

KEY = bytes(range(32))
CONFIG = BuildConfig(engine="ellipsoid", anatomy="none", min_tier="C", pictures=0, shard_mb=1)
TWO = "FINDINGS: A 14 mm nodule in the lung."
ONE = "FINDINGS: A 14 mm mass in the lung (series 2, image 9)."


def chest(study: StudyInfo, *centres: float, length: float = 14.0) -> tuple[list[Dataset], Dataset]:
    """A CT with a ball at each (column) centre and a line on it."""
    z, y, x = np.meshgrid(np.arange(16) * 2.5, np.arange(64), np.arange(96), indexing="ij")
    inside = np.any([(z - 20) ** 2 + (y - 32) ** 2 + (x - c) ** 2 < (length / 2) ** 2 for c in centres], axis=0)
    noise = np.random.default_rng(0).normal(0, 8, inside.shape)
    ct = ct_series(16, study=study, spacing=(1.0, 1.0), shape=(64, 96), voxels=np.where(inside, 60.0, -800.0) + noise)
    half = length / 2
    lines = [line((c + 0.5 - half, 32.5), (c + 0.5 + half, 32.5)) for c in centres]
    return ct, gsps([on(ct[8], one) for one in lines])


def patient_of(split: str, n: int = 0) -> Patient:
    """A patient of that split under ``KEY``."""
    ids = (f"7{i:05d}" for i in range(1000))
    chosen = [name for name in ids if Pseudonyms(KEY).split_of(name) == split]
    return Patient(f"Fall^{split}{n}", chosen[n])


@dataclass
class Site:
    """A small hospital, and one cohort built from it again and again."""

    root: Path

    def make_key(self, key: bytes = KEY) -> None:
        descriptor = os.open(self.root / "site.key", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, key)
        os.close(descriptor)

    def build(self, *reports: Report, extractor: Extractor | None = None, **options: Any) -> Cohort:
        return build_cohort(
            list(reports), self.root / "pacs", out=self.root / "out", config=replace(CONFIG, **options),
            extractor=extractor, key=self.root / "site.key", progress=False,
        )  # fmt: skip

    @property
    def path(self) -> Path:
        return self.root / "out" / "private" / "review.csv"

    def rows(self) -> list[dict[str, str]]:
        with self.path.open(encoding="utf-8-sig", newline="") as stream:
            delimiter = ";" if ";" in stream.readline() else ","
            stream.seek(0)
            return list(csv.DictReader(stream, delimiter=delimiter))

    def judge(self, **verdicts: str) -> None:
        """Write verdicts (by keyed lesion, ``_`` for ``-``) as an office program saves them."""
        rows = self.rows()
        for row in rows:
            row["verdict"] = verdicts.get(row["lesion_id"].replace("-", "_"), row["verdict"])
        self.path.write_bytes(saved(rows, delimiter=";", encoding="cp1252", quoting=csv.QUOTE_ALL))

    def links(self) -> list[dict]:
        path = self.root / "out" / "private" / "links.jsonl"
        return [json.loads(one) for one in path.read_text().splitlines()]

    def built_at(self) -> dict[str, int]:
        """When each shard was written."""
        shards = self.root / "out" / "private" / "shards"
        return {path.parent.name: path.stat().st_mtime_ns for path in shards.glob("*/done.json")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hospital with its first cohort, made once."""
    tmp_path = tmp_path_factory.mktemp("site")
    Site(tmp_path).make_key()
    two = StudyInfo(patient_of("train"), accession_number="TWO")
    one = StudyInfo(patient_of("test"), accession_number="ONE")
    for study, centres in ((two, (24, 70)), (one, (48,))):
        ct, state = chest(study, *centres)
        write([*ct, state], tmp_path / "pacs" / study.accession_number)
    Site(tmp_path).build(R_TWO, R_ONE)
    return tmp_path


@pytest.fixture
def site(built: Path, tmp_path: Path) -> Site:
    """A copy of it, to change."""
    shutil.copytree(built, tmp_path / "site")
    return Site(tmp_path / "site")


R_TWO = Report("R/2", TWO, accession_numbers=("TWO",))
R_ONE = Report("R/1", ONE, accession_numbers=("ONE",))


def test_withheld_and_confident_links_are_offered_with_a_picture(site: Site) -> None:
    cohort = open_cohort(site.root / "out")
    rows = site.rows()
    assert [row["why"] for row in rows] == ["withheld", "withheld", "sample"]
    assert {row["phrase"] for row in rows[:2]} == {"14 mm nodule in the lung"}
    assert [row["report_id"] for row in rows] == ["R/2", "R/2", "R/1"]
    assert all(row["said_mm"] == "14" and row["drawn_mm"] == "14.0" and row["explanation"] for row in rows)
    assert all(row["lesion"] == "line, series 2 image 9" and not row["verdict"] for row in rows)
    assert float(rows[0]["probability"]) == pytest.approx(0.5, abs=0.05)
    assert all(json.loads(row["features"]) for row in rows)
    for row in rows:
        picture = site.path.parent / row["picture"]
        assert stat.S_IMODE(picture.stat().st_mode) == 0o600
        with Image.open(picture) as opened:
            assert opened.size == (1680, 600)
    assert stat.S_IMODE(site.path.stat().st_mode) == 0o600
    assert stat.S_IMODE((site.path.parent / "review").stat().st_mode) == 0o700
    assert cohort.run["counts"]["reviews_open"] == 3
    assert find_leaks(cohort.path, ["R/2", "Fall^train0"]) == []


def test_what_is_private_is_readable_by_its_owner_alone(site: Site) -> None:
    """Of the shards the Parquet files are those of the dataset, behind closed folders."""
    private = site.path.parent
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [private, *private.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file() and path.suffix != ".parquet"} == {0o600}
    assert len([path for path in modes if path.parent.name == "shards"]) == 2


def test_a_verdict_is_obeyed_kept_and_costs_one_shard(site: Site) -> None:
    wrong, right = (row["lesion_id"] for row in site.rows()[:2])
    before = site.built_at()
    site.judge(**{right.replace("-", "_"): "yes"})
    cohort = site.build(R_TWO, R_ONE)
    after = site.built_at()
    assert [name for name in before if after[name] != before[name]] == ["train-00000"]
    assert {one["lesion_id"] for one in site.links() if one["decision"] == "LINKED" and one["report_id"] == "R/2"} == {
        right
    }
    reviewed = cohort.findings.filter(np.array(cohort.findings["lesion_id"]) == right).to_pylist()
    assert "reviewed" in {term["term"] for term in reviewed[0]["link"]["evidence"]}
    row = next(row for row in site.rows() if row["lesion_id"] == right)
    assert (row["verdict"], row["why"], row["stale"]) == ("yes", "withheld", "")
    assert float(row["probability"]) == pytest.approx(0.5, abs=0.05)  # as it was before anybody said so
    assert wrong not in {row["lesion_id"] for row in site.rows()}  # nothing is left to ask there
    content = site.path.read_bytes()
    assert content.splitlines()[0].count(b";") == len(COLUMNS) - 1  # as its reader likes it
    pictures = {path: path.stat().st_mtime_ns for path in (site.path.parent / "review").iterdir()}
    site.build(R_TWO, R_ONE)
    assert site.built_at() == after
    assert site.path.read_bytes() == content
    assert {path: path.stat().st_mtime_ns for path in (site.path.parent / "review").iterdir()} == pictures


def test_no_forbids_the_pair(site: Site) -> None:
    first, second, sure = (row["lesion_id"] for row in site.rows())
    site.judge(**{name.replace("-", "_"): "wrong" for name in (first, sure)})
    site.build(R_TWO, R_ONE)
    assert {one["lesion_id"] for one in site.links() if one["decision"] == "LINKED"} <= {second}
    assert {row["lesion_id"] for row in site.rows() if row["verdict"] == "wrong"} == {first, sure}


def test_verdicts_of_pairs_that_are_gone_are_kept_and_come_back(site: Site) -> None:
    right = site.rows()[0]["lesion_id"]
    site.judge(**{right.replace("-", "_"): "yes"})
    judged = next(row for row in site.rows() if row["verdict"])
    site.build(R_ONE)
    kept = next(row for row in site.rows() if row["verdict"])
    assert kept == {**judged, "stale": "stale"}
    assert (site.path.parent / kept["picture"]).is_file()
    site.build(R_TWO, R_ONE)
    assert next(row for row in site.rows() if row["verdict"])["stale"] == ""
    assert right in {one["lesion_id"] for one in site.links() if one["decision"] == "LINKED"}


def test_that_no_verdict_counts_under_another_key_is_said(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    right = site.rows()[0]["lesion_id"]
    site.judge(**{right.replace("-", "_"): "yes"})
    assert "verdicts" not in site.build(R_TWO, R_ONE).summary()
    assert "none of the" not in caplog.text
    site.path.parent.parent.joinpath("log.txt").unlink()
    (site.root / "site.key").unlink()
    site.make_key(bytes(reversed(KEY)))
    cohort = site.build(R_TWO, R_ONE)
    assert cohort.run["counts"]["verdicts_lost"] == 1
    assert "none of the 1 verdicts" in cohort.summary()
    assert "none of the 1 verdicts in review.csv counts" in (cohort.path / "log.txt").read_text()


def test_a_finding_that_moved_keeps_its_verdict(site: Site) -> None:
    right = site.rows()[0]["lesion_id"]
    site.judge(**{right.replace("-", "_"): "yes"})
    old = next(row for row in site.rows() if row["verdict"])
    site.build(replace(R_TWO, text=f"INDICATION: Cough. {TWO}"), R_ONE)
    (row,) = [row for row in site.rows() if row["verdict"]]
    assert (row["lesion_id"], row["stale"]) == (right, "")
    assert row["finding_id"] != old["finding_id"]
    assert right in {one["lesion_id"] for one in site.links() if one["decision"] == "LINKED"}


class Meddling:
    """An extractor during whose work somebody judges a link."""

    name = "rules"

    def __init__(self, site: Site, **verdicts: str) -> None:
        self._site, self._verdicts = site, verdicts

    def extract(self, reports: Sequence[Report]) -> Sequence[Sequence[Finding]]:
        self._site.judge(**self._verdicts)
        return load_extractor("rules").extract(reports)


def test_what_is_judged_while_a_build_goes_on_is_kept(site: Site) -> None:
    right = site.rows()[0]["lesion_id"]
    site.build(R_TWO, R_ONE, extractor=Meddling(site, **{right.replace("-", "_"): "yes"}))
    assert {row["lesion_id"]: row["verdict"] for row in site.rows()}[right] == "yes"
    site.build(R_TWO, R_ONE)
    assert right in {one["lesion_id"] for one in site.links() if one["decision"] == "LINKED"}


def test_a_very_long_sentence_is_shown_around_its_phrase(site: Site) -> None:
    text = TWO.replace("FINDINGS: ", "FINDINGS: " + "and so on " * 200).replace(".", " and on" * 200 + ".")
    site.build(replace(R_TWO, text=text))
    row = site.rows()[0]
    assert "14 mm nodule" in row["sentence"]
    assert 600 < len(row["sentence"]) < 1300
    assert row["picture"]


def test_a_slice_that_is_not_there_costs_the_picture_only(site: Site) -> None:
    (candidate,) = [
        json.loads(one)
        for one in (site.path.parent / "shards" / "test-00000" / "review.jsonl").read_text().splitlines()
    ]
    lost = {**candidate, "image": {**candidate["image"], "sop_instance_uid": "1.2.3"}}
    (row,) = draw_reviews(site.path.parent, [lost], keep=(), on_each=lambda: None)
    assert (row["picture"], row["phrase"]) == ("", candidate["cells"]["phrase"])
    assert list((site.path.parent / "review").iterdir()) == []


def test_a_spoiled_file_stops_the_run_and_is_left_alone(site: Site) -> None:
    site.path.write_text("now what")
    with pytest.raises(ConfigError, match=r"review\.csv cannot be understood"):
        site.build(R_TWO, R_ONE)
    assert site.path.read_text() == "now what"
    assert json.loads((site.root / "out" / "run.json").read_text())["status"] == "failed: ConfigError"


@pytest.mark.parametrize(("limit", "whys"), [(0, None), (1, None), (2, ["withheld", "withheld"])])
def test_no_more_than_wanted_and_a_findings_lesions_together(site: Site, limit: int, whys: list[str] | None) -> None:
    shutil.rmtree(site.root / "out")
    site.build(R_TWO, review=limit)
    assert (None if not site.path.exists() else [row["why"] for row in site.rows()]) == whys


# ---- evidence in words, and sizes of before ------------------------------------------------------------------------


def test_the_summary_of_a_row_says_why_and_quotes_nothing(site: Site) -> None:
    (row,) = open_cohort(site.root / "out").findings.to_pylist()
    summary = row["link"]["summary"]
    assert summary
    said_words = set(re.findall(r"[a-z]{4,}", row["sentence"].lower()))
    assert said_words - set(re.findall(r"[a-z]{4,}", summary.lower())) >= {"mass", "lung"}
    (one_link,) = [one for one in site.links() if one["decision"] == "LINKED"]
    assert one_link["explanation"] == summary
    (withheld,) = [one for one in site.links() if one["decision"] == "AMBIGUOUS"]
    assert {rival["lesion_id"] for rival in withheld["rivals"]} == {r["lesion_id"] for r in site.rows()[:2]}
    assert all(rival["probability"] > 0.4 for rival in withheld["rivals"])
    assert withheld["explanation"]


def test_no_words_of_the_finding_reach_the_summary() -> None:
    words = replace(
        MASS, observation="quorvash", anatomy="telmund lobe", sizes=(Size((9.0,), (0.5,), (None,), (0, 4)),)
    )
    (answer, *_) = link([words], LESIONS[:1])
    assert answer.evidence
    line_ = explain(answer, words, LESIONS[0])
    assert not set(re.findall(r"[a-z]+", line_.lower())) & {"quorvash", "telmund", "lobe"}
    assert "\n" not in line_


def test_a_size_of_before_is_recorded_as_such_and_never_grounded(tmp_path: Path) -> None:
    """The prior study was drawn on, today's report quotes its size: evidence, an outcome, and no row."""
    person = patient_of("train")
    before = StudyInfo(person, accession_number="OLD", date="20230201")
    now = StudyInfo(person, accession_number="NEW", date="20240305")
    for study, length in ((before, 18.0), (now, 12.0)):
        ct, state = chest(study, 48, length=length)
        write([*ct, state], tmp_path / "pacs" / study.accession_number)
    site = Site(tmp_path)
    site.make_key()
    cohort = site.build(
        Report("r", "FINDINGS: A nodule of 5 mm, previously 18 mm. A 12 mm mass (2/9).", accession_numbers=("NEW",)),
        link=LinkConfig(linked=0.9),
    )
    (prior,) = [one for one in site.links() if one["decision"] == "PRIOR_LINKED"]
    assert prior["evidence"]["size"] > 0
    assert prior["explanation"]
    crosswalk = [json.loads(one) for one in (tmp_path / "out/private/crosswalk.jsonl").read_text().splitlines()]
    assert {"lesion", "study"} <= {one["kind"] for one in crosswalk}
    (report,) = read_rows(cohort, "reports")
    outcomes = {phrase["outcome"]: phrase for phrase in report["phrases"]}
    assert outcomes["PRIOR_LINKED"]["lesion_id"] == prior["lesion_id"]
    assert outcomes["PRIOR_LINKED"]["finding_id"] == prior["finding_id"]
    assert outcomes["LINKED"]["lesion_id"] != prior["lesion_id"]
    assert set(cohort.findings["lesion_id"].to_pylist()) == {outcomes["LINKED"]["lesion_id"]}
    (unsaid,) = read_rows(cohort, "unlinked")
    assert (unsaid["lesion_id"], unsaid["phrase"], unsaid["link"]) == (prior["lesion_id"], None, None)
    assert prior["lesion_id"] not in {row["lesion_id"] for row in site.rows()}


def read_rows(cohort: Cohort, folder: str) -> list[dict]:
    """Rows of one published folder, without voxels."""
    rows = []
    for path in sorted((cohort.dataset_path / "data" / folder).glob("*.parquet")):
        names = [name for name in pq.read_schema(path).names if name not in {"image", "mask", "preview"}]
        rows += pq.read_table(path, columns=names).to_pylist()
    return rows


# ---- refitting -----------------------------------------------------------------------------------------------------


def judged_cohort(folder: Path, *, right: int, wrong: int, first: int = 0) -> Path:
    """A folder like that of a build, with that many verdicts; of ten right pairs one has the other side."""
    rng = np.random.default_rng(first)
    rows = []
    for i in range(first, first + right + wrong):
        is_right = i - first < right
        drawn_mm = float(rng.uniform(8, 30))
        said_mm = round(drawn_mm + rng.normal(0, 0.3 if is_right else 4.0))
        features = {"written_mm": said_mm, "rounding_mm": 0.5, "drawn_mm": drawn_mm, "side": float(i % 10 != 0)}
        texts = {"verdict": "yes" if is_right else "no", "probability": "0,9", "report": f"report-{i // 3}"}
        rows.append(cells(str(i), **texts, features=json.dumps(features)))
    (folder / "private").mkdir(parents=True)
    (folder / "private" / "review.csv").write_bytes(saved(rows, delimiter=";"))
    start = asdict(LinkConfig(side_right=0.99))
    (folder / "run.json").write_text(json.dumps({"config": {"link": start}}))
    return folder


def test_the_join_is_refitted_and_the_table_is_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = judged_cohort(tmp_path / "one", right=60, wrong=12)
    two = judged_cohort(tmp_path / "two", right=20, wrong=5, first=1000)
    out = tmp_path / "link.toml"
    assert main(["fit-links", str(one), str(two), "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "97 verdicts: 80 right, 17 wrong" in printed
    assert re.search(r"side_right +0\.99 -> 0\.9[0-4]", printed)
    refit = refit_links([one, two])
    assert refit.before == LinkConfig(side_right=0.99)
    assert 0.88 < refit.after.side_right < 0.95
    assert BuildConfig.from_toml(out).link == refit.after
    assert refit_links([one, two], LinkConfig()).before == LinkConfig()
    assert main(["fit-links", str(one), "-o", str(out)]) == 0  # its own file may be written again


def test_a_cohort_given_twice_counts_once(tmp_path: Path) -> None:
    one = judged_cohort(tmp_path / "one", right=45, wrong=15)
    assert refit_links([one, one]) == refit_links([one])


@pytest.mark.parametrize(("right", "wrong"), [(30, 12), (60, 9), (9, 60)])
def test_too_few_verdicts_are_refused(tmp_path: Path, right: int, wrong: int) -> None:
    folder = judged_cohort(tmp_path / "one", right=right, wrong=wrong)
    with pytest.raises(ConfigError, match=rf"{right + wrong} verdicts .* \({right} right, {wrong} wrong\) are too few"):
        refit_links([folder])


def test_cohorts_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    one, two = (judged_cohort(tmp_path / name, right=45, wrong=15) for name in ("one", "two"))
    path = two / "private" / "review.csv"
    path.write_bytes(path.read_bytes().replace(b";no;", b";yes;", 1))
    with pytest.raises(ConfigError, match="cohorts 1 and 2 judge one pair differently"):
        refit_links([one, two])


def test_rows_that_a_spreadsheet_spoiled_are_left_out(tmp_path: Path) -> None:
    folder = judged_cohort(tmp_path / "one", right=45, wrong=15)
    path = folder / "private" / "review.csv"
    path.write_bytes(path.read_bytes().replace(b'"{""written_mm""', b'"{written', 1).replace(b"0,9", b"#######", 1))
    assert refit_links([folder]).right == 44


@pytest.mark.parametrize("content", ['engine = "classical"\n[link]\n', "no TOML at all"])
def test_another_configuration_is_never_overwritten(tmp_path: Path, content: str) -> None:
    folder = judged_cohort(tmp_path / "one", right=45, wrong=15)
    out = tmp_path / "cohort.toml"
    out.write_text(content)
    assert main(["fit-links", str(folder), "-o", str(out)]) == 2
    assert out.read_text() == content


def test_without_the_parameters_of_the_build_they_must_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = judged_cohort(tmp_path / "one", right=45, wrong=15)
    (folder / "run.json").write_text('{"config": {"link": {"of_another_version": 1}}}')
    assert main(["fit-links", str(folder), "-o", str(tmp_path / "link.toml")]) == 2
    assert "--config" in capsys.readouterr().err
    (tmp_path / "start.toml").write_text("[link]\nside_right = 0.9\n")
    start = str(tmp_path / "start.toml")
    assert main(["fit-links", str(folder), "-o", str(tmp_path / "link.toml"), "--config", start]) == 0
