"""Sentences made of templates: what a length is must not hang on which organ, date or verb stands around it.

Every template is filled with several exams, places and things; {a} is an old size, {b} today's.
"""

from __future__ import annotations

from itertools import islice, product

import pytest

from nlp import SizeKind, Temporality, find_sizes

_EACH = 8  # sentences per template, spread over all that it could make

EARLIER = [
    "the previous examination",
    "the previous CT examination",
    "the old CT",
    "the prior study",
    "the PET CT",
    "the PET-CT examination",
    "the CT dated 12.03.2019",
    "the previous review",
    "his previous CT",
    "the examination dated 12.03.2019",
    "the previous thorax CT examination",
    "the patient's previous examination",
    "the external center CT",
    "the MRI examination",
]
TODAY = [
    "the current examination",
    "this examination",
    "the present study",
    "today's CT",
    "the current CT examination",
]
THINGS = [
    "nodule",
    "mass lesion",
    "lymph node",
    "pleural effusion",
    "cyst",
    "consolidation area",
]
PLACES = [
    "in the right upper lobe",
    "at the left hilar level",
    "in segment 6 of the liver",
    "in the subcarinal area",
]
PAIRS = [("9 mm", "12 mm"), ("25x19 mm", "31x22 mm"), ("3 cm", "2 cm")]
# An old size and today's.
GROWTH = [
    "The {thing} {place} was {a} in {then} and {b} in {now}.",
    "The {thing} {place} was measured as {a} in {then}, {b} in {now}.",
    "The {thing}, which was {a} in {then}, is {b} in {now}.",
    "The {thing} {place}, which was {a} in {then}, was measured as {b} in {now}.",
    "The {thing}, which was measured {a} in {then}, was measured {b} in {now}.",
    "The {thing} {place} measures {b} in {now} ({a} in {then}).",
    "A {thing} measuring {b} ({a} in {then}) is observed {place}.",
    "A {thing} of {b} (it was {a} in {then}) is observed {place}.",
    "A {thing} of {b} ({bare_then}: {a}) is observed {place}.",
    "The {thing} {place} is {b}; it was {a} in {then}.",
    "The {thing} {place} is {b}, it was {a} in {then}.",
    "The {thing} {place} is {b}, while it was {a} in {then}.",
    "While the {thing} was {a} in {then}, it is {b} in {now}.",
    "While it was {a} in {then}, it was measured as {b} in {now}.",
    "In {then} it was {a}, in {now} it is {b}.",
    "In {then}, the {thing} measured {a}, and in {now} {b}.",
    "In {then}, the diameter of the {thing} was {a}; in {now} it is {b}.",
    "In {now}, the {thing} is {b} and it was {a} in {then}.",
    "The diameter of the {thing} {place} was {a} in {then} and increased to {b} in {now}.",
    "The {thing} {place} increased from {a} to {b}.",
    "The size of the {thing} {place} decreased from {a} in {then} to {b} in {now}.",
    "The {thing} {place} decreased to {b} ({a} in {then}).",
    "The {thing}, {a} in {then}, is now {b}.",
    "The long axis of the {thing} {place} is {b} and was {a} in {then}.",
    "The {thing} {place}, whose diameter was {a} in {then}, has a diameter of {b} in {now}.",
    "The {thing} {place}, measured as {a} in {then}, was {b} in {now} and increased.",
    "The size of the {thing} observed {place} in {then}, which was {a}, was measured as {b} in {now}.",
    "The dimensions of the {thing} {place} were {a} in {then} and {b} in {now}, and it is stable.",
    "The {thing} {place} has grown compared to {then} and measures {b} (previously {a}).",
    "{thing} of {b} {place}, {a} in {then}.",
    "The {thing} with a diameter of {a} in {then} is {b} in {now}.",
    "The {thing} {place} with dimensions of {b} in {now} and {a} in {then} is observed.",
    "The {thing} {place} is {b} ({a}, {bare_then}).",
]
# Another day is named, and yet the size is today's.
CURRENT = [
    "A {thing} of {b} is observed {place}, which was not observed in {then}.",
    "A {thing} of {b} is observed {place}, which was also present in {then}.",
    "A {thing} of {b} {place}, stable compared to {then}.",
    "Compared to {then}, the {thing} {place} is stable and measures {b}.",
    "Compared to {then}, a {thing} of {b} is newly observed {place}.",
    "Compared with {then}, {thing} {place}, {b}.",
    "According to {then}, the {thing} of {b} {place} is stable.",
    "The {thing} {place} observed in {then} is {b} in {now}.",
    "The {thing} {place} described in {then} measures {b}.",
    "The {thing} observed {place} in {then} was measured as {b} in {now}.",
    "The {thing} of {b} {place} does not differ significantly from {then}.",
    "There is no significant change in the {thing} of {b} {place} in comparison with {then}.",
    "The {thing} {place} has increased in size compared to {then} and was measured as {b}.",
    "The {thing} {place} was measured as {b}, and it increased compared to {then}.",
    "When compared with {then}, the size of the {thing} decreased and it is {b}.",
    "A {thing} with a diameter of {b} {place}, which was not detected in {then}, has just developed.",
    "The {thing} {place}, also available in {then}, is {b} in diameter.",
    "In {then}, a {thing} was observed {place}; its size is {b} in {now}.",
    "There is no {thing} in {then}. {thing} of {b} {place}.",
    "{Place} {thing} of {b}, similar to {then}.",
    "It was evaluated together with {then}. {thing} of {b} {place}.",
    "A newly developed {b} {thing} {place}, not seen in {then}.",
]
VESSELS = [
    "ascending aorta",
    "descending aorta",
    "aortic arch",
    "thoracic aorta",
    "pulmonary trunk",
    "main pulmonary artery",
    "right pulmonary artery",
    "left pulmonary artery",
    "pulmonary conus",
    "azygos vein",
    "superior vena cava",
    "portal vein",
    "common bile duct",
    "arcus aorta",
    "aortic root",
    "abdominal aorta",
    "pulmonary artery",
    "truncus pulmonalis",
]
CALIBRES = [
    "The {thing} is {b}.",
    "The {thing} diameter is {b}.",
    "The diameter of the {thing} is {b}.",
    "The {thing} has a diameter of {b}.",
    "{thing} diameter was measured as {b}.",
    "{thing} calibration is {b}.",
    "The {thing} is dilated ({b}).",
    "The {thing} is wider than normal and is {b} in diameter.",
    "The {thing} was measured as {b} and is wider than normal.",
    "The {thing} is ectatic, measuring {b}.",
    "The {thing} is enlarged, {b}.",
    "The widest part of the {thing} is {b}.",
    "The {thing} is {b} at its widest point.",
    "The {thing} measures {b} at the widest point.",
    "Dilatation of the {thing}, {b}.",
    "There is dilatation of the {thing} with a diameter of {b}.",
    "There is an increase in the diameter of the {thing} ({b}).",
    "An increase in the diameter of the {thing} is observed and was measured as {b}.",
    "Ectasia is observed in the {thing} ({b}).",
    "{thing}: {b}.",
    "{thing} {b}.",
    "The calibration of the {thing} has increased to {b}.",
    "The calibration of the {thing} is {b} and above normal.",
    "The transverse diameter of the {thing} is {b}.",
    "A dilated {thing} measuring {b} is observed.",
    "The {thing}, which is {b} in diameter, is dilated.",
    "The {thing} is at the upper limit with a diameter of {b}.",
    "The {thing} reached {b} in diameter.",
    "The {thing} reaches {b} in its widest part.",
    "The diameter of the {thing}, measured at the level of the pulmonary artery, is {b}.",
    "The diameter of the {thing} at the level of the carina is {b}.",
    "The {thing} is prominent, its diameter is {b}.",
    "Heart size is normal. The {thing} is wide. Its diameter is {b}.",
    "Aneurysmatic dilatation reaching {b} in the {thing}.",
    "There is fusiform dilatation in the {thing}, {b} in diameter.",
    "The {thing} is aneurysmatic with a diameter of {b}.",
    "Calibration of {thing} is {b}.",
    "In the {thing}, the diameter reaches {b} and it is ectatic.",
    "{b} ectasia in the {thing}.",
    "Diameter of {b} in the {thing}.",
    "The {thing} shows dilation up to {b}.",
    "The {thing} diameter has increased and is {b}.",
    "The {thing} AP diameter is {b}.",
    "The {thing} has a width of {b}.",
    "Width of the {thing}: {b}.",
]
BESIDE_A_VESSEL = [
    "A {lesion} of {b} adjacent to the {thing}.",
    "A {lesion} adjacent to the {thing} is {b}.",
    "A {b} {lesion} is observed near the {thing}.",
    "{lesion} measuring {b} at the level of the {thing}.",
    "At the level of the {thing}, a {lesion} with a diameter of {b} is observed.",
    "In the neighborhood of the {thing}, {b} {lesion}.",
    "Anterior to the {thing}, there is a {lesion} measuring {b}.",
    "A {lesion} surrounding the {thing}, {b} in size.",
    "A {lesion} between the {thing} and the trachea, {b}.",
    "The {lesion} extends to the {thing} and measures {b}.",
    "The {thing} is normal. {lesion} of {b} in the mediastinum.",
    "The {thing} is normal and there is a {lesion} of {b}.",
    "The {lesion} next to the {thing} has a diameter of {b}.",
    "The largest {lesion} is in the {thing} region and is {b}.",
    "The {lesion} that compresses the {thing} is {b}.",
    "The {thing} is surrounded by a {lesion} measuring {b}.",
    "{lesion} invading the {thing} with a size of {b}.",
    "The {lesion}, located lateral to the {thing}, is {b}.",
    "Lymph nodes around the {thing}, the largest of which is {b}.",
    "{lesion} behind the {thing}: {b}.",
    "The largest of the lymph nodes located at the {thing} level is {b}.",
    "{lesion}, {b}, in close contact with the {thing}.",
    "The long axis of the {lesion} adjacent to the {thing} is {b}.",
    "The dimensions of the {lesion} located anterior to the {thing} are {b}.",
    "In the {thing} area, a {lesion} of {b} was observed.",
    "A {lesion} with a thickness of {b} in the {thing}.",
    "There is a {lesion}, the diameter of which is {b}, adjacent to the {thing}.",
    "Diameter of the {lesion} adjacent to the {thing} is {b}.",
]
LESIONS = [
    "nodule",
    "mass lesion",
    "lymph node",
    "cyst",
    "hypodense lesion",
    "calcified nodule",
    "lymphadenopathy",
    "consolidation",
    "thrombus",
    "soft tissue lesion",
    "conglomerate lymph node",
    "cystic lesion",
]
NORMAL_STRUCTURE_THINGS = [
    ("spleen", "145 mm"),
    ("liver", "19 cm"),
    ("right kidney", "98 mm"),
    ("left kidney", "11 cm"),
    ("spleen", "14 cm"),
]
NORMAL_STRUCTURE_TEMPLATES = [
    "The {thing} is {b}.",
    "The {thing} is larger than normal ({b}).",
    "{thing} size is {b}.",
    "The size of the {thing} is {b}.",
    "The long axis of the {thing} is {b}.",
    "The {thing} measures {b} in the craniocaudal axis.",
    "The craniocaudal length of the {thing} was measured as {b}.",
    "{thing} dimensions have increased ({b}).",
    "The {thing} size increased and was measured as {b}.",
    "The {thing} is {b} in length.",
    "The vertical length of the {thing} is {b} and increased.",
    "The {thing} is enlarged with a long axis of {b}.",
    "{thing}: {b}.",
    "The {thing} has a length of {b}.",
    "The {thing} is {b} long.",
    "The {thing}, with a size of {b}, is larger than normal.",
    "Length of the {thing} {b}.",
    "The {thing} is above normal, with {b}.",
]
LESION_THINGS = [
    ("pleural effusion", "23 mm"),
    ("pericardial effusion", "9 mm"),
    ("effusion", "4 cm"),
    ("cyst in the spleen", "33 mm"),
    ("hypodense lesion in the liver", "25 mm"),
    ("stone in the right kidney", "6 mm"),
    ("nodule in the thyroid gland", "18 mm"),
    ("angiomyolipoma in the left kidney", "14 mm"),
    ("lipoma in the chest wall", "52 mm"),
    ("sclerotic lesion in the T8 vertebra", "9 mm"),
    ("bulla at the right apex", "45 mm"),
    ("hiatal hernia", "55 mm"),
    ("calculus in the gallbladder", "12 mm"),
    ("nodule in the left adrenal gland", "19 mm"),
    ("accessory spleen", "12 mm"),
    ("lymph node in the left axilla", "11 mm"),
    ("pneumothorax on the right", "22 mm"),
    ("pleural thickening", "6 mm"),
    ("cavitary lesion", "34 mm"),
    ("ground glass area", "16 mm"),
    ("hernia defect", "28 mm"),
    ("diverticulum in the trachea", "7 mm"),
    ("wall thickening in the esophagus", "13 mm"),
    ("hematoma in the spleen", "40 mm"),
    ("metastasis in the liver", "61 mm"),
    ("nodular opacity", "8 mm"),
    ("polypoid lesion in the trachea", "6 mm"),
    ("density in the left breast", "21 mm"),
]
LESION_TEMPLATES = [
    "There is a {thing} of {b}.",
    "A {b} {thing} is observed.",
    "A {thing} measuring {b}.",
    "A {thing} measuring {b} at its thickest point is seen.",
    "The {thing} is {b} in diameter.",
    "The {thing} measures {b}.",
    "The {thing} was measured as {b}.",
    "The {thing} ({b}) is stable.",
    "{thing}, {b}.",
    "{thing}: {b}.",
    "{thing} reaching {b} in size.",
    "The thickness of the {thing} is {b}.",
    "The diameter of the {thing} is {b}.",
    "The {thing}, the largest of which is {b}.",
    "{thing} with a diameter of {b}.",
    "{thing} with {b} diameter is seen.",
    "{thing} with dimensions of {b}.",
    "The {thing}, which is {b} in size, was observed.",
    "{thing} up to {b}.",
    "A {thing} of approximately {b}.",
    "{thing} of {b} was not observed in the previous examination.",
    "The long axis of the {thing} is {b}.",
    "{thing} is present, its diameter is {b}.",
    "{thing} is observed. It is {b} in diameter.",
    "{thing} is observed. Its size is {b}.",
    "{thing} is observed, the size is {b}.",
]
THRESHOLD_THINGS = [
    ("nodules", "5 mm"),
    ("lymph nodes", "1 cm"),
    ("cysts", "10 mm"),
]
THRESHOLD_TEMPLATES = [
    "{thing} less than {b} are seen.",
    "{thing} smaller than {b} in diameter.",
    "{thing} with a diameter of less than {b}.",
    "{thing} below {b}.",
    "{thing} not exceeding {b}.",
    "{thing} that do not exceed {b} in diameter.",
    "{thing} whose short axis does not exceed {b}.",
    "No {thing} larger than {b}.",
    "No {thing} greater than {b} were seen.",
    "There are no {thing} over {b}.",
    "{thing} under {b} in size.",
    "Millimetric {thing} (<{b}).",
    "{thing}, all smaller than {b}.",
    "{thing} with short axes less than {b}.",
    "{thing} with a short diameter below {b}.",
    "{thing} with dimensions smaller than {b}.",
    "{thing}, the largest not exceeding {b}.",
    "{thing} not larger than {b}.",
    "{thing} measuring less than {b}.",
    "{thing} the short diameter of which is smaller than {b}.",
    "{thing} with a size of less than {b}.",
    "{thing} of < {b}.",
    "{thing} whose sizes are less than {b}.",
    "{thing} with short axis diameters below {b} are observed.",
]
DISTANCE_THINGS = [
    ("endotracheal tube", "25 mm"),
    ("tracheostomy cannula", "4 cm"),
    ("intubation tube", "3 cm"),
]
DISTANCE_TEMPLATES = [
    "The tip of the {thing} is {b} above the carina.",
    "The {thing} ends {b} proximal to the carina.",
    "The distal end of the {thing} terminates {b} above the carina.",
    "{thing} ending {b} superior to the carina.",
    "The distance between the {thing} and the carina is {b}.",
    "The distance of the {thing} to the carina is {b}.",
    "The {thing} is located {b} above the carina.",
    "The {thing} is {b} from the carina.",
    "{thing} is observed {b} cranial to the carina.",
    "The distal end of the {thing} is approximately {b} proximal to the carina.",
    "{thing} tip at {b} to the carina.",
    "{thing} (distance to the carina {b}).",
    "The {thing} tip is at a distance of {b} from the carina.",
]
TECHNIQUE_THINGS = [
    ("axial", "1.5 mm"),
    ("thin", "1 mm"),
    ("", "3 mm"),
]
TECHNIQUE_TEMPLATES = [
    "{b} {thing} sections were taken.",
    "Images were obtained with a slice thickness of {b}.",
    "{thing} images with {b} slice thickness.",
    "The slice thickness is {b}.",
    "The examination was performed with a section thickness of {b}.",
    "Sections of {b} thickness were obtained.",
    "Reconstruction with {b} intervals.",
    "{b} thick {thing} slices.",
    "Slice thickness: {b}.",
]


def _spread(template: str, **choices: list[str]) -> list[dict[str, str]]:
    """A few of all the ways to fill a template, evenly spread, the same ones every time."""
    every = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    start = len(template) % 7
    return list(islice(every, start, None, max(1, len(every) // _EACH)))


def _fill(template: str, words: dict[str, str]) -> str:
    text = template.format(**words)
    return text[0].upper() + text[1:]


def _dated(template: str) -> list[tuple[str, str, str]]:
    made = []
    for words in _spread(
        template, then=EARLIER, now=TODAY, thing=THINGS, place=PLACES, pair=[str(i) for i in range(len(PAIRS))]
    ):
        a, b = PAIRS[int(words["pair"])]
        bare = words["then"].removeprefix("the ").removeprefix("his ")
        made.append(
            (_fill(template, words | {"a": a, "b": b, "bare_then": bare, "Place": words["place"].capitalize()}), a, b)
        )
    return made


@pytest.mark.parametrize("template", GROWTH)
def test_the_old_size_and_the_new_one(template: str) -> None:
    for text, a, b in _dated(template):
        found = {text[slice(*size.span)]: (size.temporality, size.kind) for size in find_sizes(text)}
        assert found == {a: (Temporality.PRIOR, SizeKind.LESION), b: (Temporality.CURRENT, SizeKind.LESION)}, text


@pytest.mark.parametrize("template", CURRENT)
def test_a_size_of_today_beside_another_day(template: str) -> None:
    for text, _, b in _dated(template):
        found = [(text[slice(*size.span)], size.temporality, size.kind) for size in find_sizes(text)]
        assert found == [(b, Temporality.CURRENT, SizeKind.LESION)], text


@pytest.mark.parametrize("template", CALIBRES)
def test_the_width_of_a_vessel(template: str) -> None:
    for vessel in VESSELS:
        text = _fill(template, {"thing": vessel, "b": "41 mm"})
        assert [size.kind for size in find_sizes(text)] == [SizeKind.NORMAL_STRUCTURE], text


@pytest.mark.parametrize("template", BESIDE_A_VESSEL)
def test_a_lesion_beside_a_vessel(template: str) -> None:
    for words in _spread(template, thing=VESSELS, lesion=LESIONS):
        text = _fill(template, words | {"b": "28 mm"})
        assert [size.kind for size in find_sizes(text)] == [SizeKind.LESION], text


_KINDS = {
    SizeKind.NORMAL_STRUCTURE: (NORMAL_STRUCTURE_TEMPLATES, NORMAL_STRUCTURE_THINGS),
    SizeKind.LESION: (LESION_TEMPLATES, LESION_THINGS),
    SizeKind.THRESHOLD: (THRESHOLD_TEMPLATES, THRESHOLD_THINGS),
    SizeKind.DISTANCE: (DISTANCE_TEMPLATES, DISTANCE_THINGS),
    SizeKind.TECHNIQUE: (TECHNIQUE_TEMPLATES, TECHNIQUE_THINGS),
}


@pytest.mark.parametrize(
    ("kind", "template"), [(kind, template) for kind, (templates, _) in _KINDS.items() for template in templates]
)
def test_what_a_length_is_of(kind: SizeKind, template: str) -> None:
    for thing, b in _KINDS[kind][1]:
        text = _fill(template, {"thing": thing, "b": b})
        assert [(size.kind, size.temporality) for size in find_sizes(text)] == [(kind, Temporality.CURRENT)], text
