"""Sections and sentences of reports as they are typed, dictated and exported."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp import split_sections, split_sentences

LAYOUTS = {
    "paragraphs": (
        "TECHNIQUE: CT of the chest.\n\nCOMPARISON: [DATE].\n\nFINDINGS:\nThe lungs are clear.\n\nIMPRESSION:\nNormal.",
        [("technique", "CT of the chest."), ("comparison", "[DATE]."), ("findings", "The lungs are clear."), ("impression", "Normal.")],
    ),
    "one line": (
        "CLINICAL HISTORY: cough. FINDINGS: A 4 mm nodule. IMPRESSION: Nodule.",
        [("history", "cough."), ("findings", "A 4 mm nodule."), ("impression", "Nodule.")],
    ),
    "headings without colon": (
        "Findings\r\nLungs: clear.\r\nImpression\r\nNormal.\r\n",
        [("findings", "Lungs: clear."), ("impression", "Normal.")],
    ),
    "other words": (
        "Reason for exam: pain\nConclusion: No change.",
        [("indication", "pain"), ("impression", "No change.")],
    ),
    "no heading": ("The lungs are clear.", [("body", "The lungs are clear.")]),
    "text before the first heading": ("CT CHEST [DATE]\nFINDINGS: Clear.", [("body", "CT CHEST [DATE]"), ("findings", "Clear.")]),
    "markdown": ("**Findings:** Clear.\n**Impression:** Normal.", [("findings", "Clear."), ("impression", "Normal.")]),
    "a word that is no heading": ("The findings suggest infection.\nReport to follow.", [("body", "The findings suggest infection.\nReport to follow.")]),
    "an empty section": ("FINDINGS:\n\nIMPRESSION: Normal.", [("impression", "Normal.")]),
    "capitals with a dash": (
        "FINDINGS - Clear.\nIMPRESSION -- Normal.",
        [("findings", "Clear."), ("impression", "Normal.")],
    ),
    "underlined": ("Findings\n--------\nClear.\nFinal impression:\nNormal.", [("findings", "--------\nClear."), ("impression", "Normal.")]),
    "a number behind the heading": ("IMPRESSION 1. Nodule.", [("impression", "1. Nodule.")]),
    "two in one": ("FINDINGS AND IMPRESSION: Clear.\nImpression/Recommendation: None.", [("findings", "Clear."), ("impression", "None.")]),
    "requests": ("Request:\nStaging.\nClinical question: Nodules?\nReport:\nClear.", [("indication", "Staging."), ("indication", "Nodules?"), ("findings", "Clear.")]),
    "the end": ("Conclusion: Normal.\nAuthorization date: [DATE]", [("impression", "Normal."), ("signature", "[DATE]")]),
    "organs are no sections": ("LUNGS: Clear.\nLIVER: Normal.", [("body", "LUNGS: Clear.\nLIVER: Normal.")]),
    "nothing": (" \n", []),
}  # fmt: skip

SENTENCES = {
    "abbreviations": "No. 4 station node 9 mm.|Seen by Dr. [NAME] vs. prior.|Approx. 5 mm.",
    "decimals": "Cyst of 1.5 cm.|Nodule of .8 cm in the left lung.",
    "a unit's full stop before a small letter": "Cyst of 1.5 cm. in the liver.",
    "small letters throughout": "nodule in the lung.|no effusion.",
    "no space": "The mass is 4 cm.|There is no effusion.",
    "tags": "Compared to CT of [DATE].|[NAME] saw it on [DATE].|[ID] is opaque.",
    "question marks": "Nodule (metastasis?) in the lung.|Cyst?|Normal spleen.",
    "capitals": "NODULE RUL 1.2 CM.|NO EFFUSION.|LIVER NORMAL.",
    "numbers of stations": "Node at No. 4.|Node of 4 mm, No. 7 station.",
    "a leading question mark": "Nodule (? Metastasis) in the lung.|? Abscess.",
    "dots without end": "See above...|Nodule of 4 mm.",
    "semicolons": "When seen in the lung window;|A 4 mm nodule.",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sections(layout: str) -> None:
    text, wanted = LAYOUTS[layout]
    assert [(section.name, text[section.start : section.end]) for section in split_sections(text)] == wanted


@pytest.mark.parametrize("case", SENTENCES)
def test_sentences(case: str) -> None:
    wanted = SENTENCES[case].split("|")
    joiner = "" if case == "no space" else " "
    text = joiner.join(wanted)
    assert [text[start:end] for start, end in split_sentences(text)] == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("IMPRESSION:\n1. 12 mm nodule. Stable.\n2. No effusion", ["12 mm nodule.", "Stable.", "No effusion"]),
        ("IMPRESSION: 1. Nodule. 2. Effusion.", ["Nodule.", "Effusion."]),
        ("Findings:\n- Nodule\n- Cyst, 14 mm\n• Normal", ["Nodule", "Cyst, 14 mm", "Normal"]),
        ("1) foo 3 mm\r\n2) bar", ["foo 3 mm", "bar"]),
        ("12 MM NODULE RUL\nNO EFFUSION\nLIVER NORMAL", ["12 MM NODULE RUL", "NO EFFUSION", "LIVER NORMAL"]),
        ("12 mm nodule RUL\nLiver normal", ["12 mm nodule RUL", "Liver normal"]),
        (
            "FINDINGS: There is a 12 mm spiculated nodule in the\nright upper lobe (series 3,\nimage 41).",
            ["There is a 12 mm spiculated nodule in the\nright upper lobe (series 3,\nimage 41)."],
        ),
        ("Nodule in the lung\n\nNo effusion", ["Nodule in the lung", "No effusion"]),
        (
            "Lesion | Site | Size\n-------|------|-----\nnodule | RUL | 1.2 cm\nnode | hilum | 9 mm",
            ["Lesion | Site | Size", "nodule | RUL | 1.2 cm", "node | hilum | 9 mm"],
        ),
        ("nodule\tRUL\t12.5 mm\ncyst\tliver\t9 mm", ["nodule\tRUL\t12.5 mm", "cyst\tliver\t9 mm"]),
        ("nodule     RUL     12 mm\ncyst       liver   9 mm", ["nodule     RUL     12 mm", "cyst       liver   9 mm"]),
        ("IMPRESSION: #1 Nodule. #2 12 mm cyst.", ["Nodule.", "12 mm cyst."]),
        ("a) Nodule of 4 mm\nb) Cyst\n(c) Normal\nii. Effusion", ["Nodule of 4 mm", "Cyst", "Normal", "Effusion"]),
        ("1. NODULE RUL 1.2 CM. STABLE.\n2. NO EFFUSION.", ["NODULE RUL 1.2 CM.", "STABLE.", "NO EFFUSION."]),
    ],
)
def test_lines_and_lists(text: str, wanted: list[str]) -> None:
    assert [text[start:end] for start, end in split_sentences(text)] == wanted


@pytest.mark.parametrize(
    ("piece", "end"),
    [("7 mm nodule in the lingula, ", "lingula,"), ("1,2 cm cyst in liver\n", "liver"), ("mass cyst ", "mass")],
)
def test_what_never_ends_is_cut_where_it_hurts_least(piece: str, end: str) -> None:
    text = (piece * 400).strip()
    pieces = [text[start:stop] for start, stop in split_sentences(text)]
    assert max(map(len, pieces)) <= 1000
    assert " ".join(pieces).split() == text.split()
    assert all(one.endswith(end) or end == "mass" for one in pieces[:-1])


_WORDS = st.sampled_from(
    [
        "FINDINGS:",
        "Impression:",
        "\n",
        "\r\n",
        "\n\n",
        " ",
        ". ",
        "1. ",
        "- ",
        "12 mm",
        "nodule",
        "The",
        "[DATE]",
        "?",
        ";",
        "No.",
    ]
)


@given(st.lists(_WORDS, max_size=30).map("".join) | st.text(max_size=200))
def test_sentences_tile_the_sections(text: str) -> None:
    sections = split_sections(text)
    sentences = split_sentences(text)
    assert all(
        text[section.start : section.end].strip() == text[section.start : section.end] != "" for section in sections
    )
    last = 0
    for start, end in sentences:
        assert last <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
        assert any(section.start <= start and end <= section.end for section in sections)
        last = end


@given(st.lists(st.sampled_from(["nodule", "of", "12 mm", "(4/87)", "liver,"]), min_size=1, max_size=12))
def test_no_word_of_a_section_is_lost(words: list[str]) -> None:
    text = "FINDINGS: " + " ".join(words)
    assert " ".join(text[start:end] for start, end in split_sentences(text)).split() == " ".join(words).split()
