"""The rule extractor and the finding builder, on sentences written for the tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp import (
    Assertion,
    Entity,
    Extractor,
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
    find_sizes,
    load_extractor,
)

EXTRACTOR = RulesExtractor()


def extract(text: str) -> Sequence[Finding]:
    (findings,) = EXTRACTOR.extract([Report("r", text)])
    return findings


def one(text: str, observation: str) -> Finding:
    (finding,) = (finding for finding in extract(text) if finding.observation == observation)
    return finding


def today(finding: Finding) -> list[tuple[float, ...]]:
    return [size.values_mm for size in finding.sizes if size.temporality is Temporality.CURRENT]


def prior(finding: Finding) -> list[tuple[float, ...]]:
    return [size.values_mm for size in finding.sizes if size.temporality is Temporality.PRIOR]


def phrases(text: str, finding: Finding) -> list[str]:
    return [text[slice(*mention.phrase)] for mention in finding.mentions]


# text, and for every sized finding: observation, anatomy, side, today's size, earlier size
SIZED = [
    (
        "There is a 12 mm spiculated nodule in the right upper lobe (series 3, image 41), previously 9 mm.",
        [("nodule", "right upper lobe", "RIGHT", 12, 9)],
    ),
    (
        "Hypodense lesion in segment 7 of the liver measuring 2.3 x 1.8 cm.",
        [("lesion", "liver segment 7", None, 23, None)],
    ),
    ("Simple cyst in the left kidney, 14 mm.", [("cyst", "left kidney", "LEFT", 14, None)]),
    ("Unchanged 8 mm lymph node in the mesentery.", [("lymph node", "mesentery", None, 8, None)]),
    ("The nodule lies 2 cm from the hilum.", []),
    ("Endotracheal tube tip 4 cm above the carina. 8 mm biliary stent.", []),
    ("No nodule larger than 4 mm.", []),
    (
        "NODULE RUL 12 X 8 MM. NODULE LLL 9 MM. CYST L KIDNEY 14 MM. NO ADENOPATHY.",
        [
            ("nodule", "right upper lobe", "RIGHT", 12, None),
            ("nodule", "left lower lobe", "LEFT", 9, None),
            ("cyst", "left kidney", "LEFT", 14, None),
        ],
    ),
    (
        "Nodule 12 mm in the right lung and cyst 14 mm in the left kidney.",
        [("nodule", "right lung", "RIGHT", 12, None), ("cyst", "left kidney", "LEFT", 14, None)],
    ),
    (
        "A 12 mm nodule in the right upper lobe, a 9 mm nodule in the left lower lobe and a 5 mm nodule in the lingula.",
        [
            ("nodule", "right upper lobe", "RIGHT", 12, None),
            ("nodule", "left lower lobe", "LEFT", 9, None),
            ("nodule", "lingula", "LEFT", 5, None),
        ],
    ),
    (
        "Nodules measuring 5 and 7 mm in the left lower lobe.",
        [("nodule", "left lower lobe", "LEFT", 5, None), ("nodule", "left lower lobe", "LEFT", 7, None)],
    ),
    (
        "Two nodules in the left lung, 5 mm in the upper lobe and 7 mm in the lower lobe.",
        [("nodule", "left upper lobe", "LEFT", 5, None), ("nodule", "left lower lobe", "LEFT", 7, None)],
    ),
    (
        "Bilateral pleural effusions reaching 40 mm on the right and 30 mm on the left.",
        [("pleural effusion", None, "RIGHT", 40, None), ("pleural effusion", None, "LEFT", 30, None)],
    ),
    (
        "Nodules in the right and left lung of 5 and 7 mm, respectively.",
        [("nodule", "right lung", "RIGHT", 5, None), ("nodule", "left lung", "LEFT", 7, None)],
    ),
    (
        "Multiple nodules in both lungs, the largest measuring 8 mm in the lingula.",
        [("nodule", "lingula", "LEFT", 8, None)],
    ),
    ("Bilateral renal cysts, the largest on the left measuring 3.2 cm.", [("cyst", "left kidney", "LEFT", 32, None)]),
    (
        "The nodule in the right lower lobe has increased from 9 mm to 12 mm.",
        [("nodule", "right lower lobe", "RIGHT", 12, 9)],
    ),
    (
        "Right 12 mm (previously 9 mm) and left 8 mm (previously 7 mm) adrenal nodules.",
        [("nodule", "right adrenal gland", "RIGHT", 12, 9), ("nodule", "left adrenal gland", "LEFT", 8, 7)],
    ),
    ("Nodule in the left lung. It measured 9 mm on [DATE].", [("nodule", "left lung", "LEFT", None, 9)]),
    (
        "Mass in the head of the pancreas measuring 3.1 x 2.2 cm, 5 mm from the portal vein.",
        [("mass", "pancreatic head", None, 31, None)],
    ),
    (
        "The pleural-based mass in the left lower lobe abuts the aorta and measures 4.1 cm.",
        [("mass", "left lower lobe", "LEFT", 41, None)],
    ),
    ("Lesion in the left adrenal gland, likely adenoma, 18 mm.", [("lesion", "left adrenal gland", "LEFT", 18, None)]),
    ("Node in the left axilla 23 mm, short axis 11 mm.", [("lymph node", "left axilla", "LEFT", 23, None)]),
    ("Left kidney: simple cyst, 14 mm.", [("cyst", "left kidney", "LEFT", 14, None)]),
    ("No effusion, 5 mm nodule RUL.", [("nodule", "right upper lobe", "RIGHT", 5, None)]),
    (
        "Cyst of the right kidney 12 mm, on the left 15 mm.",
        [("cyst", "right kidney", "RIGHT", 12, None), ("cyst", "left kidney", "LEFT", 15, None)],
    ),
    (
        "Nodule 6 mm RUL and 6 mm LUL.",
        [("nodule", "right upper lobe", "RIGHT", 6, None), ("nodule", "left upper lobe", "LEFT", 6, None)],
    ),
    ("2.4 cm segment 8 lesion.", [("lesion", "segment 8", None, 24, None)]),
    ("5.6 cm tumour abutting aorta.", [("tumor", None, None, 56, None)]),
    (
        "There is a 3 mm calculus in the distal ureter, 2 cm above the UVJ.",
        [("stone", "distal ureter", None, 3, None)],
    ),
    ("8mm (prior) vs 10mm (current) nodule in the lingula.", [("nodule", "lingula", "LEFT", 10, 8)]),
    ("The ascending aorta measures 41 mm.", [("ascending aorta", "ascending aorta", None, 41, None)]),
]


@pytest.mark.parametrize(("text", "wanted"), SIZED, ids=[text for text, _ in SIZED])
def test_each_size_goes_to_its_thing(text: str, wanted: list[tuple[object, ...]]) -> None:
    found = [finding for finding in extract(text) if finding.sizes]
    got = [
        (
            finding.observation,
            finding.anatomy,
            finding.laterality,
            today(finding)[0][0] if today(finding) else None,
            prior(finding)[0][0] if prior(finding) else None,
        )
        for finding in sorted(found, key=lambda finding: finding.sizes[0].span)
    ]
    assert got == wanted


@pytest.mark.parametrize(
    ("text", "observation", "assertion"),
    [
        ("No pleural effusion.", "pleural effusion", "ABSENT"),
        ("No pleural effusion, pneumothorax, or consolidation.", "consolidation", "ABSENT"),
        ("Pleural effusion and pneumothorax were not detected.", "pneumothorax", "ABSENT"),
        ("Pleural effusion and pneumothorax were not detected.", "pleural effusion", "ABSENT"),
        ("No evidence of metastatic disease.", "metastasis", "ABSENT"),
        ("The lungs are free of consolidation.", "consolidation", "ABSENT"),
        ("Previously noted 9 mm nodule in the lingula has resolved.", "nodule", "ABSENT"),
        ("No change in the 5 mm nodule.", "nodule", "PRESENT"),
        ("Nodule without significant interval change.", "nodule", "PRESENT"),
        ("The nodule was not seen on the prior examination.", "nodule", "PRESENT"),
        ("The nodule is not significantly changed.", "nodule", "PRESENT"),
        ("No effusion, but there is a nodule.", "nodule", "PRESENT"),
        ("A nodule is seen and effusion is not seen.", "nodule", "PRESENT"),
        ("A nodule is seen and effusion is not seen.", "pleural effusion", "ABSENT"),
        ("No effusion; stable nodule.", "nodule", "PRESENT"),
        ("Cyst without septation.", "cyst", "PRESENT"),
        ("Possible nodule in the left lung.", "nodule", "UNCERTAIN"),
        ("Metastasis cannot be excluded.", "metastasis", "UNCERTAIN"),
        ("Cannot exclude pneumonia.", "pneumonia", "UNCERTAIN"),
        ("Nodular lesion (adenoma?) in the left adrenal gland.", "adenoma", "UNCERTAIN"),
        ("Nodular lesion (adenoma?) in the left adrenal gland.", "nodule", "PRESENT"),
        ("12 mm nodule, suspicious for malignancy.", "nodule", "PRESENT"),
        ("12 mm nodule, suspicious for malignancy.", "malignancy", "UNCERTAIN"),
        ("Suspicious nodule in the left lung.", "nodule", "PRESENT"),
        ("Findings may represent pneumonia.", "pneumonia", "UNCERTAIN"),
        ("Densities consistent with cholelithiasis.", "gallstone", "PRESENT"),
        ("INDICATION: Evaluate for pneumonia.", "pneumonia", "UNCERTAIN"),
        ("No focal lesion is seen in the liver.", "lesion", "ABSENT"),
        ("Neither consolidation nor effusion is present.", "consolidation", "ABSENT"),
        ("Neither consolidation nor effusion is present.", "pleural effusion", "ABSENT"),
        ("The lungs are without nodule, mass or consolidation.", "consolidation", "ABSENT"),
        ("There is no longer a pneumothorax on the left.", "pneumothorax", "ABSENT"),
        ("The pneumothorax is no longer seen.", "pneumothorax", "ABSENT"),
        ("Pneumothorax: none.", "pneumothorax", "ABSENT"),
        ("Effusion - no.", "pleural effusion", "ABSENT"),
        ("Lymphadenopathy: not seen.", "lymphadenopathy", "ABSENT"),
        ("The effusion has resolved.", "pleural effusion", "ABSENT"),
        ("The effusion has almost completely resolved.", "pleural effusion", "PRESENT"),
        ("The effusion has not resolved.", "pleural effusion", "PRESENT"),
        ("Interval resolution of the left effusion.", "pleural effusion", "ABSENT"),
        ("Partial resolution of the left effusion.", "pleural effusion", "PRESENT"),
        ("Resolved pneumonia.", "pneumonia", "ABSENT"),
        ("Resolving pneumonia in the lingula.", "pneumonia", "PRESENT"),
        ("Pulmonary embolism was ruled out.", "embolus", "ABSENT"),
        ("Pulmonary embolism cannot be ruled out.", "embolus", "UNCERTAIN"),
        ("Pulmonary embolism is not excluded.", "embolus", "UNCERTAIN"),
        ("Pulmonary embolism should be ruled out.", "embolus", "UNCERTAIN"),
        ("This does not exclude a small embolus.", "embolus", "UNCERTAIN"),
        ("The scan excludes aortic dissection.", "dissection", "ABSENT"),
        ("MRI to exclude metastasis.", "metastasis", "UNCERTAIN"),
        ("No change in the mass.", "mass", "PRESENT"),
        ("No significant interval change in size of the right adrenal adenoma.", "adenoma", "PRESENT"),
        ("No increase in the size of the cyst.", "cyst", "PRESENT"),
        ("Without significant change, the 7 mm nodule persists.", "nodule", "PRESENT"),
        ("The mass has not increased in size.", "mass", "PRESENT"),
        ("Not only a nodule but also a mass is seen.", "nodule", "PRESENT"),
        ("Not only a nodule but also a mass is seen.", "mass", "PRESENT"),
        ("The nodule was not seen on the earlier CT.", "nodule", "PRESENT"),
        ("The nodule was not present previously.", "nodule", "PRESENT"),
        ("The nodule was not well seen on this scan.", "nodule", "PRESENT"),
        ("No abnormality except for a simple cyst in the left kidney.", "cyst", "PRESENT"),
        ("No metastasis apart from the known lesion in segment 6.", "lesion", "PRESENT"),
        ("No nodule other than a calcified granuloma.", "granuloma", "PRESENT"),
        ("No effusion but atelectasis at the base.", "atelectasis", "PRESENT"),
        ("No effusion; atelectasis at both bases.", "atelectasis", "PRESENT"),
        ("No mass, however there is a node in the hilum.", "lymph node", "PRESENT"),
        ("No consolidation, small nodule in the lingula.", "nodule", "PRESENT"),
        ("No consolidation, nodule 12 mm in the lingula.", "nodule", "PRESENT"),
        ("No nodule, mass, small effusion or consolidation.", "pleural effusion", "ABSENT"),
        ("No effusion and the nodule is stable.", "nodule", "PRESENT"),
        ("No effusion or pneumothorax is seen and a nodule has appeared.", "nodule", "PRESENT"),
        ("Free of consolidation or nodules.", "nodule", "ABSENT"),
        ("Free air under the diaphragm.", "pneumoperitoneum", "PRESENT"),
        ("Absence of lymphadenopathy.", "lymphadenopathy", "ABSENT"),
        ("Nothing to suggest metastasis.", "metastasis", "ABSENT"),
        ("The study fails to show an abscess.", "abscess", "ABSENT"),
        ("CT did not reveal any fracture.", "fracture", "ABSENT"),
        ("There is no evidence of hydronephrosis or stone.", "stone", "ABSENT"),
        ("There isn't a hematoma.", "hematoma", "ABSENT"),
        ("The collection has been evacuated.", "collection", "ABSENT"),
        ("The drain has been removed.", "drain", "ABSENT"),
        ("A hernia cannot be seen.", "hernia", "ABSENT"),
        ("Not without effusion.", "pleural effusion", "PRESENT"),
        ("Rather a cyst than an abscess.", "cyst", "PRESENT"),
        ("Probably a cyst rather than an abscess.", "cyst", "UNCERTAIN"),
        ("Likely hamartoma.", "hamartoma", "UNCERTAIN"),
        ("12 mm lesion, likely hemangioma.", "lesion", "PRESENT"),
        ("12 mm lesion, likely hemangioma.", "hemangioma", "UNCERTAIN"),
        ("12 mm lesion, DD hemangioma or metastasis.", "metastasis", "UNCERTAIN"),
        ("12 mm lesion, DDx: hemangioma, metastasis.", "metastasis", "UNCERTAIN"),
        ("Differential diagnosis: abscess, necrotic tumor.", "abscess", "UNCERTAIN"),
        ("Lesion in segment 4, metastasis?", "metastasis", "UNCERTAIN"),
        ("Lesion in segment 4, metastasis?", "lesion", "PRESENT"),
        ("? abscess in the pelvis.", "abscess", "UNCERTAIN"),
        ("Nodule (? metastasis) in the right lung.", "metastasis", "UNCERTAIN"),
        ("Nodule (? metastasis) in the right lung.", "nodule", "PRESENT"),
        ("Evaluated in favor of pneumonia.", "pneumonia", "UNCERTAIN"),
        ("No finding in favour of pneumonia.", "pneumonia", "ABSENT"),
        ("Metastasis is unlikely.", "metastasis", "UNCERTAIN"),
        ("Metastasis is less likely.", "metastasis", "UNCERTAIN"),
        ("Metastasis is suspected in segment 2.", "metastasis", "UNCERTAIN"),
        ("Findings are concerning for lymphangitic carcinomatosis.", "carcinomatosis", "UNCERTAIN"),
        ("Not suspicious for malignancy.", "malignancy", "ABSENT"),
        ("Appearance is not typical for pneumonia.", "pneumonia", "UNCERTAIN"),
        ("Atypical for viral pneumonia.", "pneumonia", "UNCERTAIN"),
        ("Findings compatible with cirrhosis.", "cirrhosis", "PRESENT"),
        ("If pneumonia develops, repeat the CT.", "pneumonia", "UNCERTAIN"),
        ("A mass suggesting lymphoma is seen.", "mass", "PRESENT"),
        ("A mass suggesting lymphoma is seen.", "lymphoma", "UNCERTAIN"),
        ("Suggest biopsy of the mass.", "mass", "PRESENT"),
        ("The adrenal nodule may be an adenoma.", "adenoma", "UNCERTAIN"),
        ("The adrenal nodule may be an adenoma.", "nodule", "PRESENT"),
        ("Atelectasis versus pneumonia at the left base.", "pneumonia", "UNCERTAIN"),
        ("An infectious process is considered in the etiology.", "infection", "UNCERTAIN"),
        ("Enlarged nodes, some of which are not calcified.", "lymph node", "PRESENT"),
        ("Lymph nodes are no longer enlarged.", "lymph node", "PRESENT"),
        ("The spleen contains a cyst, the liver does not.", "cyst", "PRESENT"),
        ("No. 4 station node of 9 mm.", "lymph node", "PRESENT"),
        ("No comparison is available for the nodule.", "nodule", "PRESENT"),
        ("No follow-up of the nodule is needed.", "nodule", "PRESENT"),
        ("High-resolution CT shows emphysema.", "emphysema", "PRESENT"),
        ("A nodule in the lingula and no effusion.", "nodule", "PRESENT"),
        ("A nodule in the lingula and no effusion.", "pleural effusion", "ABSENT"),
        ("The nodule is stable and the effusion is no longer seen.", "nodule", "PRESENT"),
        ("There is a nodule in the RUL and the effusion is not seen.", "nodule", "PRESENT"),
        ("There is a nodule in the RUL and the effusion is not seen.", "pleural effusion", "ABSENT"),
        ("The effusion and the pneumothorax are not seen.", "pleural effusion", "ABSENT"),
        ("Effusion, pneumothorax and consolidation were not observed.", "pleural effusion", "ABSENT"),
        ("Pericardial effusion-thickening was not detected.", "thickening", "ABSENT"),
        ("No pathologically enlarged lymph nodes were observed in the mediastinum.", "lymph node", "ABSENT"),
        ("No lymph node with pathological size was detected; a 4 mm nodule is in the lingula.", "nodule", "PRESENT"),
        ("Gallstones without cholecystitis.", "gallstone", "PRESENT"),
        ("Gallstones without cholecystitis.", "cholecystitis", "ABSENT"),
        ("Pneumonia can not be excluded and there is an effusion.", "pleural effusion", "PRESENT"),
        ("The patient denies fever; consolidation in the lingula.", "consolidation", "PRESENT"),
        ("Consolidation that cannot be distinguished from a mass.", "consolidation", "UNCERTAIN"),
        ("No new nodule.", "nodule", "ABSENT"),
        ("No other lesion.", "lesion", "ABSENT"),
        ("No definite fracture.", "fracture", "ABSENT"),
        ("Previously described nodule is not visible now.", "nodule", "ABSENT"),
        ("Nodule, resolved.", "nodule", "ABSENT"),
        ("Free fluid (-).", "ascites", "ABSENT"),
        ("Mass lacking calcification.", "calcification", "ABSENT"),
        ("Mass lacking calcification.", "mass", "PRESENT"),
        ("The effusion is absent on the right.", "pleural effusion", "ABSENT"),
        ("Negative for pulmonary embolism.", "embolus", "ABSENT"),
        ("Effusion is not increased.", "pleural effusion", "PRESENT"),
        ("No enlargement of the known aneurysm.", "aneurysm", "PRESENT"),
        ("No further nodules.", "nodule", "ABSENT"),
        ("RECOMMENDATION: CT in 3 months to look for metastasis.", "metastasis", "UNCERTAIN"),
        ("CLINICAL QUESTION: Abscess.", "abscess", "UNCERTAIN"),
        ("Nodule unchanged, no need for biopsy of the mass.", "mass", "PRESENT"),
        ("No mass is seen, although a nodule is present.", "nodule", "PRESENT"),
        ("The nodule is suspicious for malignancy.", "nodule", "PRESENT"),
        ("The nodule is likely a hamartoma.", "nodule", "PRESENT"),
        ("The nodule is likely a hamartoma.", "hamartoma", "UNCERTAIN"),
        ("The mass is not clearly seen.", "mass", "UNCERTAIN"),
        ("Hydronephrosis is possible.", "hydronephrosis", "UNCERTAIN"),
        ("A fracture is questionable at L3.", "fracture", "UNCERTAIN"),
        ("Pneumonia and atelectasis were not differentiated.", "atelectasis", "UNCERTAIN"),
        ("The cyst in the liver, 20 mm in the previous examination, has disappeared.", "cyst", "ABSENT"),
    ],
)
def test_assertions(text: str, observation: str, assertion: str) -> None:
    assert one(text, observation).assertion is Assertion(assertion)
    assert one(text.upper(), observation).assertion is Assertion(assertion)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("Right upper and left lower lobes.", ["right upper lobe", "left lower lobe"]),
        ("Right middle and lower lobes.", ["right middle lobe", "right lower lobe"]),
        ("Right and left upper lobes.", ["right upper lobe", "left upper lobe"]),
        ("Segments 4, 5 and 7 of the liver.", ["segment 4", "segment 5", "segment 7", "liver"]),
        ("Stations 4R and 7.", ["station 4r", "station 7"]),
        ("T7 vertebral body, at the level of C6.", ["t7", "vertebra", "c6 vertebra"]),
        ("Nodule in the rt\nupper  lobe.", ["right upper lobe"]),
        ("Para-aortic and left external iliac chain.", ["paraaortic", "left external iliac"]),
        ("Segment 6 and 7 mm cyst.", ["segment 6"]),
        ("The level of activity, T2 signal, C5.", []),
    ],
)
def test_places_that_share_a_noun_are_named_in_full(text: str, places: list[str]) -> None:
    assert [entity.term for entity in EXTRACTOR.graph(text).entities if entity.label.is_anatomy] == places


@pytest.mark.parametrize(
    ("text", "anatomy"),
    [
        ("Soft tissue nodule in the left hilum.", "left hilum"),
        ("Metastases in the liver, spleen and left kidney.", "liver and spleen and left kidney"),
        ("Ground-glass opacities in the right upper and left lower lobes.", "right upper lobe and left lower lobe"),
        ("Nodule in the lingula and the liver is normal.", "lingula"),
        ("Nodule adjacent to the aorta.", None),
        ("Nodule in the left lower lobe abutting the diaphragm.", "left lower lobe"),
        ("Lesion in segment 7 of the liver.", "liver segment 7"),
        ("Lytic lesion in the T9 vertebral body.", "t9 vertebra"),
        ("In the left kidney, interpolar region, there is a cyst.", "left kidney interpolar region"),
    ],
)
def test_where_a_finding_lies(text: str, anatomy: str | None) -> None:
    assert extract(text)[0].anatomy == anatomy


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("A cyst and a hemangioma in the liver.", {"cyst": "liver", "hemangioma": "liver"}),
        ("A small hiatal hernia and a cyst in the liver.", {"hernia": None, "cyst": "liver"}),
        ("Small hiatal hernia and diverticulosis of the colon.", {"hernia": None, "diverticulum": "colon"}),
        ("There is a stone at its base.", {"stone": None}),
        ("Mass at the base of the cecum.", {"mass": "cecum"}),
        ("Scarring at the left base.", {"scar": "left lung base"}),
        ("Effusion in the right costophrenic sinus.", {"pleural effusion": "right costophrenic angle"}),
        ("Fracture of L2.", {"fracture": "l2 vertebra"}),
        ("Hyperintensity in T2-weighted images.", {"hyperdensity": None}),
        ("Stone in the distal ureter.", {"stone": "distal ureter"}),
        ("Left lower lobectomy.", {"lobectomy": None}),
    ],
)
def test_which_things_lie_there(text: str, places: dict[str, str | None]) -> None:
    assert {finding.observation: finding.anatomy for finding in extract(text)} == places


def test_a_table_without_full_stops_is_read_in_pieces() -> None:
    rows = ", ".join(f"{size} mm nodule in the right upper lobe" for size in range(3, 203))
    found = extract(rows)
    assert sorted(size.values_mm for finding in found for size in finding.sizes) == [(size,) for size in range(3, 203)]
    assert {finding.laterality for finding in found} == {Laterality.RIGHT}


def test_it_reads_english_only_and_says_so() -> None:
    assert (EXTRACTOR.name, EXTRACTOR.version, EXTRACTOR.languages) == ("rules", "2", frozenset({"en"}))


def test_reading_a_sentence_again_changes_nothing() -> None:
    text = "No effusion. 12 mm nodule in the right lung. No effusion.\nIndication: Nodule. No effusion."
    assert EXTRACTOR.graph(text) == EXTRACTOR.graph(text)
    spans = [text[slice(*entity.span)] for entity in EXTRACTOR.graph(text).entities]
    assert spans == ["effusion", "nodule", "right lung", "effusion", "Nodule", "effusion"]


def test_a_phrase_is_what_the_report_says_in_one_sentence() -> None:
    text = "Lungs are clear. There is a 12 mm spiculated nodule in the\nright upper lobe (series 3, image 41), previously 9 mm. End."
    finding = one(text, "nodule")
    assert phrases(text, finding) == [
        "12 mm spiculated nodule in the\nright upper lobe (series 3, image 41), previously 9 mm"
    ]
    (mention,) = finding.mentions
    assert text[slice(*mention.sentence)].startswith("There is")
    assert finding.finding_id == f"r#{mention.phrase[0]}-{mention.phrase[1]}"
    assert finding.extractor == "rules@2"
    (reference,) = finding.image_references
    assert (reference.series_number, reference.image_first) == (3, 41)


def test_references_go_to_the_size_that_they_follow() -> None:
    first, second = extract("12 mm (4/87) and 7 mm (4/91) nodules in the right lung.")
    assert [(today(finding), finding.image_references[0].image_first) for finding in (first, second)] == [
        ([(12.0,)], 87),
        ([(7.0,)], 91),
    ]


REPEATED = """FINDINGS:
12.4 mm nodule in the right upper lobe. 6 mm nodule in the left lower lobe. Cyst in the left kidney.
IMPRESSION:
1. 1.2 cm right upper lobe nodule, suspicious for malignancy.
2. Left renal cyst, 14 mm.
3. 9 mm nodule in the left lower lobe."""


def test_the_impression_repeats_a_finding() -> None:
    nodule = next(finding for finding in extract(REPEATED) if finding.laterality is Laterality.RIGHT)
    assert phrases(REPEATED, nodule) == ["12.4 mm nodule in the right upper lobe", "1.2 cm right upper lobe nodule"]
    assert [mention.section for mention in nodule.mentions] == ["findings", "impression"]
    assert today(nodule) == [(12.4,)]


def test_the_mention_with_the_size_leads() -> None:
    cyst = one(REPEATED, "cyst")
    assert phrases(REPEATED, cyst) == ["Left renal cyst, 14 mm", "Cyst in the left kidney"]
    assert cyst.finding_id == f"r#{cyst.mentions[0].phrase[0]}-{cyst.mentions[0].phrase[1]}"


def test_sizes_that_disagree_are_not_merged() -> None:
    left = [
        finding
        for finding in extract(REPEATED)
        if finding.laterality is Laterality.LEFT and finding.observation == "nodule"
    ]
    assert [today(finding) for finding in left] == [[(6.0,)], [(9.0,)]]


def test_a_repeat_that_could_mean_two_findings_is_not_merged() -> None:
    text = "FINDINGS: 8 mm nodule in the right lung. 8 mm nodule in the right lung. IMPRESSION: 8 mm nodule in the right lung."
    assert [len(finding.mentions) for finding in extract(text)] == [1, 1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "There is a nodule in the right lower lobe. It measures 12 mm.",
        "There is a nodule in the right lower lobe. The nodule measures 12 mm.",
        "Nodule in the right lower lobe. This measures 12 mm (4/87).",
    ],
)
def test_the_next_sentence_gives_the_size(text: str) -> None:
    finding = one(text, "nodule")
    assert today(finding) == [(12.0,)]
    assert (finding.anatomy, finding.laterality, len(finding.mentions)) == ("right lower lobe", Laterality.RIGHT, 2)
    assert "12 mm" in phrases(text, finding)[0]


def test_a_pronoun_that_could_mean_two_things_gives_no_size() -> None:
    assert not any(finding.sizes for finding in extract("Nodule in the lung and cyst in the liver. It measures 12 mm."))


def test_a_structure_keeps_its_own_size() -> None:
    findings = extract("The ascending aorta measures 41 mm. Nodule in the left lung.")
    assert [size.kind for finding in findings for size in finding.sizes] == [SizeKind.NORMAL_STRUCTURE]
    assert not one("The ascending aorta measures 41 mm. Nodule in the left lung.", "nodule").sizes


def test_equal_phrases_keep_distinct_ids() -> None:
    ids = [finding.finding_id for finding in extract("Nodules measuring 5 and 7 mm in the left lower lobe.")]
    assert ids == ["r#0-51", "r#0-51.2"]


# The builder on a graph as a RadGraph model returns it, written by hand.
def entity(text: str, words: str, label: Label, *relations: tuple[Relation, int]) -> Entity:
    start = text.index(words)
    return Entity((start, start + len(words)), label, words, relations)


def test_a_measurement_entity_decides() -> None:
    text = "Cyst, nodule, 12 mm in size."
    graph = Graph(
        (
            entity(text, "Cyst", Label.OBSERVATION_PRESENT),
            entity(text, "nodule", Label.OBSERVATION_PRESENT),
            entity(text, "12 mm", Label.OBSERVATION_MEASUREMENT_PRESENT, (Relation.MODIFY, 0)),
        )
    )
    findings = build_findings(Report("r", text), graph, sizes=find_sizes(text), references=[], extractor="model@0")
    assert {finding.observation: bool(finding.sizes) for finding in findings} == {"cyst": True, "nodule": False}
    assert {finding.extractor for finding in findings} == {"model@0"}


def test_a_negated_description_does_not_negate_its_head() -> None:
    text = "Noncalcified nodule of 5 mm."
    graph = Graph(
        (
            entity(text, "Noncalcified", Label.OBSERVATION_ABSENT, (Relation.MODIFY, 1)),
            entity(text, "nodule", Label.OBSERVATION_PRESENT),
        )
    )
    (finding,) = build_findings(Report("r", text), graph, sizes=find_sizes(text), references=[], extractor="model@0")
    assert (finding.observation, finding.assertion) == ("nodule", Assertion.PRESENT)
    assert phrases(text, finding) == ["Noncalcified nodule of 5 mm"]


def test_heads_of_a_circle_of_descriptions() -> None:
    text = "nodular lesion"
    graph = Graph(
        (
            entity(text, "nodular", Label.OBSERVATION_PRESENT, (Relation.MODIFY, 1)),
            entity(text, "lesion", Label.OBSERVATION_PRESENT, (Relation.MODIFY, 0)),
        )
    )
    assert graph.heads() == [1]


def test_a_relation_to_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="not in the graph"):
        Graph((Entity((0, 1), Label.OBSERVATION_PRESENT, "x", ((Relation.MODIFY, 1),)),))


_SENTENCES = st.sampled_from(
    [text for text, _ in SIZED]
    + [
        "No pleural effusion.",
        "IMPRESSION:",
        "FINDINGS:",
        "\n",
        "1.",
        "It measures 9 mm.",
        "Seen by Dr. [NAME] on [DATE].",
        "(4/87)",
        "Ø",
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_SENTENCES, max_size=8).map(" ".join) | st.text(max_size=150))
def test_spans_ids_and_sizes_hold_together(text: str) -> None:
    findings = extract(text)
    assert len({finding.finding_id for finding in findings}) == len(findings)
    sizes = [size for finding in findings for size in finding.sizes]
    assert len({size.span for size in sizes}) == len(sizes)  # no size belongs to two findings
    assert {replace(s, kind=SizeKind.LESION) for s in sizes} <= {
        replace(s, kind=SizeKind.LESION) for s in find_sizes(text)
    }
    for finding in findings:
        for mention in finding.mentions:
            (start, end), (first, last) = mention.phrase, mention.sentence
            assert 0 <= first <= start < end <= last <= len(text)
        spans = [mention.phrase for mention in finding.mentions]
        assert all(any(start <= size.span[0] and size.span[1] <= end for start, end in spans) for size in finding.sizes)
    assert list(extract(text)) == list(findings)


def test_loading_by_name() -> None:
    extractor: Extractor = load_extractor("rules")
    assert extractor.name == "rules"
    assert [list(found) for found in extractor.extract([])] == []
    with pytest.raises(ValueError, match="rules"):
        load_extractor("rulez")


def test_importing_is_light() -> None:
    heavy = "{'spacy', 'torch', 'datasets', 'pandas', 'pyarrow', 'numpy'}"
    code = f"import nlp, sys; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "phrase",
    [
        "In the T7 vertebral body there is an osteoblastic lesion measuring 11 mm",
        "In the right upper lobe there is a nodule measuring 12 mm",
        "Previously 8 mm, the nodule in the left upper lobe now measures 9 mm",
    ],
)
def test_a_phrase_keeps_the_words_that_lead_into_it(phrase: str) -> None:
    text = f"No effusion. {phrase}. End."
    (finding,) = [f for f in extract(text) if f.sizes]
    assert phrases(text, finding) == [phrase]


@pytest.mark.parametrize(
    "text",
    [
        "Left upper lobe nodule 15 mm (12 mm).",
        "The left upper lobe nodule, which was 12 mm, is now 15 mm.",
        "Compared with the CT of last year, the left upper lobe nodule of 12 mm now measures 15 mm.",
        "Left upper lobe nodule: 12 mm in the arterial phase, 15 mm.",
        "Left upper lobe nodule, nadir 12 mm, current 15 mm.",
        "Left upper lobe nodule measures 15 mm, not 12 mm as dictated.",
        "Left kidney cyst 12 mm with 3 mm septum.",
        "History of 12 mm left upper lobe nodule.",
        "Left upper lobe nodule, 12 mm last year.",
        "Left upper lobe nodule, 12 mm at that time.",
        "Left upper lobe nodule has grown 12 mm since the prior study.",
    ],
)
def test_what_may_not_be_todays_size_is_not_the_size_of_a_lesion(text: str) -> None:
    """12 (or 3) mm is another day's, another part's or a mistake: a line of that length must not be linked to it."""
    lesion = [
        size.values_mm[0]
        for finding in extract(text)
        for size in finding.sizes
        if size.kind is SizeKind.LESION and size.temporality is Temporality.CURRENT
    ]
    assert set(lesion) <= {15.0}


GONE = [
    "At last follow-up the right upper lobe nodule was 9 mm; it is no longer visible.",
    "The left lower lobe nodule measured 8 mm, but it has resolved.",
    "The left lower lobe nodule was 8 mm. It has resolved.",
    "There was an 8 mm nodule in the left lower lobe which has resolved.",
    "Resolved 8 mm nodule in the left lower lobe.",
    "8 mm nodule in the left lower lobe: resolved.",
    "8 mm nodule has since resolved.",
    "Interval resolution of the 8 mm nodule in the left lower lobe.",
    "Disappearance of the 8 mm nodule in the right upper lobe.",
    "The 8 mm nodule in the lingula has disappeared.",
    "The 8 mm nodule is no longer identified.",
    "The 8 mm nodule in the lingula is no longer seen.",
    "Previously seen 8 mm nodule in the left lower lobe is not seen.",
    "8 mm nodule seen previously is gone.",
    "The patient had a 3.0 cm left renal mass resected in 2018.",
    "A 3 cm left renal mass was removed surgically in 2018.",
    "The 12 mm nodule in the right upper lobe has been removed.",
    "The 14 mm node in the left axilla was excised.",
    "The 2.5 cm liver lesion was ablated in 2019.",
    "Interval resection of the 1.5 cm left upper lobe nodule.",
    "Interval ablation of the 2.5 cm liver lesion.",
    "Interval removal of the 5 mm stone.",
    "Status post resection of a 3 cm left renal mass.",
    "S/p resection of 3 cm left renal mass.",
    "3 cm left renal mass, status post resection.",
    "Status post excision of a 14 mm axillary node.",
    "The patient underwent resection of a 3 cm left renal mass.",
    "Resected 3 cm left renal mass.",
    "Surgically absent 3 cm left renal mass.",
    "The 5 mm ureteral stone has passed.",
    "Interval passage of the 5 mm left ureteral stone.",
]


@pytest.mark.parametrize("text", GONE)
def test_what_is_gone_has_no_size_of_today(text: str) -> None:
    for given_text in (text, text.upper()):
        today_there = [f for f in extract(given_text) if today(f) and f.assertion is not Assertion.ABSENT]
        assert today_there == []


@pytest.mark.parametrize(
    "text",
    [
        "Resection margin nodule 8 mm in the left kidney.",
        "8 mm nodule at the resection margin in the left kidney.",
        "Status post left nephrectomy with a 3 cm recurrence in the bed.",
        "Status post resection of a left renal mass with residual 12 mm mass.",
        "Status post lobectomy, 8 mm nodule in the left lower lobe.",
        "S/p nephrectomy; 8 mm nodule in the left lung.",
        "12 mm mass adjacent to the resected liver lesion.",
        "Incompletely resected 3 cm mass in the left kidney.",
        "Subtotal resection of the 3 cm mass in the left kidney.",
        "Planned resection of the 3 cm mass in the left kidney.",
        "After ablation, residual 12 mm nodule in the liver.",
        "Ablated lesion in segment 7 measures 3.1 cm.",
        "Partially resolved 8 mm nodule in the left lower lobe.",
        "8 mm nodule, not resolved.",
        "The 8 mm nodule should be resected.",
        "The 8 mm nodule was not previously seen.",
        "The effusion has resolved and there is a 6 mm nodule.",
        "The effusion has resolved. It is 6 mm away. A 6 mm nodule.",
        "Since resection of the liver lesion, a new 8 mm nodule is seen in the lung.",
        "Interval resection of the left upper lobe nodule with a new 8 mm nodule in the right upper lobe.",
        "Status post resection of colon cancer with 12 mm liver metastasis.",
        "History of resected melanoma, 8 mm nodule in the left lower lobe.",
        "8 mm nodule in a patient with melanoma resected in 2018.",
        "The drain was removed and 3 cm collection persists.",
        "There is an 8 mm nodule. It is not seen on the prior examination.",
    ],
)
def test_what_is_beside_something_gone_is_there(text: str) -> None:
    (finding,) = [f for f in extract(text) if today(f)]
    assert finding.assertion is Assertion.PRESENT


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Multiple 6 mm nodules in both lungs.", "OTHER"),
        ("Two 12 mm nodules in the right upper lobe.", "OTHER"),
        ("Two 12 mm nodules in the right upper lobe (3/45).", "OTHER"),
        ("Bilateral 6 mm nodules.", "OTHER"),
        ("Two nodules of 4 mm each.", "OTHER"),
        ("Right renal calculi, 4 mm.", "OTHER"),
        ("Bilateral pleural effusions measuring 20 mm.", "OTHER"),
        ("Nodules in the right upper lobe. They measure 8 mm.", "OTHER"),
        ("Nodules in the right upper lobe. The largest measures 8 mm.", "LESION"),
        ("Multiple nodules measuring up to 6 mm in both lungs.", "LESION"),
        ("Nodules with a diameter of up to 6 mm in both lungs.", "LESION"),
        ("Nodules, the largest 8 mm, in the lingula.", "LESION"),
        ("The largest of the nodules is 8 mm.", "LESION"),
        ("Two nodules in the right upper lobe, the larger 12 mm.", "LESION"),
        ("Dominant 12 mm nodule among several nodules.", "LESION"),
        ("Lymph nodes, one of which measures 12 mm.", "LESION"),
        ("Bullae reaching 40 mm in the right lung.", "LESION"),
        ("Metastasis of 12 mm.", "LESION"),
        ("Ascites of 20 mm.", "LESION"),
        ("Abscess of 20 mm in the liver.", "LESION"),
    ],
)
def test_one_size_of_many_is_that_of_none(text: str, kind: str) -> None:
    """A line of that length may be any one of them: only "the largest" and "up to" say which."""
    (size,) = [size for finding in extract(text) for size in finding.sizes]
    assert size.kind is SizeKind(kind)


@pytest.mark.parametrize(
    ("text", "anatomy"),
    [
        ("T12 lesion 14 mm.", "t12 vertebra"),
        ("L2 sclerotic lesion 9 mm.", "l2 vertebra"),
        ("No. 4 station node 9 mm.", "station 4"),
        ("T2 lesion 9 mm.", None),
    ],
)
def test_a_number_before_a_lesion_is_its_place(text: str, anatomy: str | None) -> None:
    (finding,) = extract(text)
    assert finding.anatomy == anatomy


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Two nodules in the left upper lobe measuring 12 mm and 9 mm.", {12.0, 9.0}),
        ("Masses of 45 mm and 30 mm in the right lung.", {45.0, 30.0}),
        ("Liver metastases, 12 mm and 9 mm.", {12.0, 9.0}),
        ("Renal cyst 40 mm on the right and 30 mm on the left.", {40.0, 30.0}),
        ("Nodule of 12 mm and another of 9 mm in the lingula.", {12.0, 9.0}),
    ],
)
def test_several_sizes_are_those_of_several_things_only_if_the_report_says_so(text: str, values: set[float]) -> None:
    lesion = {s.values_mm[0] for f in extract(text) for s in f.sizes if s.kind is SizeKind.LESION}
    assert lesion >= values


@pytest.mark.parametrize(
    ("text", "anatomy", "side"),
    [
        ("A 12 mm right paratracheal lymph node.", "right paratracheal", Laterality.RIGHT),
        ("ENLARGED LYMPH NODE LEFT PARATRACHEAL REGION 12 MM.", "left paratracheal", Laterality.LEFT),
        ("Thrombus in the right atrium, 12 mm.", "right atrium", Laterality.RIGHT),
        ("Thrombus in the right ventricle, 12 mm.", "right ventricle", Laterality.RIGHT),
        ("Thrombus in the left ventricle, 12 mm.", "left ventricle", Laterality.LEFT),
    ],
)
def test_a_side_in_the_name_of_a_place_is_not_lost(text: str, anatomy: str, side: Laterality) -> None:
    (finding,) = extract(text)
    assert (finding.anatomy, finding.laterality) == (anatomy, side)
