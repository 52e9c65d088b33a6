"""Keys, pseudonyms and scrubbed text: no identifier survives, and every measurement does."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort_builder.errors import ConfigError
from cohort_builder.privacy import scrub
from cohort_builder.privacy.pseudonyms import Key, OffsetMap, Pseudonyms, ScrubError, load_key, scrub_report, scrub_text
from nlp.sizes import find_sizes
from nlp.types import Report

# ---- key ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_key_is_made_once_in_the_configuration_folder(home: Path) -> None:
    first, second = load_key(), load_key()
    assert first.path == home / "config" / "cohort-builder" / "site.key"
    assert (first.created, second.created) == (True, False)
    assert first.secret == second.secret == first.path.read_bytes()
    assert len(first.secret) == 32
    assert (_mode(first.path), _mode(first.path.parent)) == (0o600, 0o700)
    assert [path.name for path in first.path.parent.iterdir()] == ["site.key"]


@pytest.mark.parametrize("value", [None, "", "relative/folder"])
def test_key_without_xdg(home: Path, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME") if value is None else monkeypatch.setenv("XDG_CONFIG_HOME", value)
    assert load_key().path == home / ".config" / "cohort-builder" / "site.key"


def test_key_where_the_site_wants_it(tmp_path: Path) -> None:
    made = load_key(tmp_path / "our.key")
    assert made.created
    assert _mode(tmp_path / "our.key") == 0o600
    assert load_key(str(tmp_path / "our.key")) == Key(made.secret, made.path, created=False)


def test_two_sites_have_two_keys(tmp_path: Path) -> None:
    assert load_key(tmp_path / "a").secret != load_key(tmp_path / "b").secret


def test_racing_first_runs_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda _: load_key(tmp_path / "site.key"), range(64)))
    assert len({key.secret for key in keys}) == 1
    assert sum(key.created for key in keys) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["site.key"]


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_key_of_wrong_length(tmp_path: Path, length: int) -> None:
    (tmp_path / "k").write_bytes(b"k" * length)
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(ConfigError, match=f"holds {length} bytes"):
        load_key(tmp_path / "k")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o777])
def test_key_that_others_may_use(tmp_path: Path, mode: int) -> None:
    load_key(tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(tmp_path / "k")


def test_key_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a regular file"):
        load_key(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="not a regular file"):
        load_key(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="does not exist"):
        load_key(tmp_path / "unmounted" / "site.key")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="does not exist"):
        load_key(tmp_path / "file" / "site.key")


def test_key_shows_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = load_key(tmp_path / "k")
    shown = f"{key!r} {key} {Pseudonyms(key)!r} {caplog.text}"
    assert repr(key.secret) not in shown
    assert key.secret.hex() not in shown
    bad = b"Sesame, open! This is the secret"[:31]
    (tmp_path / "bad").write_bytes(bad)
    (tmp_path / "bad").chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_key(tmp_path / "bad")
    assert "Sesame" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        Key(bad)
    assert "Sesame" not in str(caught.value)


# ---- pseudonyms -----------------------------------------------------------------------------------------------------

NAMES = Pseudonyms(bytes(range(32)))


def test_pseudonyms_never_change() -> None:
    """Golden values: a change here renames every patient of every site and moves them between splits."""
    assert NAMES.pseudonym("patient", "0042") == "patient-jtosxmapulr2y3lc"
    assert NAMES.pseudonym("study", "1.2.840.1") == "study-7m5byaublbgmuqxd"
    assert NAMES.pseudonym("patient", "Müller") == "patient-mpk2r7pj2fxxjvdg"
    assert NAMES.unit("roi", "0042") == 0.8821813672650155
    assert NAMES.rng("roi", "0042").integers(0, 2**32) == 2005387808
    assert [NAMES.split_of(str(patient)) for patient in range(5, 9)] == ["train", "validation", "test", "train"]


def test_pseudonym_is_told_apart_by_kind_value_and_key() -> None:
    others = [NAMES.pseudonym("study", "0042"), NAMES.pseudonym("patient", "42"), NAMES.pseudonym("patient0", "042")]
    others.append(Pseudonyms(bytes(32)).pseudonym("patient", "0042"))
    codes = {name.split("-")[1] for name in [*others, NAMES.pseudonym("patient", "0042")]}
    assert len(codes) == 5
    assert all(len(code) == 16 and code.isalnum() and code.islower() for code in codes)


@given(st.text(alphabet=st.characters(), max_size=30), st.text(max_size=10))
def test_any_value_has_a_pseudonym(value: str, kind: str) -> None:
    assert NAMES.pseudonym(kind, value) == NAMES.pseudonym(kind, value)
    assert 0 <= NAMES.unit(kind, value) < 1


def test_lone_surrogate_has_a_pseudonym() -> None:
    assert NAMES.pseudonym("patient", "\udce4") != NAMES.pseudonym("patient", "?")


def test_unit_is_uniform_and_splits_are_80_10_10() -> None:
    values = [NAMES.unit("x", str(i)) for i in range(20_000)]
    tenths = [
        sum(low <= value < low + 0.1 for value in values) for low in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    ]
    assert max(abs(count - 2000) for count in tenths) < 200  # 4.7 standard deviations
    splits = [NAMES.split_of(str(i)) for i in range(20_000)]
    for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert splits.count(name) / 20_000 == pytest.approx(share, abs=0.015)
    for i in range(200):
        position = NAMES.split_key(str(i))
        assert splits[i] == ("train" if position < 0.8 else "validation" if position < 0.9 else "test")


def test_streams_of_random_numbers_are_apart() -> None:
    first, again, other = NAMES.rng("roi", "a"), NAMES.rng("roi", "a"), NAMES.rng("roi", "b")
    drawn = first.random(4).tolist()
    assert drawn == again.random(4).tolist()
    assert drawn != other.random(4).tolist()


def test_key_travels_to_worker_processes() -> None:
    key = Key(bytes(32))
    assert Pseudonyms(pickle.loads(pickle.dumps(key))).unit("a", "b") == Pseudonyms(key).unit("a", "b")


def test_pseudonyms_refuse_a_short_key() -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        Pseudonyms(b"short")


def test_import_is_light() -> None:
    code = "import sys; import cohort_builder.privacy.pseudonyms, cohort_builder.scope.joining, cohort_builder.audit.search; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pyarrow", "highdicom", "spacy", "datasets", "nibabel"} & set(loaded)


# ---- offsets --------------------------------------------------------------------------------------------------------


@st.composite
def offset_maps(draw: st.DrawFn) -> tuple[str, str, OffsetMap]:
    """Two texts and their map: letters are kept, stretches of digits became tags."""
    original = scrubbed = ""
    segments = []
    for kept, removed, tag in draw(
        st.lists(
            st.tuples(
                st.text("abc", max_size=4),
                st.text("0123", min_size=1, max_size=4),
                st.sampled_from(["[ID]", "[NAME]", "*"]),
            )
        )
    ):
        original, scrubbed = original + kept, scrubbed + kept
        segments.append((len(scrubbed), len(scrubbed) + len(tag), len(original), len(original) + len(removed)))
        original, scrubbed = original + removed, scrubbed + tag
    tail = draw(st.text("abc", max_size=4))
    return original + tail, scrubbed + tail, OffsetMap(tuple(segments))


@given(offset_maps(), st.data())
def test_offsets_hold_what_was_kept_and_whole_stretches(case: tuple[str, str, OffsetMap], data: st.DataObject) -> None:
    original, scrubbed, offsets = case
    for there, back, source, target in (
        (offsets.to_original, offsets.to_scrubbed, scrubbed, original),
        (offsets.to_scrubbed, offsets.to_original, original, scrubbed),
    ):
        start = data.draw(st.integers(0, len(source)))
        end = data.draw(st.integers(start, len(source)))
        # A second implementation: character by character, through the owner of each.
        owner = _owners(offsets, source is scrubbed, len(source))
        mine = set(owner[start:end])
        mapped = there((start, end))
        assert 0 <= mapped[0] <= mapped[1] <= len(target)
        target_owner = _owners(offsets, source is not scrubbed, len(target))
        if mine:
            covered = [index for index, who in enumerate(target_owner) if who in mine]
            assert mapped == (covered[0], covered[-1] + 1)
            again = back(mapped)
            assert again[0] <= start
            assert end <= again[1]
        else:
            inside = 0 < start < len(owner) and owner[start - 1] == owner[start]
            stretch = [index for index, who in enumerate(target_owner) if inside and who == owner[start]]
            expected = (stretch[0], stretch[-1] + 1) if inside else (len(set(owner[:start])),) * 2
            assert (mapped if inside else tuple(len(set(target_owner[:index])) for index in mapped)) == expected


def _owners(offsets: OffsetMap, scrubbed: bool, length: int) -> list[tuple[str, int]]:
    """Who stands at each character: the n-th kept character, or the n-th replaced stretch."""
    owners: list[tuple[str, int]] = []
    kept = 0
    for number, segment in enumerate(offsets.segments):
        start, end = segment[:2] if scrubbed else segment[2:]
        while len(owners) < start:
            owners.append(("kept", kept))
            kept += 1
        owners += [("stretch", number)] * (end - start)
    while len(owners) < length:
        owners.append(("kept", kept))
        kept += 1
    return owners


@given(offset_maps())
def test_offsets_survive_json(case: tuple[str, str, OffsetMap]) -> None:
    assert OffsetMap.from_lists(json.loads(json.dumps(case[2].as_lists()))) == case[2]


def test_empty_spans_map_to_points() -> None:
    offsets = scrub_text("on 03/04/2021 a", []).offsets  # "on [DATE] a"
    assert [offsets.to_original((i, i)) for i in (0, 3, 9, 11)] == [(0, 0), (3, 3), (13, 13), (15, 15)]
    assert offsets.to_original((5, 5)) == (3, 13)
    assert offsets.to_original((8, 10)) == (3, 14)


@pytest.mark.parametrize(
    "segments",
    [((0, 6, 0, 0),), ((0, 0, 0, 4),), ((2, 8, 3, 5),), ((0, 6, 0, 4), (5, 11, 5, 8)), ((4, 8, 4, 8), (0, 2, 0, 2))],
)
def test_impossible_offsets(segments: tuple[tuple[int, int, int, int], ...]) -> None:
    with pytest.raises(ValueError, match=r"segments must|text between"):
        OffsetMap(segments)


def test_impossible_spans() -> None:
    with pytest.raises(ValueError, match="a span is 0"):
        OffsetMap().to_original((3, 2))


# ---- scrubbing ------------------------------------------------------------------------------------------------------

SMITH = ["SMITH^JOHN^A", "00734591", "ACC-0098765", "19561204", "Lakeside General Hospital", "OKAFOR^CHIDI^^Dr"]
YOUNG = ["YOUNG^BROWN", "HILAR^LONG"]
LONG = ["LONG^ANNA"]
MUELLER = ["MÜLLER-LÜDENSCHEIDT^JÜRGEN", "O'BRIEN^SEÁN", "MCDONALD^RÓISÍN", "VAN DYKE^LI"]


@pytest.mark.parametrize(
    ("identifiers", "text", "expected"),
    [
        # the patient, in any spelling
        (SMITH, "SMITH^JOHN^A has a 12 mm nodule", "[NAME] has a 12 mm nodule"),
        (SMITH, "Smith, John: nodule", "[NAME]: nodule"),
        (SMITH, "John A. Smith", "[NAME]"),
        (SMITH, "john smith and J. Smith", "[NAME] and [NAME]"),
        (SMITH, "MR SMITH, Mrs. Smith", "MR [NAME], Mrs. [NAME]"),
        (SMITH, "Smith's nodule; the smiths", "[NAME] nodule; the smiths"),
        (SMITH, "John\nSmith", "[NAME]"),
        (SMITH, "John\n   Smith", "[NAME]"),
        (SMITH, "JohnSmith; johnsmith; JOHN_SMITH", "[NAME]; [NAME]; [NAME]"),
        (SMITH, "Ｓｍｉｔｈ Sm\u00adith", "[NAME]"),
        (SMITH, "John Quincy Smith", "[NAME]"),
        (SMITH, "smith has a nodule", "[NAME] has a nodule"),
        (SMITH, "Mr. Smith. A 12 mm nodule", "Mr. [NAME]. A 12 mm nodule"),
        (SMITH, "seen with Okafor; Chidi Okafor agrees", "seen with [NAME]; [NAME] agrees"),
        (MUELLER, "Jürgen Müller; Mueller; MULLER; Ju\u0308rgen", "[NAME]; [NAME]; [NAME]; [NAME]"),
        (MUELLER, "Müller-Lüdenscheidt; Mueller Luedenscheidt", "[NAME]; [NAME]"),
        (MUELLER, "O'Brien, O’Brien's, Obrien; Sean OBRIEN", "[NAME]; [NAME]"),
        (MUELLER, "McDonald; Mc Donald; mcdonald", "[NAME]; Mc [NAME]; [NAME]"),
        (MUELLER, "Van Dyke; VANDYKE; Li; L. van Dyke", "[NAME]; [NAME]; [NAME]; [NAME]"),
        # ordinary words
        (YOUNG, "a young patient with brown fat, hilar node", "a young patient with brown fat, hilar node"),
        (YOUNG, "Young has hilar nodes", "[NAME] has hilar nodes"),
        (YOUNG, "mr young; brown young", "mr [NAME]; [NAME]"),
        (LONG, "A long segment along the longest axis", "A long segment along the longest axis"),
        (LONG, "a long stricture, Anna Long, Mrs. Long", "a long stricture, [NAME], Mrs. [NAME]"),
        # ids
        (SMITH, "MRN 00734591, 734591, 734-591, 0734 591", "MRN [ID], [ID], [ID], [ID]"),
        (SMITH, "acc 98765, ACC0098765, 0098765", "[ID], [ID], [ID]"),
        (["4821"], "patient 4821, image 4821, 4821 HU", "patient [ID], image 4821, 4821 HU"),
        (["42"], "patient ID 42, MRN: 42, 42 mm (4/42)", "patient ID [ID], MRN: [ID], 42 mm (4/42)"),
        (["1.2.826.0.1"], "uid 1.2.826.0.1", "uid [UID]"),
        (["someone@x"], "someone@x", "[EMAIL]"),
        ([], "MRN: 12345 phone 555-123-4567", "MRN: [ID] phone [PHONE]"),
        ([], "SSN 123-45-6789, case CT21-004567", "SSN [ID], case [ID]"),
        ([], "order 20210099, NHS 943 476 5919", "order [ID], NHS [PHONE]"),
        # dates
        (
            [],
            "03/04/2021 2021-03-04 4 March 2021; March 4, 2021; 04.03.21; Mar 2021; 20210304",
            "[DATE] [DATE] [DATE]; [DATE]; [DATE]; [DATE]; [DATE]",
        ),
        ([], "2021-03-04T10:45:00; 3/4/21 at 10:45 AM; at 10:45 on 3/4/21.", "[DATE]; [DATE]; at [DATE]."),
        ([], "4th of March, 4. März 2021, March '21, Thursday, 4 Mar 2021", "[DATE], [DATE], [DATE], [DATE]"),
        (
            [],
            "compared to 3/4, CT of 03/21, since 12/19, on 28/4",
            "compared to [DATE], CT of [DATE], since [DATE], on [DATE]",
        ),
        ([], "in March, since May; 03/2021", "in [DATE], since [DATE]; [DATE]"),
        ([], "DOB: 04.12.1956, born in 1956", "DOB: [DATE], born in [DATE]"),
        # people nobody told us of
        ([], "Dr. Jones, Drs. Lee and Chan, Prof Karl von Braun agree", "Dr. [NAME], Drs. [NAME], Prof [NAME] agree"),
        ([], "Electronically signed by: Mary Jones, MD", "Electronically signed by: [NAME], MD"),
        ([], "dictated by mjones; Dictated by: mjones", "dictated by mjones; Dictated by: [NAME]"),
        ([], "Read by M. Jones and K. Chan.", "Read by [NAME]."),
        ([], "Findings were discussed with Maria Lopez by phone", "Findings were discussed with [NAME] by phone"),
        ([], "Referring physician: LOPEZ, MARIA\nFindings: none", "Referring physician: [NAME]\nFindings: none"),
        ([], "Mary Jones, M.D. and Karl Chan MD", "[NAME], M.D. and [NAME] MD"),
        ([], "discussed with the team; read by CT radiologist", "discussed with the team; read by CT radiologist"),
        ([], "DR JONES REVIEWED A 12 MM NODULE", "DR [NAME] REVIEWED A 12 MM NODULE"),
        ([], "Dr.Jones and Prof. Dr. med. Karl Chan", "Dr.[NAME] and Prof. Dr. med. [NAME]"),
        ([], "Drs. Jones, Lee and Chan", "Drs. [NAME] and Chan"),
        ([], "Radiologist Mary Jones; Nurse Maria Lopez, NP", "Radiologist [NAME]; Nurse [NAME], NP"),
        (
            [],
            "Signed: Mary Jones\nDear Karl,\nKind regards, Karl Chan",
            "Signed: [NAME]\nDear [NAME],\nKind regards, [NAME]",
        ),
        (
            [],
            "Thank you for referring Maria Lopez. I, Mary Jones, agree",
            "Thank you for referring [NAME]. I, [NAME], agree",
        ),
        ([], "Patient Maria Lopez; Patient Position Supine", "Patient [NAME]; Patient Position Supine"),
        ([], "his wife, Anna Lopez, and daughter (Eva)", "his wife, [NAME], and daughter ([NAME])"),
        ([], "Next of kin: Eva Lopez; mother Anna", "Next of kin: [NAME]; mother [NAME]"),
        ([], "from Mercy Hospital, 12 Elm Street, IL 62704", "from [NAME], [NAME], [ID]"),
        # what the record does not know of a name, beside what it does
        (SMITH, "near Johnny Smith and his son, Peter Smith", "near [NAME] and his son, [NAME]"),
        (SMITH, "Smith-Jones has; JSMITH; smithj; S M I T H", "[NAME] has; [NAME]; [NAME]; [NAME]"),
        (SMITH, "Smi-\nth and Okafor-\nSmith", "[NAME] and [NAME]"),
        (["山田^太郎", "王^小明"], "患者山田太郎は; 太郎 山田; 王小明", "患者[NAME]は; [NAME]; [NAME]"),
        (["OKONKWO^ADA"], "the Okonkwos; xokonkwo2; MRSOKONKWO", "the [NAME]; [NAME]2; [NAME]"),
        # dates, less usual
        ([], "03 / 04 / 2021; 3 4 2021; 3⁄4⁄2021; 4.III.2021; Mar-4", "[DATE]; [DATE]; [DATE]; [DATE]; [DATE]"),
        ([], "4 mars 2021, 4 de marzo de 2021, 1er avril 2021", "[DATE], [DATE], [DATE]"),
        ([], "the fourth of March, March fourth, b. 1956", "the [DATE], [DATE], b. [DATE]"),
        ([], "aged ninety-two, a nonagenarian", "aged [AGE], a [AGE]"),
        # the rest
        ([], "call (555) 123-4567, +49 89 1234 5678, ext. 4455", "call [PHONE], [PHONE], ext. [PHONE]"),
        ([], "a.b@clinic.org, https://pacs.x/y?z, www.clinic.org", "[EMAIL], [URL], [URL]"),
        ([], "series 1.3.6.1.4.1.14519.5.2.1.6279", "series [UID]"),
        ([], "92-year-old, aged 90, 101 y/o, (93F), 095Y", "[AGE]-year-old, aged [AGE], [AGE] y/o, ([AGE]F), [AGE]Y"),
        ([], "ninety-two-year-old; 89-year-old", "[AGE]-year-old; 89-year-old"),
        (SMITH, "at Lakeside Hospital, LAKESIDE GENERAL HOSPITAL", "at [NAME], [NAME]"),
    ],
)
def test_scrubbed(identifiers: list[str], text: str, expected: str) -> None:
    assert scrub_text(text, identifiers).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "12 x 8 mm, 1.2 cm, 3.0 × 2.1 × 4 cm, 1.2x0.8cm, .8 cm, 8-9 mm, 12-mm",
        "(series 3, image 41), (4/87), (3-201), [4:87], (Se:4, Im:87), images 87-89, images 100-1200, series/image 4/87",
        "T12, L4/5, L4-L5, C5/6, S1, segment 7, segments 5/6, 5/6/8, ribs 9/10/11, No. 4 station, station 4R",
        "35 HU, -12 HU, SUV 5.2, SUVmax 12.3, BI-RADS 4, Lung-RADS 4B, PI-RADS 5, Bosniak IIF, TNM T2N1M0, grade 2/6",
        "follow-up in 6-12 months, in 3 months, 2 years, over 10 years, since 2019, 2019 to 2021, 10-year survival",
        "1 1/2 cm cyst, 2/3 of the lumen, 3/12 nodes positive, loss of 1/2 the height, 4 of 12",
        "DLP 450 mGy-cm, CTDIvol 12 mGy, BP 120/80 mm Hg, 512 x 512, 512 x1024, 125256 voxels, 1234567 mm3",
        "A 56-year-old man. Stage IIIA. Segment 4 may represent focal fat. SEGMENT 4 MAY REPRESENT FAT.",
        "dec 12 mm, mar 12 mm; MR angiography, MR ABDOMEN, DR chest, MS plaques; the ED physician",
        "in this case no 4 mm nodule; patient no 3 cm mass; record number of nodules",
        "12 mm nodule (4/28) and 7 mm (03/21), seen on 4/87",
        "Sister Mary Joseph nodule. Mother with breast cancer. MOTHER HAD BREAST CANCER. Twin gestation; son of cousins.",
        "The nodule may first have been seen; may second; MAY-THURNER; the patient Compared; 3 - 4 - 5",
        "Signed out. Surgeon aware. Physician notified. Referring clinic. Dictated and signed. Kind of mass. Dear colleague,",
        "Chest PA and lateral; T1 T2 FLAIR; A B C D nodes; a b c d; S1 S2 S3; 5 of 12; 12 Fr; right-\nsided, left-\nlower",
        "Morison's pouch, Kerley B lines, Hodgkin lymphoma, Couinaud segment, McBurney",
    ],
)
@pytest.mark.parametrize("identifiers", [[], SMITH, LONG])
def test_medicine_is_left_alone(text: str, identifiers: list[str]) -> None:
    scrubbed = scrub_text(text, identifiers)
    assert scrubbed.text == text
    assert scrubbed.offsets == OffsetMap()
    assert not scrubbed.removed


def test_removed_is_counted() -> None:
    scrubbed = scrub_text("Dr. Jones and Dr. Chan, 03/04/2021", [])
    assert dict(scrubbed.removed) == {"NAME": 2, "DATE": 1}


FAMILIES = ["Okonkwo", "Smith", "Müller", "O'Brien", "Smith-Jones", "Van Dyke", "Young", "Lee", "Łukasz", "DeLaCruz"]
GIVENS = ["Adaeze", "John", "Jürgen", "Mary Ann", "Li", "Rose", "Zoë"]
HEADERS = ["{F}^{G}^^", "{F}^{G}", "{F}, {G}", "{G} {F}", "{f}^{g}^A^Dr"]
RENDERINGS = [
    "{F}, {G}", "{G} {F}", "{g} {f}", "{FU} {GU}", "{FU}^{GU}", "{I}. {F}", "{F} {I}", "{F}, {I}.", "Mr. {F}", "MRS {FU}",
    "{G}\n{F}", "{F}'s", "{F}’s", "{G}  {F}", "{FU},{GU}", "{F}_{G}", "{F}={G}", "({F})", "{F};", "Name: {F}", "{GU} A. {FU}",
]  # fmt: skip
SIZES = ["12 x 8 mm", "1.2 cm", "3.0 × 2.1 × 4 cm", "8-9 mm", "up to 7 mm", "45 x 32 (previously 40 x 30) mm"]


@settings(max_examples=300)
@given(
    family=st.sampled_from(FAMILIES),
    given_name=st.sampled_from(GIVENS),
    header=st.sampled_from(HEADERS),
    rendering=st.sampled_from(RENDERINGS),
    size=st.sampled_from(SIZES),
)
def test_no_name_survives(family: str, given_name: str, header: str, rendering: str, size: str) -> None:
    forms = {
        "F": family, "G": given_name, "f": family.lower(), "g": given_name.lower(),
        "FU": family.upper(), "GU": given_name.upper(), "I": given_name[0],
    }  # fmt: skip
    text = f"The patient {rendering.format(**forms)} has a nodule of {size} (4/87)."
    scrubbed = scrub_text(text, [header.format(**forms)]).text
    for part in (family, *given_name.split()):
        assert part.lower() not in scrubbed.lower().replace("[name]", "")
    assert scrubbed.endswith(f" has a nodule of {size} (4/87).")


@settings(max_examples=200)
@given(
    number=st.text("0123456789", min_size=5, max_size=12).filter(lambda digits: len(digits.lstrip("0")) >= 5),
    prefix=st.sampled_from(["", "ACC", "MRN-", "CT "]),
    rendering=st.sampled_from(["{}", "0{}", "00{}", "{}-", "#{}", "patient {}", "({})", "ID{}"]),
    split=st.integers(0, 12),
    separator=st.sampled_from(["", " ", "-", "/"]),
    cut=st.booleans(),
)
def test_no_number_survives(*, number: str, prefix: str, rendering: str, split: int, separator: str, cut: bool) -> None:
    written = number.lstrip("0") if cut else number
    if 0 < split < len(written):
        written = written[:split] + separator + written[split:]
    text = f"Study of {rendering.format(written)} shows 12 mm nodule"
    scrubbed = scrub_text(text, [prefix + number]).text
    assert scrubbed.endswith(" shows 12 mm nodule")
    assert not any(character.isdigit() for character in scrubbed.removesuffix("12 mm nodule"))


SENTENCES = st.lists(
    st.one_of(
        st.sampled_from(
            ["12 mm nodule (4/87)", "Mass 3.0 × 2.1 × 4 cm", "measured 9 mm on 03/04/2021", "Dr. Jones agrees", "No. 4 station node 9 mm",
             "Previously 9 mm, the nodule is now 12 mm", "John Smith", "MRN 00734591", "seen in March 2021", "a 92-year-old", "8-9 mm",
             "series 3, image 41", "signed by Mary Jones, MD", "call 555-123-4567", "[NAME]", "\n\nIMPRESSION:\n", "May 4", "Smith"]
        ),
        st.text(max_size=8),
    ),
    max_size=8,
).map(" ".join)  # fmt: skip


@settings(max_examples=300)
@given(SENTENCES)
def test_scrubbed_text_is_finished_and_mapped(text: str) -> None:
    scrubbed = scrub_text(text, SMITH)
    again = scrub_text(scrubbed.text, SMITH)
    assert again.text == scrubbed.text
    read = 0
    for segment in scrubbed.offsets.segments:
        start, end, original_start, original_end = segment
        assert scrubbed.text[read:start] == text[original_start - (start - read) : original_start]
        assert scrubbed.offsets.to_original((start, end)) == (original_start, original_end)
        assert scrubbed.offsets.to_scrubbed((original_start, original_end)) == (start, end)
        read = end
    assert scrubbed.text[read:] == text[len(text) - (len(scrubbed.text) - read) :]
    assert "Smith" not in scrubbed.text


@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            [*SIZES, "nodule", "lesion", "in the liver.", "(4/87)", "No. 4", "L4/5", "and", "mass", "35 HU"]
        ),
        max_size=10,
    ).map(" ".join)
)
def test_sizes_survive(text: str) -> None:
    before = [size.values_mm for size in find_sizes(text)]
    after = [size.values_mm for size in find_sizes(scrub_text(text, SMITH).text)]
    assert before == after


def test_report_is_scrubbed_with_its_own_row() -> None:
    report = Report(
        "r1",
        "Ms Okonkwo (A-77812, 5550199) 12 mm, seen 1.2.826.0.1",
        ("A-77812",),
        ("1.2.826.0.1",),
        "5550199",
        identifiers=("OKONKWO^ADA",),
    )
    scrubbed, offsets = scrub_report(report, ["SMITH^JOHN"])
    assert scrubbed.text == "Ms [NAME] ([ID], [ID]) 12 mm, seen [UID]"
    assert scrubbed.identifiers == ()
    assert (scrubbed.report_id, scrubbed.accession_numbers, scrubbed.patient_id) == ("r1", ("A-77812",), "5550199")
    assert report.text[slice(*offsets.to_original((3, 9)))] == "Okonkwo"


@pytest.mark.parametrize("key", ["77-8812", "778812", "778812^RIS", "DiagnosticReport/778812", "RIS|778812"])
def test_what_versions_share_may_be_an_order_number(key: str) -> None:
    scrubbed, _ = scrub_report(Report("r1", "Order 778812 / 77-8812: 12 mm", version_key=key))
    assert not any(number in scrubbed.text for number in ("778812", "77-8812"))
    assert "12 mm" in scrubbed.text


def test_scrubbing_fails_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(scrub, "find_generic", broken)
    with pytest.raises(ScrubError) as caught:
        scrub_report(Report("r1", "John Smith"), SMITH)
    assert "Smith" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_text_that_never_settles_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        scrub,
        "find_generic",
        lambda text: [(*letter.span(), scrub.Tag.ID) for letter in re.finditer("[a-z]", text)][:1],
    )
    with pytest.raises(ScrubError, match="not used"):
        scrub_report(Report("r1", "abcdefghijkl"), [])
