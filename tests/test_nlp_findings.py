"""The finding builder: lists taken apart, phrases, image references, repeats, and graphs as RadGraph returns them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp import (
    Assertion,
    Entity,
    Finding,
    Graph,
    Label,
    Laterality,
    Relation,
    Report,
    RulesExtractor,
    SizeKind,
    Temporality,
    build_findings,
    find_image_references,
    find_sizes,
)

EXTRACTOR = RulesExtractor()
SIDES = {"L": Laterality.LEFT, "R": Laterality.RIGHT, "-": None}


def extract(text: str) -> Sequence[Finding]:
    (findings,) = EXTRACTOR.extract([Report("r", text)])
    return findings


def sized(text: str) -> list[Finding]:
    return sorted((finding for finding in extract(text) if finding.sizes), key=lambda finding: finding.sizes[0].span)


def phrases(text: str, finding: Finding) -> list[str]:
    return [text[slice(*mention.phrase)] for mention in finding.mentions]


def longest(finding: Finding, day: Temporality) -> list[float]:
    return [size.values_mm[0] for size in finding.sizes if size.temporality is day]


# For every sized finding, in the order of its size: observation, place, side, today, before.
COORDINATED: dict[str, list[tuple[str, str | None, str, list[float], list[float]]]] = {
    "There are nodules in the right upper and left lower lobes measuring 5 and 7 mm respectively.": [
        ("nodule", "right upper lobe", "R", [5], []),
        ("nodule", "left lower lobe", "L", [7], []),
    ],
    "Lesions measuring 31 mm, 25 and 24 mm in the liver, spleen and left kidney, respectively.": [
        ("lesion", "liver", "-", [31], []),
        ("lesion", "spleen", "-", [25], []),
        ("lesion", "left kidney", "L", [24], []),
    ],
    "A cyst and a hemangioma measuring 14 and 9 mm, respectively, are seen in the liver.": [
        ("cyst", "liver", "-", [14], []),
        ("hemangioma", "liver", "-", [9], []),
    ],
    "Metastases: 12 mm in the RUL, 8 mm in the LLL.": [
        ("metastasis", "right upper lobe", "R", [12], []),
        ("metastasis", "left lower lobe", "L", [8], []),
    ],
    "Nodules: RUL 12 mm, LLL 8 mm.": [
        ("nodule", "right upper lobe", "R", [12], []),
        ("nodule", "left lower lobe", "L", [8], []),
    ],
    "Right and left pleural effusions measure 40 mm (previously 35 mm) and 30 mm (previously 28 mm), respectively.": [
        ("pleural effusion", None, "R", [40], [35]),
        ("pleural effusion", None, "L", [30], [28]),
    ],
    "Pleural effusion: right 40 mm (previously 35 mm), left 30 mm (previously 28 mm).": [
        ("pleural effusion", None, "R", [40], [35]),
        ("pleural effusion", None, "L", [30], [28]),
    ],
    "Nodules in the lingula and right lower lobe measuring 5 and 7 mm (previously 4 and 6 mm), respectively.": [
        ("nodule", "lingula", "L", [5], [4]),
        ("nodule", "right lower lobe", "R", [7], [6]),
    ],
    "Two renal cysts, 12 mm in the right upper pole and 15 mm in the left lower pole.": [
        ("cyst", "right kidney upper pole", "R", [12], []),
        ("cyst", "left kidney lower pole", "L", [15], []),
    ],
    "Bilateral adrenal nodules, 12 mm on the right and 15 mm on the left.": [
        ("nodule", "right adrenal gland", "R", [12], []),
        ("nodule", "left adrenal gland", "L", [15], []),
    ],
    "The right adrenal nodule measures 12 mm and the left 15 mm.": [
        ("nodule", "right adrenal gland", "R", [12], []),
        ("nodule", "left adrenal gland", "L", [15], []),
    ],
    "Nodules in both lungs, 12 mm RUL, 8 mm LLL and 5 mm lingula.": [
        ("nodule", "right upper lobe", "R", [12], []),
        ("nodule", "left lower lobe", "L", [8], []),
        ("nodule", "lingula", "L", [5], []),
    ],
    "Pulmonary nodules:\n- RUL: 12 mm\n- LLL: 8 mm, previously 6 mm": [
        ("nodule", "right upper lobe", "R", [12], []),
        ("nodule", "left lower lobe", "L", [8], [6]),
    ],
    "In the right lung, nodules of 3 mm in the upper lobe and 9 mm in the lower lobe, and in the left lung, nodules of "
    "8 mm in the upper lobe and 4 mm in the lower lobe.": [
        ("nodule", "right upper lobe", "R", [3], []),
        ("nodule", "right lower lobe", "R", [9], []),
        ("nodule", "left upper lobe", "L", [8], []),
        ("nodule", "left lower lobe", "L", [4], []),
    ],
    "Right hilar 12 mm, left hilar 15 mm and subcarinal 9 mm short axis lymph nodes.": [
        ("lymph node", "right hilum", "R", [12], []),
        ("lymph node", "left hilum", "L", [15], []),
        ("lymph node", "subcarinal", "-", [9], []),
    ],
    "There are nodules in both lungs. 9 mm in the RUL, 7 mm in the LLL.": [
        ("nodule", "right upper lobe", "R", [9], []),
        ("nodule", "left lower lobe", "L", [7], []),
    ],
    "Nodes: portocaval 12 mm, left para-aortic 14 mm.": [
        ("lymph node", "portocaval", "-", [12], []),
        ("lymph node", "left paraaortic", "L", [14], []),
    ],
    "Nodules of 3 and 4 mm in the right lower lobe and 9 mm in the left upper lobe.": [
        ("nodule", "right lower lobe", "R", [3], []),
        ("nodule", "right lower lobe", "R", [4], []),
        ("nodule", "left upper lobe", "L", [9], []),
    ],
    "Right adrenal nodule 15 mm, left adrenal nodule 12 mm, both unchanged.": [
        ("nodule", "right adrenal gland", "R", [15], []),
        ("nodule", "left adrenal gland", "L", [12], []),
    ],
    "Right upper lobe: 5 mm nodule, 8 mm cyst. Left upper lobe: 7 mm nodule.": [
        ("nodule", "right upper lobe", "R", [5], []),
        ("cyst", "right upper lobe", "R", [8], []),
        ("nodule", "left upper lobe", "L", [7], []),
    ],
    "Thyroid: The right lobe measures 52 mm and contains a 9 mm nodule.": [("nodule", "right lobe", "R", [9], [])],
    "A cyst is seen in the spleen. Another is present in the left kidney and measures 17 mm. It is 12 mm.": [
        ("cyst", "left kidney", "L", [17], []),
    ],
    "On the left an effusion of 21 mm is seen, and on the right there is an effusion of 9 mm.": [
        ("pleural effusion", None, "L", [21], []),
        ("pleural effusion", None, "R", [9], []),
    ],
    "A 13 mm lesion in segment 3 and a 21 mm lesion in segment 7, both hypodense.": [
        ("lesion", "segment 3", "-", [13], []),
        ("lesion", "segment 7", "-", [21], []),
    ],
    "Right apex: 12 x 9 mm part-solid nodule with a 4 mm solid component.": [
        ("ground-glass nodule", "right lung apex", "R", [12], []),
    ],
    "The nodule in the lingula measures 14 mm, its solid component measures 5 mm.": [
        ("nodule", "lingula", "L", [14], []),
    ],
    "Left pleural effusion 31 mm, right 12 mm.": [
        ("pleural effusion", None, "L", [31], []),
        ("pleural effusion", None, "R", [12], []),
    ],
    "A 21 mm rim-enhancing lesion in the liver.": [("lesion", "liver", "-", [21], [])],
    "Atelectasis in the left lower lobe. The mass beside it measures 15 mm.": [("mass", None, "-", [15], [])],
    # The counts differ: nobody's place is known.
    "Nodules in the lingula, right lower lobe and left lower lobe measuring 5 and 7 mm, respectively.": [
        ("nodule", None, "-", [5], []),
        ("nodule", None, "-", [7], []),
    ],
    "A cyst, a hemangioma and a metastasis measuring 14 and 9 mm, respectively.": [],
}


@pytest.mark.parametrize("text", COORDINATED)
def test_lists_are_taken_apart(text: str) -> None:
    got = [
        (
            finding.observation,
            finding.anatomy,
            finding.laterality,
            longest(finding, Temporality.CURRENT),
            longest(finding, Temporality.PRIOR),
        )
        for finding in sized(text)
    ]
    assert got == [(what, where, SIDES[side], *values) for what, where, side, *values in COORDINATED[text]]


# Sentences with the phrase of every sized finding, in the order of the sizes.
PHRASES = {
    "Two renal cysts, 12 mm in the right upper pole and 15 mm in the left lower pole.": [
        "renal cysts, 12 mm in the right upper pole",
        "15 mm in the left lower pole",
    ],
    "Nodules measuring 5 and 7 mm are seen in the lingula.": ["Nodules measuring 5 and 7 mm are seen in the lingula"]
    * 2,
    "Nodules in the right and left lung of 5 and 7 mm, respectively.": [
        "Nodules in the right and left lung of 5 and 7 mm"
    ]
    * 2,
    "Mediastinum: Enlarged lymph node 12 mm.": ["Enlarged lymph node 12 mm"],
    "Liver: 12 mm lesion in segment 7.": ["12 mm lesion in segment 7"],
    "Left kidney: simple cyst, 14 mm.": ["Left kidney: simple cyst, 14 mm"],
    "IMPRESSION:\n1. 12 mm nodule in the lingula.": ["12 mm nodule in the lingula"],
    "Nodular lesion (adenoma? measuring 12 mm) in the left adrenal gland.": [
        "Nodular lesion (adenoma? measuring 12 mm) in the left adrenal gland"
    ],
    "Nodule (12 mm) and cyst (14 mm) in the liver.": ["Nodule (12 mm)", "cyst (14 mm) in the liver"],
    "In the right lung there is a nodule measuring 12 mm, which was not there before.": [
        "In the right lung there is a nodule measuring 12 mm"
    ],
    "In the 9 mm nodule in the right lung there is fat.": ["9 mm nodule in the right lung"],
    "There is an effusion of 22 mm in the right pleural area.": ["effusion of 22 mm in the right pleural area"],
    # A thing without its noun is no text to train on: "it" is joined with what it stands for.
    "A nodule is seen in the lingula. It measures 12 mm.": ["nodule is seen in the lingula. It measures 12 mm"],
    "Two nodules are seen in the lingula. They measure 5 and 7 mm.": [
        "nodules are seen in the lingula. They measure 5 and 7 mm"
    ]
    * 2,
    "A nodule is seen in the lingula, with no effusion. It measures 12 mm.": ["nodule is seen in the lingula"],
    "A nodule is seen in the lingula.\n\nIt measures 12 mm.": ["nodule is seen in the lingula"],
    "An effusion of 12 mm is seen on the right.": ["effusion of 12 mm is seen on the right"],
    "A nodule of 12 mm with central calcification in the left lobe of the thyroid.": [
        "nodule of 12 mm with central calcification in the left lobe of the thyroid"
    ],
    "Lesion in the spleen (hypodense, 31 mm).": ["Lesion in the spleen (hypodense, 31 mm)"],
}


@pytest.mark.parametrize("text", PHRASES)
def test_a_phrase_is_the_shortest_that_says_what_and_where(text: str) -> None:
    assert [phrases(text, finding)[0] for finding in sized(text)] == PHRASES[text]


def test_the_mention_of_a_pronoun_holds_both_sentences() -> None:
    text = "A nodule is seen in the lingula. It measures 12 mm. It was 9 mm before."
    (finding,) = extract(text)
    assert [text[slice(*mention.sentence)] for mention in finding.mentions] == [
        "A nodule is seen in the lingula. It measures 12 mm.",
        "A nodule is seen in the lingula.",
        "It was 9 mm before.",
    ]
    assert [size.values_mm for size in finding.sizes] == [(12,), (9,)]


def test_a_label_ends_the_one_before_it() -> None:
    text = "Pancreas: 5 mm cyst. Lymph nodes: an enlarged node of 12 mm. Spleen: normal. Lesion of 9 mm."
    assert [finding.anatomy for finding in sized(text)] == ["pancreas", None, "spleen"]


def test_the_label_of_a_paragraph_says_where() -> None:
    text = "FINDINGS:\nLiver: 12 mm lesion. No stone.\nKidneys: 9 mm cyst in the left kidney. Cyst of 8 mm.\n\nSmall nodule of 4 mm."
    assert [finding.anatomy for finding in sized(text)] == ["liver", "left kidney", "kidney", None]


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("12 mm (4/87) and 7 mm (4/91) nodules in the right lung.", [[87], [91]]),
        ("Image 87 shows a 5 mm nodule, image 91 a 7 mm nodule.", [[87], [91]]),
        ("Nodules of 5 and 7 mm (images 87 and 91) in the lingula.", [[87], [91]]),
        ("12 mm nodule in the RUL (previously 9 mm, series 3 image 40).", [[]]),
        ("12 mm nodule in the RUL (previously 9 mm) (series 3, image 40).", [[40]]),
        ("Right lower lobe nodule (3/45) 8 mm, prior (4/50) 6 mm.", [[45]]),
        ("Right lower lobe nodule 8 mm (3/45), prior (4/50) 6 mm.", [[45]]),
        ("Right lower lobe nodule 8 mm (3/45), previously 6 mm (4/50).", [[45]]),
        ("Right lower lobe nodule 8 mm (3/45), previously 6 mm (series 4, image 50).", [[45]]),
        ("Right lower lobe nodule 8 mm (3/45), 6 mm on prior (4/50).", [[45]]),
        ("Nodule in the lingula previously (4/50) 6 mm, now (3/45) 8 mm.", [[45]]),
        ("Nodule of 8 mm on series 3 image 45 compared to 6 mm on series 4 image 50 of the prior.", [[45]]),
        ("12 mm nodule in the lingula (3/45), prior series 4 image 50.", [[45]]),
        ("12 mm nodule (series 3, image 40), previously 9 mm, and 8 mm cyst (series 3, image 44).", [[40], [44]]),
    ],
)
def test_an_image_reference_goes_to_its_size(text: str, images: list[list[int]]) -> None:
    got = [[reference.image_first for reference in finding.image_references] for finding in sized(text)]
    assert got == images


REPEATS = {
    "FINDINGS: 12 mm nodule in the lingula. IMPRESSION: 1. Nodule in the lingula as above.": [2],
    "FINDINGS: 12 mm nodule in the lingula. IMPRESSION: 1. Stable 1.2 cm nodule of the lingula.": [2],
    "FINDINGS: 12 mm nodule in the lingula. IMPRESSION: 12 mm lesion in the lingula.": [2],
    "FINDINGS: 12 mm nodule in the left lung. IMPRESSION: 12 mm nodule in the right lung.": [1, 1],
    "FINDINGS: 12 mm nodule in the lingula. IMPRESSION: 15 mm nodule in the lingula.": [1, 1],
    "FINDINGS: 12 mm nodule in the lingula. 12 mm nodule in the lingula. IMPRESSION: 12 mm nodule in the lingula.": [
        1,
        1,
        1,
    ],
    "FINDINGS: 12 mm cyst in the liver. IMPRESSION: Hepatic cyst. Hepatic cyst of 12 mm.": [2, 1],
    "Nodule of 12 mm in the lingula. No effusion.\n\nNodule of 12 mm in the lingula.": [2],
    "Nodule of 12 mm in the lingula.\n\nNodule in the lingula.": [1],
}


@pytest.mark.parametrize("text", REPEATS)
def test_the_impression_repeats(text: str) -> None:
    findings = [finding for finding in extract(text) if finding.assertion is Assertion.PRESENT]
    wanted = REPEATS[text]
    got = [len(finding.mentions) for finding in findings if finding.sizes or len(wanted) > 1]
    assert got == wanted


# Graphs as a RadGraph model returns them, with its labels and its gaps.
def entity(text: str, words: str, label: Label, *relations: tuple[Relation, int], after: str = "") -> Entity:
    start = text.index(words, text.index(after) if after else 0)
    return Entity((start, start + len(words)), label, words, relations)


def build(text: str, *entities: Entity) -> list[Finding]:
    return build_findings(
        Report("r", text),
        Graph(entities),
        sizes=find_sizes(text),
        references=find_image_references(text),
        extractor="model@0",
    )


SEEN, DOUBTED = Label.OBSERVATION_PRESENT, Label.OBSERVATION_UNCERTAIN
PLACE, LENGTH = Label.ANATOMY_PRESENT, Label.OBSERVATION_MEASUREMENT_PRESENT


def test_a_measurement_entity_decides_against_position() -> None:
    text = "Cyst beside a 12 mm nodule."
    cyst, nodule = build(
        text,
        entity(text, "Cyst", SEEN),
        entity(text, "12 mm", LENGTH, (Relation.MODIFY, 0)),
        entity(text, "nodule", SEEN),
    )
    assert (cyst.observation, len(cyst.sizes), nodule.observation, len(nodule.sizes)) == ("cyst", 1, "nodule", 0)


def test_a_measurement_of_a_place_goes_to_what_lies_there() -> None:
    text = "Cyst in the liver and nodule in the spleen, 12 mm."
    cyst, nodule = build(
        text,
        entity(text, "Cyst", SEEN, (Relation.LOCATED_AT, 1)),
        entity(text, "liver", PLACE),
        entity(text, "nodule", SEEN, (Relation.LOCATED_AT, 3)),
        entity(text, "spleen", PLACE),
        entity(text, "12 mm", Label.ANATOMY_MEASUREMENT_PRESENT, (Relation.MODIFY, 1)),
    )
    assert (len(cyst.sizes), len(nodule.sizes)) == (1, 0)


def test_words_of_a_place_are_put_together() -> None:
    text = "Nodules in the Rt upper lobes of the lungs."
    (finding,) = build(
        text,
        entity(text, "Nodules", SEEN, (Relation.LOCATED_AT, 3)),
        entity(text, "Rt", PLACE, (Relation.MODIFY, 3)),
        entity(text, "upper", PLACE, (Relation.MODIFY, 3)),
        entity(text, "lobes", PLACE, (Relation.MODIFY, 4)),
        entity(text, "lungs", PLACE),
    )
    assert (finding.observation, finding.anatomy, finding.laterality) == (
        "nodule",
        "right upper lobe",
        Laterality.RIGHT,
    )


def test_a_graph_without_places_takes_the_one_that_the_words_lead_into() -> None:
    text = "Nodule in the spleen, 12 mm."
    (finding,) = build(text, entity(text, "Nodule", SEEN), entity(text, "spleen", PLACE))
    assert (finding.anatomy, phrases(text, finding)) == ("spleen", ["Nodule in the spleen, 12 mm"])
    text = "Nodule next to the spleen, 12 mm."
    (finding,) = build(text, entity(text, "Nodule", SEEN), entity(text, "spleen", PLACE))
    assert finding.anatomy is None


def test_what_is_only_suggested_has_no_size_of_its_own() -> None:
    text = "12 mm lesion, possibly hemangioma."
    lesion, hemangioma = build(
        text,
        entity(text, "12 mm", LENGTH, (Relation.MODIFY, 1)),
        entity(text, "lesion", SEEN, (Relation.SUGGESTIVE_OF, 2)),
        entity(text, "hemangioma", DOUBTED),
    )
    assert (len(lesion.sizes), len(hemangioma.sizes)) == (1, 0)
    assert hemangioma.assertion is Assertion.UNCERTAIN


def test_a_describing_word_alone_is_named_after_its_thing() -> None:
    text = "Enlarged lymph nodes, 12 mm."
    (finding,) = build(
        text, entity(text, "Enlarged", SEEN, (Relation.LOCATED_AT, 1)), entity(text, "lymph nodes", PLACE)
    )
    assert (finding.observation, phrases(text, finding)) == ("lymph node", ["Enlarged lymph nodes, 12 mm"])


def test_circles_of_relations_end() -> None:
    text = "Solid nodular lesion in the left upper lobe, 12 mm."
    (finding,) = build(
        text,
        entity(text, "Solid", SEEN, (Relation.MODIFY, 1)),
        entity(text, "nodular", SEEN, (Relation.MODIFY, 2)),
        entity(text, "lesion", SEEN, (Relation.MODIFY, 0), (Relation.LOCATED_AT, 3)),
        entity(text, "left", PLACE, (Relation.MODIFY, 4)),
        entity(text, "upper lobe", PLACE, (Relation.MODIFY, 3)),
    )
    assert (finding.anatomy, longest(finding, Temporality.CURRENT)) == ("left upper lobe", [12.0])


_LABELS, _RELATIONS = st.sampled_from(list(Label)), st.sampled_from(list(Relation))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["nodule", "12 mm", "liver", "right", "upper lobe,", "(4/87)", "cyst.", "It"]),
        min_size=1,
        max_size=14,
    ),
    st.data(),
)
def test_any_graph_gives_findings_that_hold_together(words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    starts = [sum(len(word) + 1 for word in words[:index]) for index in range(len(words))]
    relation = st.tuples(_RELATIONS, st.integers(0, len(words) - 1))
    entities = [
        Entity((start, start + len(word)), data.draw(_LABELS), word, tuple(data.draw(st.lists(relation, max_size=3))))
        for start, word in zip(starts, words, strict=True)
    ]
    check(text, build(text, *entities))


_PIECES = st.sampled_from(
    [
        *COORDINATED,
        *PHRASES,
        *REPEATS,
        "\n",
        "\n\n",
        "IMPRESSION:",
        "- ",
        "(",
        "]",
        ":",
        "respectively",
        "12 mm",
        "\0",
        "\u202e",
    ]
)


@settings(max_examples=80, deadline=None)
@given(st.lists(_PIECES, max_size=6).map(" ".join) | st.text(max_size=120))
def test_any_text_gives_findings_that_hold_together(text: str) -> None:
    findings = extract(text)
    check(text, findings)
    assert list(RulesExtractor().extract([Report("r", text)])[0]) == list(findings)


def check(text: str, findings: Sequence[Finding]) -> None:
    """Spans inside the text and their sentence, one finding for a length, distinct ids, text order."""
    assert len({finding.finding_id for finding in findings}) == len(findings)
    spans = [size.span for finding in findings for size in finding.sizes]
    assert len(set(spans)) == len(spans)
    for finding in findings:
        for mention in finding.mentions:
            assert 0 <= mention.sentence[0] <= mention.phrase[0] < mention.phrase[1] <= mention.sentence[1] <= len(text)
        for size in finding.sizes:
            assert any(
                mention.phrase[0] <= size.span[0] and size.span[1] <= mention.phrase[1] for mention in finding.mentions
            )


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "\0\1\2\x1b[31m nodule \x7f",
        "12 mm nodule in the right upper lobe, " * 400,
        "nodule " * 5000,
        "no nodule or " * 3000 + "mass.",
        "mass cyst nodule, " * 3000,
        "(" * 20_000 + "12 mm nodule" + ")" * 20_000,
        "." * 200_000 + " nodule of 12 mm",
        " " * 200_000 + "nodule of 12 mm",
        "nodule of 12 mm" + " " * 50_000 + "in the liver, no mass",
        "Nodule of 12 mm. " * 2000,
        "IMPRESSION: " * 5000,
        "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}" * 500 + " 12 mm nodule in the right lung",
    ],
    ids=[
        "one",
        "control",
        "sizes",
        "terms",
        "negations",
        "table",
        "brackets",
        "stops",
        "blanks",
        "gap",
        "sentences",
        "headings",
        "grows",
    ],
)
def test_strange_texts_neither_raise_nor_take_forever(text: str) -> None:
    check(text, extract(text))  # takes minutes where something is quadratic


def test_a_size_that_is_no_lesions_is_kept_apart() -> None:
    (finding,) = sized("The spleen measures 11 cm.")
    assert (finding.observation, finding.sizes[0].kind) == ("spleen", SizeKind.NORMAL_STRUCTURE)
