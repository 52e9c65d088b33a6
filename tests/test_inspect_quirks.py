"""An export of many writers, habits and defects, and what an inspection makes of it; nobody can be told from it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import median_low

import numpy as np
import pytest
from dicom import Patient, StudyInfo, Text, arrow, ct_series, gsps, line, localizer, on, uid, write
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from cohort_builder import BuildConfig, ConfigError, Inspection, inspect_export
from cohort_builder.cli import main
from cohort_builder.inspect.drawings import median_of
from cohort_builder.inspect.writers import OTHER_MAKER, WITHHELD, WriterNames
from nlp.types import Report

HEVC = UID("1.2.840.10008.1.2.4.107")
SECRETS = ("Zelnikova", "Quorvash", "Brundlefly", "MRN0815471", "ACC99177", "19610304", "Sankt Wunibald", "Xylander")
WHO = Patient(name="Zelnikova^Quorvash", patient_id="MRN0815471", birth_date="19610304")


def study(number: int, who: Patient | None = None) -> StudyInfo:
    return StudyInfo(patient=who or Patient(), accession_number=f"ACC{number:04d}", study_id=f"ST{number}")


def drawn_by(manufacturer, model, version, ct, lines, *, number=1, text=None):
    """A presentation state with one line a slice, in a writer's name; ``text`` writes the number beside a length."""
    items = []
    for i, (start, end) in enumerate(lines):
        drawings = [line(start, end)]
        if text is not None:
            mm = float(np.hypot((end[0] - start[0]) * 0.7, (end[1] - start[1]) * 0.8))
            drawings.append(Text(text(mm), anchor=end))
        items.append(on(ct[i % len(ct)], *drawings))
    state = gsps(items, number=number)
    state.Manufacturer, state.ManufacturerModelName, state.SoftwareVersions = manufacturer, model, version
    return state


def lines_of(n, habit, seed=0):
    rng = np.random.default_rng(seed)
    starts = rng.integers(8, 20, (n, 2)).astype(float)
    ends = starts + rng.integers(10, 30, (n, 2))
    if habit == "half":
        starts, ends = starts + 0.5, ends + 0.5
    if habit == "sub_pixel":
        starts, ends = starts + rng.random((n, 2)), ends + rng.random((n, 2))
    if habit == "mixed":
        ends[: n // 2] += 0.5
    return [(tuple(map(float, a)), tuple(map(float, b))) for a, b in zip(starts, ends, strict=True)]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five writers of annotations and seven CT series, most of them with a defect."""
    root = tmp_path_factory.mktemp("quirks") / "pacs"
    first = ct_series(12, study=study(1))
    tenth = lambda mm: f"{mm:.1f} mm"  # noqa: E731
    states = [
        drawn_by("Philips", "Whole", "2.1", first, lines_of(12, "whole"), number=1, text=tenth),
        drawn_by(
            "Philips", "Half", "2.2", first, lines_of(12, "half", 1), number=2, text=lambda mm: f"{mm / 2:.1f} mm"
        ),
        drawn_by("Philips", "Fine", "2.3", first, lines_of(60, "sub_pixel", 2), number=3),
        drawn_by("Philips", "Mixed", "2.4", first, lines_of(30, "mixed", 3), number=4),
        drawn_by("Philips", "Rare", "2.5", first, lines_of(2, "whole", 4), number=5),
    ]
    write([*first, *states], root / "one")
    gap = ct_series(
        9, study=study(2), number=3, positions=[(-22.0, -25.0, 2.5 * i) for i in (0, 1, 2, 3, 5, 6, 7, 8, 9)]
    )
    twice = [ds for n in (1, 2) for ds in ct_series(4, study=study(2), number=4, acquisition_number=n)]
    write([*gap, *twice, localizer(study=study(2))], root / "two")
    tilted = ct_series(6, study=study(3), number=5, positions=[(-22.0, -25.0 + 0.9 * i, 2.5 * i) for i in range(6)])
    packed = ct_series(3, study=study(3), number=6)
    for ds in packed:
        ds.PixelData = encapsulate([b"\0" * 64])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = HEVC
    coronal = ct_series(5, study=study(3), number=7, orientation=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    write([*tilted, *packed, *coronal], root / "three")
    return root


@pytest.fixture(scope="module")
def found(pacs: Path) -> Inspection:
    return inspect_export(pacs, estimate=False, progress=False)


def test_the_habit_of_every_writer_is_told(found: Inspection) -> None:
    habits = {one.writer: one for one in found.habits}
    assert {name.split()[1]: one.verdict for name, one in habits.items()} == {
        "Whole": "whole",
        "Half": "half",
        "Fine": "sub_pixel",
        "Mixed": "mixed",
        "Rare": "too_few",
    }
    whole = habits["Philips Whole 2.1"]
    assert (whole.coordinates, whole.whole, whole.half, whole.histogram[0]) == (48, 48, 0, 48)
    assert habits["Philips Half 2.2"].histogram[10] == 48
    assert sum(habits["Philips Fine 2.3"].histogram) == 240
    assert "pixel_origin" in found.summary()


def test_numbers_of_another_scale_are_told_from_those_that_fit(found: Inspection) -> None:
    texts = {one.writer.split()[1]: one for one in found.texts}
    assert texts.keys() == {"Whole", "Half"}
    assert (texts["Whole"].verdict, texts["Whole"].beyond, texts["Whole"].numbers) == ("agrees", 0, 12)
    assert texts["Half"].verdict == "scaled"
    assert texts["Half"].median_ratio == pytest.approx(0.5, abs=0.01)
    assert texts["Half"].beyond == 12 == sum(texts["Half"].histogram)
    assert found.skips["locate"]["text_disagrees"] == 12  # counted here, although nothing of them is used


def test_ct_series_are_told_by_their_geometry(found: Inspection) -> None:
    assert sum(found.ct.verdicts.values()) == found.ct.counts["series"] == found.export["ct_series"]
    assert found.ct.verdicts["one_volume"] >= 3
    assert found.ct.verdicts["several_volumes"] == 2  # the two acquisitions, and the parts beside the gap
    assert found.ct.left_out["localizer"] == 1
    assert found.ct.left_out["irregular_spacing"] == 1
    assert all(found.ct.details[reason] for reason in found.ct.left_out)
    assert found.ct.planes["coronal"] == 1
    assert sum(found.ct.planes.values()) == sum(found.ct.slices.values()) == found.ct.counts["volumes"]
    assert found.ct.counts["images_in_volumes"] <= found.ct.counts["images"]


def test_a_transfer_syntax_without_a_decoder_is_told_with_what_to_install(found: Inspection) -> None:
    (missing,) = (one for one in found.syntaxes if one.decoder is False)
    assert (missing.name, missing.images, missing.series) == (HEVC.name, 3, 1)
    assert "pip install 'cohort-builder[codecs]'" in found.summary()
    assert {one.decoder for one in found.syntaxes} == {None, False}


def test_annotations_add_up(found: Inspection) -> None:
    lost = found.skips.get("annotations", {}).get("superseded", 0) + sum(found.skips["locate"].values())
    assert found.strokes["read"] == 116 == found.strokes["used"] + lost
    assert "another reason" not in found.summary()
    assert sum(found.prompts.values()) == found.lesions["drawn"] == found.lesions["without_report"]


def test_processes_and_order_change_nothing(pacs: Path, found: Inspection) -> None:
    again = inspect_export(pacs, config=BuildConfig(workers=2), estimate=False, progress=False)
    assert again.as_dict() == found.as_dict()


def test_a_sample_says_so_and_is_the_same_again(tmp_path: Path) -> None:
    for i in range(6):
        ct = ct_series(4, study=study(i, Patient(name=f"P{i}^A", patient_id=f"ID-{i:03d}")))
        write([*ct, gsps([on(ct[1], *arrow((10.0, 30.0), (30.0, 30.0)))] * (i + 1))], tmp_path / str(i))
    one, same = (inspect_export(tmp_path, sample=2, seed=3, estimate=False, progress=False) for _ in range(2))
    assert one.as_dict() == same.as_dict()
    assert one.sample is not None
    assert (one.sample.patients, one.sample.of, one.ct.counts["series"], one.export["patients"]) == (2, 6, 2, 6)
    for said in (one.summary(), one.html()):
        assert "2 of 6 patients were read (seed 3)" in said
    everybody = inspect_export(tmp_path, sample=6, estimate=False, progress=False)
    assert everybody.sample is None
    assert everybody.ct.counts["series"] == 6
    with pytest.raises(ConfigError, match="sample"):
        inspect_export(tmp_path, sample=0, progress=False)


def test_an_engine_that_lacks_its_weights_leaves_its_time_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COHORT_WEIGHTS", raising=False)
    ct = ct_series(4)
    write([*ct, gsps([on(ct[1], line((10.0, 30.0), (30.0, 30.0)))])], tmp_path / "pacs")
    found = inspect_export(tmp_path / "pacs", segmenter="sam2ct", progress=False)
    assert found.estimate is not None
    assert (found.estimate.seconds, found.estimate.tried) == (None, 0)
    assert found.estimate.not_tried
    assert 0 < found.estimate.disk_bytes[0] < found.estimate.disk_bytes[1]
    assert "could not be tried" in found.summary()
    assert found.prompts == {"LINE": 1}


def test_the_estimate_grows_with_the_export(tmp_path: Path) -> None:
    """Of patients like each other, three times as many take three times as much of what goes by lesions."""
    guesses = []
    for n in (1, 3):
        for i in range(n):
            ct = ct_series(4, study=study(i, Patient(name=f"P{i}^A", patient_id=f"ID-{i:03d}")))
            write([*ct, gsps([on(ct[1], line((10.0, 30.0), (30.0, 30.0)))])], tmp_path / str(n) / str(i))
        guess = inspect_export(tmp_path / str(n), progress=False).estimate
        assert guess is not None
        guesses.append({part.name: part.amount for part in guess.parts})
    for name in ("drawings and links", "reading CT", "segmentation", "checks and writing"):
        assert guesses[1][name] == pytest.approx(3 * guesses[0][name])


# ---- nobody is named ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """Identifiers in every text of a header that comes near the page."""
    root = tmp_path_factory.mktemp("planted")
    info = replace(study(7, WHO), accession_number="ACC99177")
    ct = ct_series(6, study=info)
    fields = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "StationName", "SeriesDescription",
              "ProtocolName", "StudyDescription", "DeviceSerialNumber", "ConvolutionKernel", "BodyPartExamined")  # fmt: skip
    for i, ds in enumerate(ct):
        ds.InstitutionName = "Sankt Wunibald"
        for field in fields:
            setattr(ds, field, SECRETS[i].upper() if field == "BodyPartExamined" else SECRETS[i])
        ds.Manufacturer = f"{SECRETS[i]} Works"
        ds.SeriesInstanceUID = uid("planted", i // 2)
    other = ct_series(4, study=study(8))
    for ds in other[:2]:
        ds.Manufacturer = "Philips Imaging"
    lesion = on(other[1], line((10.0, 30.0), (30.0, 30.0)), Text("14.0 mm Xylander MRN0815471", anchor=(31.0, 30.0)))
    state = gsps([lesion], layer="XYLANDER", layer_description="Zelnikova Quorvash", creator="Xylander^Otto")
    state.ContentLabel = "XYLANDER"
    state.ContentDescription = "Zelnikova"
    state.ManufacturerModelName = "Xylander"  # who reported is an identifier, too
    state.SoftwareVersions = ["1.0", "ZELNIKOVA.12"]
    item = state.GraphicAnnotationSequence[0].GraphicObjectSequence[0]
    item.add_new(0x00620020, "UT", "Brundlefly lesion")
    ct[0].ReferringPhysicianName = "Brundlefly^Seth"
    write([*ct, *other, state], root / "pacs")
    reports = [Report("Quorvash-1", "FINDINGS: A 14 mm nodule. Seen by Xylander.", accession_numbers=("ACC0008",))]
    return inspect_export(root / "pacs", reports, estimate=False, progress=False)


@pytest.mark.parametrize("output", ["text", "json", "html"])
def test_no_output_names_anybody(planted: Inspection, output: str) -> None:
    said = {
        "text": planted.summary,
        "json": lambda: json.dumps(planted.as_dict()),
        "html": planted.html,
    }[output]().casefold()
    squeezed = re.sub(r"[^a-z0-9]", "", said)
    for secret in SECRETS:
        for word in secret.casefold().split():
            assert word not in said
            assert word not in squeezed
    assert "philips imaging" in said  # the writers that are no names are named
    assert "acme" not in said


def test_withheld_texts_are_counted_and_their_writers_kept_apart(planted: Inspection) -> None:
    assert planted.writers_withheld > 5
    assert f"{planted.writers_withheld} text(s) of headers are withheld" in planted.summary()
    assert any(one.manufacturer == OTHER_MAKER for one in planted.writers)
    labels = [one.writer for one in planted.habits]
    assert len(labels) == len(set(labels))


@given(
    st.lists(st.text(alphabet="abcdeXYZ019 .-_^", min_size=1, max_size=20), min_size=1, max_size=6),
    st.lists(st.text(alphabet="abcdeXYZ019 .-^", min_size=2, max_size=12), max_size=6),
)
def test_what_is_shown_shares_no_word_with_an_identifier(texts: list[str], identifiers: list[str]) -> None:
    writers = [(one, two, three) for one, two, three in zip(texts, texts[::-1], texts, strict=True)]
    names = WriterNames(writers, identifiers)
    taken = {word for one in identifiers for word in re.findall(r"[a-z0-9]{3,}", one.casefold())}
    for writer in writers:
        shown = [part for part in names.parts(writer) if part not in {WITHHELD, OTHER_MAKER}]
        assert not taken & {word for part in shown for word in re.findall(r"[a-z0-9]{3,}", part.casefold())}
        assert set(" ".join(shown)) <= {*" ".join(texts), ",", " "}
    assert len({names.label(writer) for writer in writers}) == len(set(writers))


@pytest.mark.parametrize(
    ("writer", "shown"),
    [
        (("GE MEDICAL SYSTEMS", "Revolution CT", "revo_ct.21b"), ("GE MEDICAL SYSTEMS", "Revolution CT", WITHHELD)),
        (
            ("SIEMENS", "SOMATOM Definition AS+", "syngo CT VA48A"),
            ("SIEMENS", "SOMATOM Definition AS+", "syngo CT VA48A"),
        ),
        (("Philips", "iCT 256", "4.1\\5.0"), ("Philips", "iCT 256", "4.1, 5.0")),
        (("Anna 0812 3456 77", "x@y", "20240305"), (OTHER_MAKER, WITHHELD, WITHHELD)),
        (("A" * 60, "1.2.840.10008.1.2.4", "Dr Quorvash"), (OTHER_MAKER, WITHHELD, WITHHELD)),
        (("", "", ""), ("", "", "")),
        (("", "Erika", "1.0"), ("", WITHHELD, WITHHELD)),
        (("Dr Hofmann Praxis", "CT 1", "1.0"), (OTHER_MAKER, WITHHELD, WITHHELD)),
        (("Klinikum Neustadt", "", "1.0"), (OTHER_MAKER, "", WITHHELD)),
        (("Ge Li", "Revolution", "2020.0609"), (OTHER_MAKER, WITHHELD, WITHHELD)),
        (("Medical Systems", "CT 1", ""), (OTHER_MAKER, WITHHELD, "")),
        (("TOSHIBA_MEC", "Aquilion ONE", "V4.51"), ("TOSHIBA_MEC", "Aquilion ONE", "V4.51")),
        (("SIEMENS", "Praxis Dr. Hofmann", "2020.0609"), ("SIEMENS", WITHHELD, WITHHELD)),
    ],
)
def test_device_names_are_shown_and_what_looks_like_no_such_name_is_not(writer, shown) -> None:
    assert WriterNames([writer], ["Philips^Jan", "Muster^Erika"]).parts(writer) == shown


def test_a_vendor_is_shown_and_a_patient_of_its_name_is_not() -> None:
    names = WriterNames([("Philips", "Jan Philips", "1.0")], ["Philips^Jan"])
    assert names.parts(("Philips", "Jan Philips", "1.0")) == ("Philips", WITHHELD, "1.0")


@given(st.dictionaries(st.integers(-50, 50).map(float), st.integers(1, 5), min_size=1))
def test_the_median_of_counts_is_that_of_the_values(counts: dict[float, int]) -> None:
    assert median_of(counts) == median_low([value for value, n in counts.items() for _ in range(n)])


# ---- the page ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page is made of; raises where a tag is not closed in order."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})
    ALONE = frozenset({"line", "rect", "path"})  # of an SVG, closed by themselves

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in self.ALONE | self.VOID
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(found: Inspection) -> None:
    content = found.html()
    page = Page()
    page.feed(content)
    page.close()
    assert page.open == []
    names = [name for name, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(names)
    for forbidden in ("http:", "https:", "url(", "@import", "src="):
        assert forbidden not in content
    ids = {given["id"] for _, given in page.tags if "id" in given}
    targets = {given["href"] for _, given in page.tags if "href" in given}
    assert targets
    assert targets <= {f"#{name}" for name in ids}


def test_the_page_can_be_read_by_those_who_do_not_see_it(found: Inspection) -> None:
    page = Page()
    page.feed(found.html())
    assert ("html", {"lang": "en"}) in page.tags
    plots = [given for name, given in page.tags if name == "svg"]
    assert len(plots) >= 5 + 2 + 3  # habits, texts, distributions
    assert all(given["role"] == "img" and given["aria-label"] for given in plots)
    assert sum(name == "table" for name, _ in page.tags) == sum(name == "caption" for name, _ in page.tags) > 5
    assert any("pixels: 0: 48" in str(given["aria-label"]) for given in plots)


def test_bars_are_as_high_as_their_counts(found: Inspection) -> None:
    content = found.html()
    plot = next(part for part in content.split("<svg") if 'aria-label="Philips Fine 2.3' in part)
    heights = [float(value) for value in re.findall(r'<rect class="bar"[^>]* height="([0-9.]+)"', plot)]
    counts = next(one for one in found.habits if one.writer == "Philips Fine 2.3").histogram
    scale = heights[int(np.argmax(counts))] / max(counts)
    assert heights == pytest.approx([scale * n for n in counts], abs=0.06)


def test_the_command_writes_page_and_counts(
    pacs: Path, found: Inspection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "export.html"
    arguments = ["inspect", str(pacs), "--html", str(page), "--no-estimate", "-q"]
    assert main([*arguments, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found.as_dict()))
    assert page.read_text() == found.html()
    assert not (Path.cwd() / "-").exists()
    assert main([*arguments, "--sample", "1", "--seed", "2"]) == 0
    assert "A sample: 1 of" not in capsys.readouterr().out  # one patient is all there is


@pytest.mark.parametrize("option", ["--html", "--json"])
def test_where_the_page_goes_is_checked_before_anything_is_read(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for where in (tmp_path / "no" / "such.html", tmp_path):
        assert main(["inspect", str(tmp_path / "nowhere"), option, str(where), "-q"]) == 2
        assert "cannot be written" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "nowhere"), option, str(tmp_path / "such.html"), "-q"]) == 1
