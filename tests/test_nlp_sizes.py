"""Lengths and image references: sentences that carry their own answer.

``<size mm=12,8 r=0.5 kind=LESION prior q=APPROXIMATE axis=SHORT>12 x 8 mm</size>`` marks a length: ``mm`` in millimetres,
longest first; ``r`` the roundings (one for all, default 0.5); kind LESION, current and no qualifier by default.
``<image series=4 first=87 last=89>...</image>`` marks an image reference.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp import Axis, Qualifier, SizeKind, Temporality, find_image_references, find_sizes
from nlp.types import Size

_TAG = re.compile(r"<(?P<tag>size|image)(?P<attributes>[^>]*)>(?P<inner>.*?)</(?P=tag)>")

# The pattern table of the project's research: 85 sentences.
TABLE = [
    "<size mm=12>12 mm</size> nodule in the right upper lobe",
    "<size mm=12>12mm</size> nodule",
    "A <size mm=12>12-mm</size> nodule",
    "<size mm=12>1.2 cm</size> nodule",
    "<size mm=12 r=0.05>1.20 cm</size> nodule",
    "<size mm=12.4 r=0.05>12.4 mm</size> nodule",
    "Mass of <size mm=30 r=5>3 cm</size>",
    "Knoten <size mm=12>1,2 cm</size>",
    "<size mm=12,8>12 x 8 mm</size> nodule",
    "<size mm=12,8>1.2x0.8cm</size> lesion",
    "<size mm=12,8>1.2 cm x 8 mm</size> lesion",
    "<size mm=12,8>8 x 12 mm</size> lesion",
    "Lesion measuring <size mm=40,30 r=5>3 by 4 cm</size>",
    "Mass <size mm=40,30,21 r=5,0.5,0.5 axis=CC,AP,TR>3.0 × 2.1 × 4 cm</size> (AP x TR x CC)",
    "Cyst <size mm=24,21,18 axis=CC,AP,TR>2.1 cm AP x 1.8 cm TR x 2.4 cm CC</size>",
    "Lesion measures <size mm=45,32>45 x 32</size> (previously <size mm=40,30 prior>40 x 30</size>) mm",
    "<size mm=2>Two millimeter</size> calculus",
    "<size mm=15 r=2.5>1 1/2 cm</size> cyst",
    "<size mm=8>.8 cm</size> nodule",
    "Nodule of <size mm=9,8 q=RANGE>8-9 mm</size>",
    "Nodule of <size mm=9,8 q=RANGE>8–9 mm</size>",
    "Nodule <size mm=7,5 q=RANGE>0.5 to 0.7 cm</size>",
    "Nodules measuring <size mm=5>5</size> and <size mm=7>7 mm</size>",
    "Nodules measuring <size mm=4>4</size>, <size mm=6>6</size>, and <size mm=9>9 mm</size>",
    "Scattered nodules up to <size mm=8 q=UP_TO>8 mm</size>",
    "Approximately <size mm=8 q=APPROXIMATE>8 mm</size> nodule",
    "Mass at least <size mm=60 r=5 q=AT_LEAST>6 cm</size>",
    "<size mm=5 kind=THRESHOLD q=LESS_THAN>Sub-5 mm</size> nodules",
    "<size mm=10 r=5 kind=THRESHOLD q=LESS_THAN>Subcentimeter</size> nodes",
    "Multiple nodules <<size mm=4 kind=THRESHOLD q=LESS_THAN>4 mm</size>",
    "No nodule larger than <size mm=4 kind=THRESHOLD q=GREATER_THAN>4 mm</size>",
    "Nodes less than <size mm=10 r=5 kind=THRESHOLD q=LESS_THAN axis=SHORT>1 cm</size> in short axis",
    "Follow-up for nodules ≥ <size mm=6 kind=THRESHOLD q=AT_LEAST>6 mm</size> per guideline",
    "Increased in size by <size mm=3 kind=THRESHOLD>3 mm</size>",
    "<size mm=9 axis=SHORT>9 mm</size> left hilar node in short axis",
    "Node <size mm=23,11>2.3 x 1.1 cm</size>, short axis <size mm=11 axis=SHORT>1.1 cm</size>",
    "Previously <size mm=9 prior>9 mm</size>, the nodule is now <size mm=12>12 mm</size>",
    "Nodule <size mm=12>12 mm</size> (previously <size mm=9 prior>9 mm</size>)",
    "Nodule has grown from <size mm=9 prior>9</size> to <size mm=12>12 mm</size>",
    "Nodule decreased to <size mm=12>12 mm</size> from <size mm=15 prior>1.5 cm</size>",
    "Mass <size mm=12,8>1.2 x 0.8 cm</size>, prior <size mm=10,7 prior>1.0 x 0.7 cm</size>",
    "Nodule <size mm=12>12 mm</size> compared to <size mm=9 prior>9 mm</size>",
    "Measured <size mm=9 prior>9 mm</size> on 03/04/2021",
    "Nodule unchanged at <size mm=7>7 mm</size>",
    "Previously seen <size mm=9 prior>9 mm</size> nodule has resolved",
    "<size mm=9 prior>9 mm</size> → <size mm=12>12 mm</size> nodule",
    "<size mm=12>12 mm</size> nodule (<image series=4 first=87>series 4, image 87</image>)",
    "<size mm=12>12 mm</size> nodule <image series=4 first=87>(4/87)</image>",
    "<size mm=12>12 mm</size> nodule (<image series=4 first=87>Im 87 Se 4</image>)",
    "<size mm=12>12 mm</size> nodule (<image series=4 first=87>Se:4, Im:87</image>)",
    "<size mm=12>12 mm</size> nodule (<image series=4 first=87>image 87 of series 4</image>)",
    "<size mm=12>12 mm</size> nodule <image series=3 first=201>(3-201)</image>",
    "<size mm=12>12 mm</size> nodule <image series=4 first=87>[4:87]</image>",
    "<size mm=12>12 mm</size> nodule, <image series=4 first=87>series/image 4/87</image>",
    "<size mm=12>12 mm</size> nodule on axial <image first=102>image 102</image>",
    "<size mm=12>12 mm</size> nodule (<image series=4 first=87 last=89>series 4, images 87-89</image>)",
    (
        "<size mm=12>12 mm</size> <image series=4 first=87>(4/87)</image> and <size mm=7>7 mm</size> "
        "<image series=4 first=91>(4/91)</image> nodules"
    ),
    "SUV 5.2 in the right hilum",
    "Density 35 HU, 10% washout",
    "DLP 450 mGy-cm, CTDIvol 12 mGy",
    "Opening pressure 20 cm H2O, BP 120/80 mm Hg",
    "T12 compression, 40% height loss, segment 7",
    "Exam date 12/03/2019 at 10:45",
    "Collection of 30 mL, spleen volume 250 cc",
    "Volume 4.3 cm3 and area 2.1 cm²",
    "Axial <size mm=3 kind=TECHNIQUE>3 mm</size> slices were obtained",
    "<size mm=1.25 r=0.005 kind=TECHNIQUE>1.25 mm</size> reconstructions",
    "ET tube <size mm=20 r=5 kind=DISTANCE>2 cm</size> above the carina",
    "Nodule lies <size mm=4 kind=DISTANCE>4 mm</size> from the pleura",
    "Midline shift of <size mm=4 kind=DISTANCE>4 mm</size>",
    "Mass <size mm=50 r=5 kind=DISTANCE>5 cm</size> from the anal verge",
    "<size mm=8 kind=DEVICE>8 mm</size> biliary stent in place",
    "10 French drain, <size mm=5 kind=DEVICE>5 mm</size> surgical clip",
    "Ascending aorta measures <size mm=39 kind=NORMAL_STRUCTURE>3.9 cm</size>",
    "Common bile duct <size mm=7 kind=NORMAL_STRUCTURE>7 mm</size>",
    "Abdominal aortic aneurysm of <size mm=48>4.8 cm</size>",
    "Mass measures <size mm=4,3 kind=OTHER>4 x 3</size>",
    "Increased from <size mm=9 prior>9 mm</size> to <size mm=12>12 mm</size>",
    "Nodule <size mm=12>12 mm</size>, <size mm=9 prior>9 mm</size> on prior",
    "1. <size mm=12>12 mm</size> nodule",
    "HEPATIC CYST <size mm=15>1.5 CM</size>",
    "T2 hyperintense <size mm=6>6 mm</size> focus",
    "No. 4 station node <size mm=9>9 mm</size>",
    (
        "Stable <size mm=8>8 mm</size> (<image series=3 first=45>S3 I45</image>) and new <size mm=6>6 mm</size> "
        "(<image series=3 first=50>S3 I50</image>) nodules"
    ),
    "<size mm=40 r=5 kind=OTHER>4 cm</size> long stricture",
]

# Daily work beyond the table, written for this test.
BEYOND = [
    "In the previous examination the nodule, which measured <size mm=9 prior>9 mm</size>, now measures <size mm=12>12 mm</size>.",
    "The <size mm=14>14 mm</size> node was not seen in the previous examination.",
    "The nodule seen on the previous examination measures <size mm=12>12 mm</size> today.",
    "Nodule <size mm=12>12 mm</size>, unchanged compared to the previous examination.",
    "On PET CT it was <size mm=18 prior>18 mm</size>.",
    "The mass regressed from <size mm=51 prior>5.1 cm</size> to <size mm=42>4.2 cm</size>.",
    (
        "Right <size mm=12>12 mm</size> (previously <size mm=9 prior>9 mm</size>) and left <size mm=8>8 mm</size> "
        "(previously <size mm=7 prior>7 mm</size>) adrenal nodules."
    ),
    "Nodes of <size mm=31>31mm</size>, <size mm=25>25</size>, and <size mm=24>24mm</size>.",
    "Lymph nodes not exceeding <size mm=7 kind=THRESHOLD q=LESS_THAN>7 mm</size>.",
    "Diameter of <size mm=41 kind=NORMAL_STRUCTURE>41 mm</size> in the ascending aorta.",
    "Spleen is enlarged (<size mm=150 r=5 kind=NORMAL_STRUCTURE>15 cm</size>).",
    "Pleural effusion with a depth of <size mm=23>23 mm</size>.",
    "Nodule of <size mm=6>6 m</size> in diameter, follow-up in 6 m.",
    "Lesion of <size mm=30,20 r=5>3 x 2 cm2</size>.",
    "1-2 millimetric nodules in the left lung.",
    "Nodules ranging from <size mm=8,3 q=RANGE>3 to 8 mm</size>.",
    "Cysts between <size mm=9,5 q=RANGE>5 and 9 mm</size>.",
    "Nodule in segment 2 and <size mm=3>3 mm</size> cyst in segment 7.",
    "Two nodules, <size mm=5>5 mm</size> each, control in 6 to 12 months.",
    "Appendix <size mm=9 kind=NORMAL_STRUCTURE>9 mm</size> with a <size mm=4>4 mm</size> appendicolith.",
    "Kidney cyst <size mm=14>14 mm</size>. Right kidney <size mm=102 kind=NORMAL_STRUCTURE>10.2 cm</size>.",
    "A <size mm=30 r=5>3 cm</size> mass located <size mm=20 r=5 kind=DISTANCE>2 cm</size> from the anal verge.",
    "Cyst of <size mm=15>1.5 cm</size>. in the liver",
    "<size mm=4>0.4cm</size> nodule (<image series=3 first=44>se 3/im 44</image>).",
    "Nodule <size mm=12>12 mm</size> (<image series=3 first=162>Se:3 Im:162/343</image>).",
    "Ten nodules up to <size mm=9 q=UP_TO>9 mm</size> (<image first=41>images 41 and 44</image>).",
    "IMPRESSION: <size mm=12>12 MM</size> NODULE RUL.",
    "INDICATION: Follow-up of a <size mm=9 prior>9 mm</size> nodule. FINDINGS: Nodule <size mm=12>12 mm</size>.",
    "TECHNIQUE: Helical acquisition, <size mm=1 kind=TECHNIQUE>1 mm</size>. FINDINGS: Normal.",
    # What a de-identifier leaves behind is opaque, and a date is still a date.
    "The nodule measured <size mm=9 prior>9 mm</size> on [DATE].",
    "Nodule now <size mm=12>12 mm</size> (<size mm=9 prior>9 mm</size> on [DATE]).",
    "On [DATE] the lesion measured <size mm=23 prior>23 mm</size>; it now measures <size mm=31>31 mm</size>.",
    "Compared to [DATE], the <size mm=12>12 mm</size> nodule is unchanged.",
    "Dr. [NAME] ([ID]) measured a <size mm=12>12 mm</size> nodule.",
    "CT of [DATE]: <size mm=9 prior>9 mm</size>. Today <size mm=12>12 mm</size>.",
    # Image references in other dress.
    "Nodule <size mm=12>12 mm</size> (<image series=3 first=45>image 3-45</image>).",
    "Nodule <size mm=12>12 mm</size>, <image series=3 first=145>img 3-145</image>.",
    "Nodule <size mm=12>12 mm</size> (<image first=40 last=45>image 40-45</image>).",
    "Nodule <size mm=12>12 mm</size> (<image first=30 last=45>images 30-45</image>).",
    "Nodule <size mm=12>12 mm</size> on <image series=3 first=45>image 45 (series 3)</image>.",
    "Nodule <size mm=12>12 mm</size> (<image series=3 first=45>img 45/series 3</image>).",
    "Nodule <size mm=12>12 mm</size> (<image series=3 first=45>im 45; se 3</image>).",
    "Nodule in the lingula <image series=3 first=45>(S3/45)</image> <size mm=12>12 mm</size>.",
    "<size mm=12>12 mm</size> lesion in the liver (S5/8).",
    "<size mm=12>12 mm</size> nodule in the lingula <image series=3 first=45>(3, 45)</image>.",
    "<size mm=12>12 mm</size> nodule in the lingula <image series=3 first=45>(3.45)</image>.",
    "<size mm=12>12 mm</size> nodule with an SUV of (3.45).",
    "<size mm=12>12 mm</size> nodule, volume (1.45).",
    "Nodule in the lingula (3.45), and in segments (3, 45).",
    # Once known gaps: one unit over a table, priors in brackets, "by" that means "to", a count before the size.
    "Six nodules: RUL <size mm=4>4</size>, RLL <size mm=6>6</size>, LUL <size mm=9>9 mm</size>",
    "Previous values in brackets: right <size mm=12>12 mm</size> (<size mm=9 prior>9 mm</size>)",
    "The mass increased by <size mm=46>46 mm</size> to the diaphragm",
    "There are <size mm=5>2 x 5 mm</size> nodules",
]


def sentences_of(language: str) -> list[str]:
    """The sentences of sizes_<language>.txt: one a line, headings behind a "#"."""
    lines = Path(__file__).with_name(f"sizes_{language}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@dataclass(frozen=True)
class Marked:
    text: str
    sizes: list[Size]
    references: list[tuple[int | None, int, int, str]]


def read_marked(sentence: str) -> Marked:
    text, sizes, references, last = "", [], [], 0
    for tag in _TAG.finditer(sentence):
        text += sentence[last : tag.start()]
        start = len(text)
        text += tag["inner"]
        last = tag.end()
        attributes = dict(part.partition("=")[::2] for part in tag["attributes"].split())
        if tag["tag"] == "image":
            first = int(attributes["first"])
            series = int(attributes["series"]) if "series" in attributes else None
            references.append((series, first, int(attributes.get("last", first)), tag["inner"]))
            continue
        values = tuple(float(value) for value in attributes["mm"].split(","))
        roundings = tuple(float(value) for value in attributes.get("r", "0.5").split(","))
        axes = (
            tuple(Axis(axis) for axis in attributes["axis"].split(","))
            if "axis" in attributes
            else (None,) * len(values)
        )
        sizes.append(
            Size(
                values,
                roundings * len(values) if len(roundings) == 1 else roundings,
                axes,
                (start, len(text)),
                Qualifier(attributes["q"]) if "q" in attributes else None,
                Temporality.PRIOR if "prior" in attributes else Temporality.CURRENT,
                SizeKind(attributes.get("kind", "LESION")),
            )
        )
    return Marked(text + sentence[last:], sizes, references)


def check(sentence: str, language: str = "en") -> None:
    marked = read_marked(sentence)
    found = find_sizes(marked.text, language)
    assert [size.span for size in found] == [size.span for size in marked.sizes]
    for got, wanted in zip(found, marked.sizes, strict=True):
        assert got.values_mm == pytest.approx(wanted.values_mm)
        assert got.roundings_mm == pytest.approx(wanted.roundings_mm)
        assert (got.axes, got.qualifier, got.temporality, got.kind) == (
            wanted.axes,
            wanted.qualifier,
            wanted.temporality,
            wanted.kind,
        )
    references = [
        (reference.series_number, reference.image_first, reference.image_last, marked.text[slice(*reference.span)])
        for reference in find_image_references(marked.text, language)
    ]
    assert [reference for reference in references if reference in marked.references] == marked.references
    assert {reference[3] for reference in references} == {reference[3] for reference in marked.references}


@pytest.mark.parametrize("sentence", [*TABLE, *BEYOND])
def test_sizes_and_image_references(sentence: str) -> None:
    check(sentence)


@pytest.mark.parametrize("sentence", sentences_of("en"))
def test_sentences_of_daily_work(sentence: str) -> None:
    check(sentence)


@pytest.mark.parametrize(
    "sentence",
    [sentence for sentence in TABLE if "<size" in sentence and "<<" not in sentence],
)
def test_a_sentence_means_the_same_inside_a_report(sentence: str) -> None:
    marked = read_marked(sentence)
    before = "FINDINGS:\nThe heart is of normal size. No effusion.\n\n"
    sizes = find_sizes(f"{before}{marked.text}.\nThe bones are normal.")
    shift = len(before)
    assert [(size.span[0] - shift, size.span[1] - shift) for size in sizes] == [size.span for size in marked.sizes]
    assert [(size.kind, size.temporality) for size in sizes] == [(size.kind, size.temporality) for size in marked.sizes]


_UNITS = {"mm": 1.0, "cm": 10.0, "millimeters": 1.0, "centimetres": 10.0, "MM": 1.0}
_numbers = st.tuples(st.integers(1, 999), st.integers(0, 2)).map(lambda pair: (pair[0] / 10 ** pair[1], pair[1]))


@given(
    numbers=st.lists(_numbers, min_size=1, max_size=3),
    unit=st.sampled_from(sorted(_UNITS)),
    times=st.sampled_from([" x ", "x", " × ", " by ", "X", " * "]),
    space=st.sampled_from(["", " ", "-"]),
    comma=st.booleans(),
)
def test_what_was_written_is_read(
    numbers: list[tuple[float, int]], unit: str, times: str, space: str, comma: bool
) -> None:
    written = times.join(f"{value:.{decimals}f}" for value, decimals in numbers) + space + unit
    written = written.replace(".", ",") if comma else written
    text = f"There is a {written} nodule in the left lung."
    (size,) = find_sizes(text)
    scale = _UNITS[unit]
    wanted = sorted(((value * scale, scale * 0.5 * 10.0**-decimals) for value, decimals in numbers), reverse=True)
    assert size.values_mm == pytest.approx([value for value, _ in wanted])
    assert sorted(size.roundings_mm) == pytest.approx(sorted(rounding for _, rounding in wanted))
    assert text[slice(*size.span)] == written
    assert (size.kind, size.temporality, size.qualifier) == (SizeKind.LESION, Temporality.CURRENT, None)


_PIECES = st.sampled_from(
    [
        "12", "1.2", "0,8", "3/4", "9-10", ".5", " ", " ", "\n", "mm", "cm", "x", "×", "to", "from", "and", ",", "(", ")", ".", "[DATE]",
        "series 3", "image 41", "(4/87)", "previously", "now", "nodule", "aorta", "no", "<", "sub", "cm3", "mm Hg", "10:45", "İ", "ß",
    ]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=25).map("".join))
def test_spans_lie_in_the_text_in_order_and_hold_the_number(text: str) -> None:
    sizes = find_sizes(text)
    assert [size.span for size in sizes] == sorted(size.span for size in sizes)
    for before, after in pairwise(sizes):
        assert before.span[1] <= after.span[0]
    for size in sizes:
        start, end = size.span
        assert 0 <= start < end <= len(text)
        words = text[start:end]
        assert words == words.strip()
        assert re.search(r"\d", words) or words.lower().startswith("sub")
    for reference in find_image_references(text):
        assert str(reference.image_first) in text[slice(*reference.span)]
        assert all(size.span[1] <= reference.span[0] or reference.span[1] <= size.span[0] for size in sizes)


_NUMBER_WORD = re.compile("one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve")
_any_text = st.one_of(
    st.text(max_size=200),
    st.binary(max_size=200).map(lambda junk: junk.decode("latin-1")),
    st.lists(st.one_of(_PIECES, st.text(max_size=3)), max_size=30).map("".join),
)


@given(text=_any_text, language=st.sampled_from(["en", "de", "nl"]))
def test_any_text_is_survived(text: str, language: str) -> None:
    for size in find_sizes(text, language):
        start, end = size.span
        assert 0 <= start < end <= len(text)
        written = text[start:end].lower()
        assert any(letter.isnumeric() for letter in written) or _NUMBER_WORD.search(written) or "sub" in written
        assert all(value > 0 for value in size.values_mm)
    for reference in find_image_references(text, language):
        assert 0 <= reference.span[0] < reference.span[1] <= len(text)


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("12\u00a0mm", (12.0,)),  # non-breaking space
        ("12\u2009mm", (12.0,)),  # thin space
        ("12\u202f\u00d7\u202f8\u202fmm", (12.0, 8.0)),
        ("\uff11\uff12\u3000\uff4d\uff4d", (12.0,)),  # full-width digits, space and letters
        ("1\uff0e2 cm", (12.0,)),
        ("\u0661\u0662 mm", (12.0,)),  # Arabic-Indic digits
        ("12\u200b mm", (12.0,)),  # zero-width space
        ("1\u00ad2 m\u00adm", (12.0,)),  # soft hyphens
        ("\u202d12\u202c mm", (12.0,)),  # directional marks: the length begins behind the first
        ("12\u200f\u00a0x\u200f 8 mm", (12.0, 8.0)),
        ("12\u2011mm", (12.0,)),  # non-breaking hyphen
        ("12 \u2715 8 mm", (12.0, 8.0)),
        ("12 \u0445 8 mm", (12.0, 8.0)),  # a Cyrillic letter
        ("8\u201412 mm", (12.0, 8.0)),  # a range with an em dash
        ("12\x00 mm", (12.0,)),
        ("12\tmm", (12.0,)),
    ],
)
def test_spans_index_the_text_as_it_came(written: str, values: tuple[float, ...]) -> None:
    before, after = "Der\u200b\u00a0Knoten \u00ad (", ") in\u200e the liver\u2026"
    text = before + written + after
    (size,) = find_sizes(text)
    assert size.values_mm == values
    start, end = size.span
    assert text[start:end].strip("\u202d\u202c") == written.strip("\u202d\u202c")
    shifted = find_sizes("\u200b\u200b" + text)
    assert [one.span for one in shifted] == [(start + 2, end + 2)]


def test_image_references_index_the_text_as_it_came() -> None:
    text = "Nodule\u200b 12\u00a0mm (series\u00a0\uff14, image\u200b 87)."
    (reference,) = find_image_references(text)
    assert (reference.series_number, reference.image_first) == (4, 87)
    assert text[slice(*reference.span)] == "series\u00a0\uff14, image\u200b 87"


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("A 5 mm nodule (4/87 and 4/91).", [(4, 87, 87), (4, 91, 91)]),
        ("Nodules of 5 and 6 mm [3:120, 3:87; 5:12].", [(3, 120, 120), (3, 87, 87), (5, 12, 12)]),
        ("The cysts (4/85-87, and 4/91) are stable.", [(4, 85, 87), (4, 91, 91)]),
        ("On the CTs (12/05 and 14/06) it was stable.", []),
        ("Nodule of 5 mm (4/87 and the next).", []),
        ("Nodule of 5 mm (S3/45, S3/50).", [(3, 45, 45), (3, 50, 50)]),
    ],
)
def test_a_list_of_images_in_brackets(text: str, images: list[tuple[int, int, int]]) -> None:
    found = find_image_references(text)
    assert [(one.series_number, one.image_first, one.image_last) for one in found] == images
    assert all(text[one.span[0]] in "([" and text[one.span[1] - 1] in ")]" for one in found)


def test_a_range_is_one_length() -> None:
    (size,) = find_sizes("Nodule of 8-9 mm")
    assert (size.values_mm, size.lengths_mm) == ((9.0, 8.0), ((8.5, 1.0),))
    (size,) = find_sizes("Nodule of 9 x 8 mm")
    assert size.lengths_mm == ((9.0, 0.5), (8.0, 0.5))


def test_four_hundred_sizes() -> None:
    lesions = [f"{number / 10:.1f} mm" for number in range(10, 410)]
    for separator in (" nodule. A ", ", ", " and ", "\n"):
        found = find_sizes("Nodules of " + separator.join(lesions))
        assert [size.values_mm[0] for size in found] == pytest.approx([number / 10 for number in range(10, 410)])


def test_a_report_of_five_megabytes() -> None:
    filler = "The lungs are clear and the mediastinum is common, hammered and recommended without a number " * 54_000
    (first, last) = find_sizes("Nodule 5 mm. " + filler + ". Nodule 7 mm.")
    assert len(filler) > 5_000_000
    assert (first.values_mm, last.values_mm) == ((5.0,), (7.0,))


_HOSTILE = [
    "5, ", "1", "1,", "5 x ", "5 - ", "5 to ", "5 and ", "5 1/2 ", "(", "((5 ", " ", "\n", "series 4 ", "images 4, ", "(4/87) ", "previous ", "compared to ",
    "12 jan ", "[date ", "\u00ad", "sub-", "5 ap ", "aorta and ", "5 mm (", "5 mm, ", "increased from 5 to 6 mm ", "12:30 ", "8 mm by ", "up to ", "of ",
]  # fmt: skip


def _calls(text: str) -> int:
    """How many calls it takes to read a text."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        find_sizes(text)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("unit", _HOSTILE)
def test_work_grows_with_the_length_and_not_with_its_square(unit: str) -> None:
    find_sizes("warm up 5 mm")
    short, long = (_calls("Nodule 5 mm " + unit * (length // len(unit)) + " 7 mm") for length in (400, 3_200))
    assert long < 16 * short + 1_000


@pytest.mark.parametrize("unit", _HOSTILE)
def test_no_pattern_backtracks_for_ever(unit: str) -> None:
    length = (
        1_000 if "mm" in unit or unit in {"5 - ", "5 to ", "5 and "} else 30_000
    )  # a quadratic pattern would take minutes; each size takes its time
    text = unit * (length // len(unit))
    find_sizes("Nodule 5 mm " + text)
    find_sizes(text + " 5 mm nodule")
    find_image_references(text + "!")


@pytest.mark.parametrize("text", ["", " \n ", "Normal examination.", "[DATE] [NAME] [ID]"])
def test_texts_without_a_length(text: str) -> None:
    assert find_sizes(text) == []
    assert find_image_references(text) == []
