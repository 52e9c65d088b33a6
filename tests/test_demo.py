"""The generated hospital: valid, the same for the same seed, believable, and true to what it says of itself."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
import subprocess
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.ndimage import distance_transform_edt

from cohort_builder.demo.hospital import Hospital, generate_hospital
from cohort_builder.demo.plan import Scenario, plan_patient
from cohort_builder.demo.reports import Style, write_report
from cohort_builder.demo.score import score_cohort
from cohort_builder.demo.score_links import count_links
from cohort_builder.demo.sights import compared
from cohort_builder.demo.simulate import SimulatedStudy, imagine_sights, score_links, simulate_studies
from cohort_builder.demo.truth import Truth, load_mask, load_truth
from cohort_builder.demo.words import dictate, with_article
from cohort_builder.errors import ConfigError

SEED, SLICES = 3, (20, 24)
DCIODVFY = Path(sysconfig.get_path("scripts")) / "dciodvfy"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """Two patients, the second with a prior study; made by two processes."""
    return generate_hospital(tmp_path_factory.mktemp("hospital"), patients=2, seed=SEED, slices=SLICES, workers=2)


@pytest.fixture(scope="module")
def truth(hospital: Hospital) -> Truth:
    return load_truth(hospital.truth)


@pytest.fixture(scope="module")
def rows(hospital: Hospital) -> dict[str, dict[str, str]]:
    with hospital.reports_csv.open(newline="", encoding="utf-8") as stream:
        return {row["report_id"]: row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def headers(hospital: Hospital) -> dict[str, tuple[Path, pydicom.Dataset]]:
    """SOP Instance UID to file and header of every DICOM file of the export."""
    found = {}
    for path in _files(hospital.pacs_export):
        if path.name not in {"README.TXT", ".DS_Store", "VERSION", "preview.jpg"}:
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            found[str(ds.SOPInstanceUID)] = path, ds
    return found


@pytest.fixture(scope="module")
def studies() -> list[SimulatedStudy]:
    return list(simulate_studies(60, seed=11))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digests(folder: Path, root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in _files(folder)}


# ---- the same for the same seed ------------------------------------------------------------------------------------


def test_a_patient_has_the_same_bytes_whatever_the_processes_and_the_other_patients(
    hospital: Hospital, tmp_path: Path
) -> None:
    calls: list[int] = []
    again = generate_hospital(tmp_path, patients=1, seed=SEED, slices=SLICES, workers=1, progress=calls.append)
    assert calls == [1]
    small, large = _digests(again.pacs_export, again.root), _digests(hospital.pacs_export, hospital.root)
    assert len(small) > SLICES[0]
    assert small.items() <= large.items()
    masks = _digests(again.truth / "masks", again.root)
    assert masks
    assert masks.items() <= _digests(hospital.truth / "masks", hospital.root).items()


def test_another_seed_makes_another_hospital() -> None:
    first, other = ([plan_patient(seed, i) for i in range(12)] for seed in (0, 1))
    assert first == [plan_patient(0, i) for i in range(12)]
    assert {plan.person.patient_id for plan in first}.isdisjoint(plan.person.patient_id for plan in other)


@pytest.mark.parametrize(("patients", "slices"), [(0, SLICES), (2, (10, 30)), (2, (40, 30)), (2, (30, 90))])
def test_impossible_hospitals_are_refused(tmp_path: Path, patients: int, slices: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"patients must|slices must"):
        generate_hospital(tmp_path, patients=patients, slices=slices)


def test_a_hospital_is_not_written_over_another(hospital: Hospital) -> None:
    with pytest.raises(ConfigError, match="already"):
        generate_hospital(hospital.root, patients=1)


# ---- the export ----------------------------------------------------------------------------------------------------


def test_the_export_is_valid_dicom(headers: dict[str, tuple[Path, pydicom.Dataset]]) -> None:
    """One CT image in four, every localizer and every presentation state, by an independent validator."""
    chosen = [
        path
        for path, ds in headers.values()
        if ds.Modality == "PR" or "LOCALIZER" in ds.ImageType or ds.InstanceNumber % 4 == 1
    ]
    kinds = Counter(headers[uid][1].Modality for uid in headers)
    assert kinds["PR"] >= 3
    assert kinds["CT"] >= 3 * SLICES[0]
    for path in chosen:
        done = subprocess.run([DCIODVFY, str(path)], capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        assert "CTImage" in output or "GrayscaleSoftcopyPresentationState" in output
        assert [line for line in output.splitlines() if line.startswith("Error")] == []


def test_the_export_looks_like_one(hospital: Hospital, headers: dict[str, tuple[Path, pydicom.Dataset]]) -> None:
    images = [ds for _, ds in headers.values() if ds.Modality == "CT"]
    axial = [ds for ds in images if "LOCALIZER" not in ds.ImageType]
    assert {ds.Rows for ds in axial} == {512}
    assert len({float(ds.PixelSpacing[0]) for ds in axial}) == 2
    assert len({ds.StudyInstanceUID for ds in images if "LOCALIZER" in ds.ImageType}) == 3
    assert any("PixelPaddingValue" in ds for ds in axial)
    assert {ds.PixelRepresentation for ds in axial} == {0, 1}
    assert all(ds.PatientID.startswith("0") for ds in images)
    assert not any("LOCALIZER" in ds.ImageType for ds in axial)
    # Sorted by file name, the slices are not in order.
    by_name = sorted((str(path), ds.InstanceNumber) for path, ds in headers.values() if ds in axial[:20])
    numbers = [number for _, number in by_name]
    assert numbers not in (sorted(numbers), sorted(numbers, reverse=True))
    assert len(_files(hospital.pacs_export)) == len(headers) + 4


def test_padding_lies_outside_the_round_field_of_view(headers: dict[str, tuple[Path, pydicom.Dataset]]) -> None:
    path = next(path for path, ds in headers.values() if "PixelPaddingValue" in ds and "AXIAL" in ds.ImageType)
    ds = pydicom.dcmread(path)
    stored = ds.pixel_array
    assert stored[0, 0] == ds.PixelPaddingValue == -2000
    hounsfield = stored[stored != ds.PixelPaddingValue].astype(int) + int(ds.RescaleIntercept)
    assert hounsfield.min() >= -1024
    assert -1010 < np.median(hounsfield[hounsfield < -900]) < -990


def test_nothing_of_the_truth_lies_in_the_export(hospital: Hospital, truth: Truth) -> None:
    words = [lesion["key"].encode() for lesion in truth.lesions] + [b"truth", b"phantom", b"lesion"]
    for path in _files(hospital.pacs_export):
        content = path.read_bytes().lower()
        assert not any(word in content for word in words), path.name
        assert path.suffix not in {".npz", ".json"}


# ---- the truth -----------------------------------------------------------------------------------------------------


def _section(folder: Path, lesion: dict, annotation: dict, headers: dict) -> np.ndarray:
    """(row, column) mask of the lesion on the annotation's image, padded; and the padding's offset."""
    series = [ds for _, ds in headers.values() if ds.SeriesInstanceUID == lesion["series_instance_uid"]]
    heights = sorted(float(ds.ImagePositionPatient[2]) for ds in series)
    image = headers[annotation["image_sop_instance_uid"]][1]
    voxels, offset = load_mask(folder, lesion)
    full = np.zeros((len(series), 512, 512), dtype=bool)
    s, r, c = offset
    full[s : s + voxels.shape[0], r : r + voxels.shape[1], c : c + voxels.shape[2]] = voxels
    return full[heights.index(float(image.ImagePositionPatient[2]))]


def test_strokes_end_near_the_rim_of_their_lesion(hospital: Hospital, truth: Truth, headers: dict) -> None:
    ratios = []
    for lesion in truth.lesions:
        for annotation in lesion["annotations"]:
            if not annotation["diameters_mm"]:
                continue
            section = _section(hospital.truth, lesion, annotation, headers)
            assert section.any()
            spacing = float(headers[annotation["image_sop_instance_uid"]][1].PixelSpacing[0])
            rim = section & ~np.pad(section, 1)[2:, 1:-1] | section & ~np.pad(section, 1)[:-2, 1:-1]
            rim |= section & ~np.pad(section, 1)[1:-1, 2:] | section & ~np.pad(section, 1)[1:-1, :-2]
            to_rim = distance_transform_edt(~rim) * spacing
            for column, row in annotation["points"]:
                inset = to_rim[int(row), int(column)]
                assert inset <= 0.2 * lesion["longest_diameter_mm"] + 1.5
            ratios.append(lesion["longest_diameter_mm"] / annotation["diameters_mm"][0])
    assert len(ratios) >= 8
    assert 1.05 < np.median(ratios) < 1.4


def test_presentation_states_hold_the_strokes_of_the_truth(truth: Truth, headers: dict) -> None:
    entries = [*truth.others, *(a for lesion in truth.lesions for a in lesion["annotations"])]
    for entry in entries:
        state = headers[entry["sop_instance_uid"]][1]
        item = state.GraphicAnnotationSequence[int(entry["item"].split(".")[0]) - 1]
        assert item.ReferencedImageSequence[0].ReferencedSOPInstanceUID == entry["image_sop_instance_uid"]
        drawn = [float(v) for graphic in item.get("GraphicObjectSequence", ()) for v in graphic.GraphicData]
        assert drawn[: 2 * len(entry["points"])] == [v for point in entry["points"] for v in point]
    assert {entry["reader"] for entry in entries if entry["usable"]} > {entries[-1]["reader"]}
    assert any(entry["resaved"] for entry in entries)


def test_spans_hold_what_is_said(truth: Truth, rows: dict[str, dict[str, str]]) -> None:
    checked = 0
    for finding in truth.findings:
        text = rows[finding["report_id"]]["text"]
        for mention in finding["mentions"]:
            for span, values in ((mention["size"], mention["values_mm"]), (mention["prior"], mention["prior_mm"])):
                if span is not None:
                    assert _millimetres(text[slice(*span)]) == pytest.approx(values)
                    assert mention["sentence"][0] <= span[0] < span[1] <= mention["sentence"][1]
                    checked += 1
    assert checked >= 10


def _millimetres(size: str) -> list[float]:
    """Read a size independently of the writer: a factor takes the next unit to its right."""
    found = re.findall(r"(\d+(?:\.\d+)?)[ -]?(mm|cm)?", size.lower())
    unit = ""
    values = []
    for number, own in reversed(found):
        unit = own or unit
        values.append(float(number) * (10 if unit == "cm" else 1))
    return values[::-1]


def test_sizes_are_those_of_a_stroke_rounded(truth: Truth) -> None:
    drawn = {lesion["key"]: [a["diameters_mm"] for a in lesion["annotations"]] for lesion in truth.lesions}
    compared_sizes = 0
    for finding in truth.findings:
        strokes = [diameters for diameters in drawn.get(finding["lesion"], ()) if diameters]
        for mention in finding["mentions"] if finding["drawn"] and strokes else ():
            if mention["values_mm"]:
                rounding = 5.01 if mention["values_mm"][0] % 10 == 0 else 0.51
                said = np.array(mention["values_mm"])
                assert any(
                    np.abs(np.array(diameters)[-len(said) :] - said).max() <= rounding
                    or np.abs(np.array(diameters)[: len(said)] - said).max() <= rounding
                    for diameters in strokes
                )
                compared_sizes += 1
    assert compared_sizes >= 5


def test_needles_name_everything_identifying(truth: Truth, headers: dict, rows: dict[str, dict[str, str]]) -> None:
    needles = set(truth.needles)
    for _, ds in headers.values():
        for keyword in ("PatientID", "AccessionNumber", "StudyID", "InstitutionName", "StudyDate", "PatientBirthDate"):
            assert str(ds.get(keyword)) in needles
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            assert str(ds[keyword].value) in needles
        assert str(ds.PatientName) in needles
    for row in rows.values():
        assert {row["report_id"], row["patient_id"], row["patient_name"], row["birth_date"]} <= needles


# ---- reports and their traps ---------------------------------------------------------------------------------------


def test_reports_join_as_in_daily_work(truth: Truth, rows: dict[str, dict[str, str]], headers: dict) -> None:
    accessions = {str(ds.AccessionNumber) for _, ds in headers.values()}
    joined = [set(row["accession_number"].split(";")) & accessions for row in rows.values()]
    assert sum(not found for found in joined) == 1, "one report without a study"
    assert accessions - set().union(*joined), "a study without a report"
    assert len(truth.studies) == 3
    scenarios = {plan_patient(0, index).scenario for index in range(12)}
    assert scenarios == set(Scenario)
    assert len(plan_patient(0, 4).exams) == 2


def test_report_ids_are_unique() -> None:
    ids = set()
    for index in range(40):
        plan = plan_patient(5, index)
        for exams in (plan.exams, *([[plan.prior]] if plan.prior else [])):
            sights = {k: v for exam in exams for k, v in imagine_sights(plan, exam).items()}
            ids.add(write_report(plan, exams, sights).report_id.split("-")[-1])
    assert len(ids) == 40 + sum(plan_patient(5, i).prior is not None for i in range(40))


@pytest.mark.parametrize(
    "trap",
    [
        r"\d mm\b",
        r"\d cm\b",
        r"(?i)previously \d",
        r"(?i)Previously [\d.]+(?: x [\d.]+)? [cm]m, the",
        r"(?i)(?:increased|decreased) from \d",
        r"(?i)cm from the hilum",
        r"(?i)no pleural effusion",
        r"\(series \d, image \d+\)",
        r"\(\d/\d+\)",
        r"nodules < 4 mm",
        r"(?i)short axis",
        r"(?i)\bT\d+ vertebral",
        r"(?i)Dr\. ",
        r"(?:Mrs?)\. ",
        r"(?i)compared to CT of",
        r"(?i)aorta measures 3\.4 cm",
        r"(?m)^1\. ",
        r"\d-[cm]m ",
        r"has resolved",
        r"(?i)slice thickness",
        r"IMPRESSION: [A-Z0-9 ,.;:/<()'-]+\.",
    ],
)
def test_traps_occur(studies: list[SimulatedStudy], trap: str) -> None:
    assert sum(bool(re.search(trap, study.report.text)) for study in studies) >= 2


def test_no_report_is_left_half_filled(studies: list[SimulatedStudy]) -> None:
    for study in studies:
        text = study.report.text
        assert text == text.strip()
        assert not re.search(r"[{}]|None\b(?! available)|  (?!\s*MRN)|\.\.| ,|\ba [aeio8]|\ban [bcdfg]", text), text


def test_lesions_of_nearly_equal_size_and_lesions_not_said_or_not_drawn(studies: list[SimulatedStudy]) -> None:
    alike = undrawn = unsaid = 0
    for study in studies:
        drawn = {lesion.lesion_id: lesion for lesion in study.lesions if lesion.reading == "CURRENT"}
        sizes = sorted(lesion.diameters_mm[0] for lesion in drawn.values() if lesion.diameters_mm)
        alike += any(b - a < 1.0 for a, b in itertools.pairwise(sizes))
        undrawn += bool(study.mentions.keys() - drawn.keys())
        unsaid += bool(drawn.keys() - study.mentions.keys())
    assert min(alike, undrawn, unsaid) >= 10


def test_all_styles_are_written() -> None:
    plans = [plan_patient(0, index) for index in range(5)]
    reports = [write_report(plan, plan.exams, _sights(plan)) for plan in plans]
    assert {report.style for report in reports} == set(Style)


def _sights(plan):
    return {key: sight for exam in plan.exams for key, sight in imagine_sights(plan, exam).items()}


def test_an_earlier_size_is_quoted_only_beside_an_earlier_examination() -> None:
    plan = next(p for p in (plan_patient(2, i) for i in range(50)) if p.scenario is Scenario.WITH_PRIOR)
    assert plan.prior is not None
    sights, day = compared(plan, _sights(plan), imagine_sights(plan, plan.prior))
    assert day == plan.prior.day < plan.exams[0].day
    assert any(sight.prior_mm for sight in sights.values())
    new = [sight for sight in sights.values() if not any(x.number == sight.lesion.number for x in plan.prior.lesions)]
    assert new
    assert all(sight.prior_mm == () for sight in new)
    alone = write_report(plan, [plan.prior], imagine_sights(plan, plan.prior))
    assert all(said.prior is None for said in alone.said)


@pytest.mark.parametrize(
    ("diameters", "unit", "text", "values"),
    [
        ((12.4,), "mm", "12 mm", (12.0,)),
        ((12.5,), "mm", "13 mm", (13.0,)),
        ((11.5,), "cm", "1.2 cm", (12.0,)),
        ((8.2, 12.4), "mm", "12 x 8 mm", (12.0, 8.0)),
        ((20.4, 8.9), "mixed", "2.0 x 0.9 cm", (20.0, 9.0)),
        ((9.4,), "mixed", "9 mm", (9.0,)),
        ((0.2,), "mm", "1 mm", (1.0,)),
    ],
)
def test_dictated_sizes(diameters: tuple[float, ...], unit, text: str, values: tuple[float, ...]) -> None:
    dictated = dictate(diameters, unit)
    assert (dictated.text, dictated.values_mm) == (text, values)


@pytest.mark.parametrize(
    ("phrase", "article"),
    [
        ("8 mm nodule", "an"),
        ("18 mm", "an"),
        ("1.8 cm", "a"),
        ("11 mm", "an"),
        ("enlarged node", "an"),
        ("80 mm", "an"),
    ],
)
def test_articles(phrase: str, article: str) -> None:
    assert with_article(phrase) == f"{article} {phrase}"


# ---- studies without pixels ----------------------------------------------------------------------------------------


def test_simulated_studies_depend_on_their_seed_only() -> None:
    assert list(simulate_studies(4, seed=9)) == list(simulate_studies(4, seed=9))
    assert next(simulate_studies(1, seed=9)) != next(simulate_studies(1, seed=10))


def test_simulated_truth_is_of_current_drawn_lesions(studies: list[SimulatedStudy]) -> None:
    for study in studies:
        current = {lesion.lesion_id: lesion for lesion in study.lesions if lesion.reading == "CURRENT"}
        assert study.truth.keys() <= current.keys()
        for key, (start, end) in study.truth.items():
            said = study.mentions[key][0]
            if said.size is not None:
                assert _millimetres(study.report.text[start:end]) == pytest.approx(said.values_mm)


def test_links_over_simulated_studies_are_scored() -> None:
    score = score_links(60, seed=4)
    assert score.linkable == score.withheld + round(score.recall * score.linkable)
    assert score.decisions["LINKED"] == score.right + score.wrong
    assert score.precision >= 0.97
    assert score.recall >= 0.5


# ---- the score -----------------------------------------------------------------------------------------------------


def _link(truth: Truth, finding: dict, mention: dict, lesion: dict | None = None, **changes: object) -> dict:
    """A line of private/links.jsonl that links a finding to a lesion (its own by default)."""
    lesion = lesion or next(x for x in truth.lesions if x["key"] == finding["lesion"])
    start, end = mention["size"] or mention["sentence"]
    strokes = [a for a in lesion["annotations"] if a["usable"] and not a["resaved"]]
    return {
        "finding_id": f"finding-{start}",
        "lesion_id": f"lesion-{lesion['key']}",
        "report_id": finding["report_id"],
        "start": start,
        "end": end,
        "values_mm": [mention["values_mm"]] if mention["values_mm"] else [],
        "annotations": [{"sop_instance_uid": a["sop_instance_uid"], "item": a["item"]} for a in strokes],
        "decision": "LINKED",
        "probability": 0.99,
        **changes,
    }


def _sized(truth: Truth) -> list[tuple[dict, dict]]:
    pairs = [(f, next((m for m in f["mentions"] if m["size"]), None)) for f in truth.findings if f["drawn"]]
    return [(finding, mention) for finding, mention in pairs if mention is not None]


def test_true_links_are_right_and_all_linkable_are_linked(truth: Truth) -> None:
    pairs = _sized(truth)
    counts = count_links([_link(truth, *pair) for pair in pairs], truth)
    assert (counts.right, counts.wrong, counts.withheld, counts.merged, counts.split) == (len(pairs), 0, 0, 0, 0)
    assert counts.recall == counts.precision == 1.0


def test_each_mistake_is_counted_as_what_it_is(truth: Truth) -> None:
    (finding, mention), (other, _), *_ = [
        pair for pair in _sized(truth) if pair[0]["report_id"] == _sized(truth)[0][0]["report_id"]
    ]
    own, wrong = (next(x for x in truth.lesions if x["key"] == f["lesion"]) for f in (finding, other))
    swapped = _link(truth, finding, mention, wrong)
    merged = _link(truth, finding, mention)
    merged["annotations"] = merged["annotations"] + swapped["annotations"]
    nowhere = _link(truth, finding, mention, start=0, end=3)
    other_size = _link(truth, finding, mention, values_mm=[[77.0]])
    on_nothing = _link(truth, finding, mention, annotations=[{"sop_instance_uid": "1.2.3", "item": "1.1"}])
    for line in (swapped, merged, nowhere, other_size, on_nothing):
        counts = count_links([line], truth)
        assert (counts.right, counts.wrong) == (0, 1)
        assert counts.withheld == counts.linkable == len(_sized(truth))
    assert count_links([merged], truth).merged == 1
    halves = [_link(truth, finding, mention, own, lesion_id=f"lesion-{i}") for i in range(2)]
    assert count_links(halves, truth).split == 1
    withheld = _link(truth, finding, mention, decision="AMBIGUOUS", annotations=[], lesion_id=None)
    counts = count_links([withheld], truth)
    assert (counts.right, counts.wrong, counts.decisions) == (0, 0, {"AMBIGUOUS": 1})


def test_a_cohort_is_scored_whole(hospital: Hospital, truth: Truth, tmp_path: Path) -> None:
    """True links and no masks published: counts, both engines on the same strokes, and a table that says so."""
    links = [_link(truth, *pair) for pair in _sized(truth)]
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "links.jsonl").write_text("".join(json.dumps(link) + "\n" for link in links))
    score = score_cohort(tmp_path, hospital.truth)
    assert score.links.precision == 1.0
    assert score.published.lesions == 0
    classical, ellipsoid = score.engines["line"]
    assert classical.lesions == ellipsoid.lesions >= 5
    assert classical.dice_above_baseline is not None
    assert classical.dice.mean > ellipsoid.dice.mean
    saved = json.loads(json.dumps(score.as_dict()))
    assert saved["links"]["wrong"] == 0
    assert saved["engines"]["line"]["classical"]["lesions"] == classical.lesions
    text = score.as_text()
    assert "classical" in text
    assert "wrong 0" in text
    assert not any(needle in text for needle in truth.needles if len(needle) > 4)


def test_a_cohort_without_its_private_links_is_refused(hospital: Hospital, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="private/links"):
        score_cohort(tmp_path, hospital.truth)


@pytest.mark.slow
def test_links_over_five_hundred_studies_are_right_in_99_of_100() -> None:
    score = score_links(500, seed=0)
    assert score.precision >= 0.99
    assert score.recall >= 0.6
