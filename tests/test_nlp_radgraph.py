"""RadGraph through the real package and the real loader, on small models that the test makes itself.

Their weights are drawn at random: they show that the machinery is exact, not that the findings are right. What a graph
means is tested on documents written by hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from radgraph_models import Made, make_models, package_of

import nlp
from nlp import (
    Assertion,
    Finding,
    Graph,
    ImageReference,
    Label,
    Laterality,
    RadGraphExtractor,
    Relation,
    Report,
    ReportError,
    SizeKind,
    build_findings,
    find_image_references,
    find_sizes,
)
from nlp.radgraph import BLOCK_TOKENS, reconcile
from nlp.radgraph_json import align_tokens
from nlp.radgraph_model import quiet

REPORT = (
    "FINDINGS: There is a 12 mm nodule in the right lower lobe (4/87), previously 9 mm. No pleural effusion.\n"
    "The liver is normal. A 3.4 x 2.1 cm mass in segment 7, unchanged.\n\nIMPRESSION: 1. 12 mm nodule. 2. Mass."
)
MANY_PIECES = " ".join("nodule-in-the-right-lower-lobe" for _ in range(22))
"""Fewer tokens than a block has, more pieces than the encoder takes at once."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    return make_models(tmp_path_factory.mktemp("radgraph"))


@pytest.fixture(scope="module")
def loaded(made: dict[str, Made]) -> dict[str, RadGraphExtractor]:
    return {name: one.load() for name, one in made.items()}


# ---- what it answers -------------------------------------------------------------------------------------------------


def words_of(seed: int, lengths: Sequence[int]) -> list[str]:
    sentence = (
        "there is a 12 mm nodule in the right lower lobe (4/87). No pleural effusion; mass 3 x 4 cm, liver normal"
    )
    words = sentence.split()
    rng = np.random.default_rng(seed)
    return [" ".join(words[i] for i in rng.integers(0, len(words), size=length)) for length in lengths]


@pytest.mark.parametrize("name", ["xl", "v1", "generic"])
def test_the_answer_is_that_of_the_package(
    made: dict[str, Made], loaded: dict[str, RadGraphExtractor], name: str
) -> None:
    one, ours = made[name], loaded[name]
    theirs = package_of(one)
    some = 0
    for text in [REPORT, MANY_PIECES, *words_of(0, [1, 2, 7, 30, 60])]:
        with quiet():
            wanted = theirs([text])["0"]
        answer = ours.annotate(text)
        scores = [entity.pop("score") for entity in answer["entities"].values()]
        for entity in answer["entities"].values():
            scores += [relation.pop() for relation in entity["relations"]]
        assert answer == wanted
        assert all(0 < score <= 1 for score in scores)
        some += sum(len(entity["relations"]) for entity in answer["entities"].values())
    assert some > 0


@pytest.mark.parametrize("name", ["xl", "v1", "generic"])
def test_a_batch_answers_as_one_by_one(made: dict[str, Made], name: str) -> None:
    lengths = [1, 1, 2, 3, 5, 8, 8, 8, 13, 20, 21, 29, 29, 40, 60, 90]
    texts = words_of(1, lengths)
    texts.insert(4, "")
    texts.append("\t\n")
    reports = [Report(str(number), text) for number, text in enumerate(texts)]
    together = made[name].load(batch_tokens=100_000)
    alone = made[name].load(batch_tokens=1)
    documents = [alone.annotate(text) for text in texts]
    assert sum(bool(document["entities"]) for document in documents) > len(texts) // 2
    for report, document, answer in zip(reports, documents, together._annotations(reports), strict=True):
        assert not isinstance(answer, ReportError)
        assert plain(answer) == plain(document), f"{len(report.text.split())} words"
        assert scores_of(answer) == pytest.approx(scores_of(document), abs=2e-4)
    assert list(map(list, together.extract(reports))) == [list(alone.extract([report])[0]) for report in reports]


def plain(document: Mapping[str, Any]) -> object:
    return document["text"], [
        (
            entity["label"],
            entity["start_ix"],
            entity["end_ix"],
            [tuple(relation[:2]) for relation in entity["relations"]],
        )
        for entity in document["entities"].values()
    ]


def scores_of(document: Mapping[str, Any]) -> list[float]:
    entities = document["entities"].values()
    return [entity["score"] for entity in entities] + [link[2] for entity in entities for link in entity["relations"]]


@pytest.mark.parametrize("name", ["xl", "v1", "generic"])
def test_end_to_end_every_span_is_in_the_text(loaded: dict[str, RadGraphExtractor], name: str) -> None:
    extractor = loaded[name]
    findings = [
        f
        for found in extractor.extract([Report(str(i), t) for i, t in enumerate([REPORT, *words_of(2, [50] * 4)])])
        for f in found
    ]
    assert findings
    for finding in findings:
        assert finding.extractor == f"radgraph@{extractor.version}"
        for mention in finding.mentions:
            assert mention.sentence[0] <= mention.phrase[0] < mention.phrase[1] <= mention.sentence[1]


def test_a_finding_has_the_lengths_of_the_rules(loaded: dict[str, RadGraphExtractor]) -> None:
    known = {size.span: size.values_mm for size in find_sizes(REPORT)}
    sizes = [
        size for one in loaded.values() for finding in one.extract([Report("r", REPORT)])[0] for size in finding.sizes
    ]
    assert sizes
    assert all(known[size.span] == size.values_mm for size in sizes)


# ---- long documents --------------------------------------------------------------------------------------------------


def sentences(count: int, words: int) -> str:
    return "\n".join(
        f"In place {number} there is a {number % 30 + 1} mm nodule{' and more' * words}." for number in range(count)
    )


@pytest.mark.parametrize(("count", "words"), [(30, 3), (12, 13), (1, 150)])
def test_a_long_document_is_split_at_sentences(
    loaded: dict[str, RadGraphExtractor], monkeypatch: pytest.MonkeyPatch, count: int, words: int
) -> None:
    text = sentences(count, words)
    extractor = loaded["xl"]
    seen: list[list[str]] = []
    predict = extractor._model.predict

    def spy(blocks: Sequence[Sequence[str]]) -> Any:
        seen.extend(map(list, blocks))
        return predict(blocks)

    monkeypatch.setattr(extractor._model, "predict", spy)
    document = extractor.annotate(text)
    tokens = document["text"].split()
    assert len(tokens) > BLOCK_TOKENS
    assert [token for block in seen for token in block] == tokens
    assert max(map(len, seen)) <= BLOCK_TOKENS
    if words < 100:  # each sentence fits: blocks end where a sentence does, and hold as many as they can
        assert all(block[-1] == "." for block in seen)
        assert all(len(a) + b.index(".") + 1 > BLOCK_TOKENS for a, b in itertools.pairwise(seen))
    cut, starts = 0, []
    for block in seen:
        starts.append(cut)
        cut += len(block)
    block_of = np.searchsorted(starts, np.arange(len(tokens)), side="right")
    entities = document["entities"]
    assert entities
    for entity in entities.values():
        assert block_of[entity["start_ix"]] == block_of[entity["end_ix"]]
        assert all(
            block_of[entities[to]["start_ix"]] == block_of[entity["start_ix"]] for _, to, _ in entity["relations"]
        )
    monkeypatch.undo()
    for start, block in zip(starts[-1:], seen[-1:], strict=True):  # as if it were a report
        own = extractor.annotate(" ".join(block))
        inside = [e for e in entities.values() if start <= e["start_ix"] < start + len(block)]
        assert [(e["start_ix"] - start, e["end_ix"] - start, e["label"]) for e in inside] == [
            (e["start_ix"], e["end_ix"], e["label"]) for e in own["entities"].values()
        ]


def test_a_report_beyond_all_measure_is_refused(loaded: dict[str, RadGraphExtractor]) -> None:
    with pytest.raises(ReportError, match="has 25000 tokens; RadGraph is given 20000 at most"):
        loaded["xl"].annotate("nodule " * 25_000)


# ---- one report costs one report ---------------------------------------------------------------------------------------


def test_a_report_that_fails_costs_itself_alone(
    loaded: dict[str, RadGraphExtractor], monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = loaded["xl"]
    reader = extractor._model._reader
    read = reader.text_to_instance

    def failing(document: Mapping[str, Any]) -> Any:
        if "poison" in document["sentences"][0]:
            raise MemoryError("a text of 12 words")
        return read(document)

    monkeypatch.setattr(reader, "text_to_instance", failing)
    reports = [
        Report("0", REPORT),
        Report("1", "some poison in the liver"),
        Report("2", REPORT),
        Report("3", "leber", language="de"),
    ]
    told: list[tuple[int, str]] = []
    found = extractor.extract(reports, on_error=lambda number, error: told.append((number, str(error))))
    assert told == [
        (1, "RadGraph failed on the report with MemoryError"),
        (3, "the report is in another language than RadGraph reads (en)"),
    ]
    assert [bool(one) for one in found] == [True, False, True, False]
    with pytest.raises(ReportError, match="failed on the report with MemoryError"):
        extractor.extract(reports)


# ---- exact offsets -----------------------------------------------------------------------------------------------------

NASTY = st.text(
    st.one_of(
        st.sampled_from(
            [
                *" \n\t.,;:()/-%'\"\\x0128mcn",
                "\u00a0",
                "\u2028",
                "\x1f",
                "\x85",
                "\u200b",
                "\u202e",
                "\ufeff",
                "１",
                "×",
                "é",
                "\u0301",
                "\ud83e",
                "🫁",
            ]
        ),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)
ESCAPES = st.lists(
    st.one_of(
        NASTY, st.sampled_from(["\\n", "\\f", "\\u2122", '\\"', "\\\\n", "1.2x0.8cm", "(4/87).", "10%).", "12-mm"])
    ),
    max_size=8,
).map("".join)


@settings(max_examples=400)
@given(ESCAPES)
@example('He said \\"no nodule\\".\\nNext 5%, x.')
@example("")
def test_the_text_of_a_token_is_the_text_of_its_span(loaded: dict[str, RadGraphExtractor], text: str) -> None:
    for name, extractor in loaded.items():
        tokens = extractor._model.tokens(text)
        spans = align_tokens(tokens, text)
        written = [text[slice(*span)] for span in spans]
        if name == "v1":
            assert written == tokens
        else:  # what the package makes of an escaped quotation mark
            assert [word.replace('\\"', "``") for word in written] == tokens
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


@settings(max_examples=15)
@given(ESCAPES)
def test_the_graph_of_any_text_is_exact(loaded: dict[str, RadGraphExtractor], text: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        text = text.encode("utf-8", "replace").decode()
    document = loaded["xl"].annotate(text)
    graph = Graph.from_radgraph(document, text)
    words = {entity["tokens"].replace(" ", "") for entity in document["entities"].values()}
    for entity in graph.entities:
        written = "".join(text[slice(*entity.span)].split()).replace('\\"', "``")
        assert written in words or entity.label.is_anatomy or "\\" in text


def test_a_document_of_another_text_is_refused() -> None:
    document = {"text": "a nodule .", "entities": {"1": entity("OBS-DP", 1)}}
    assert Graph.from_radgraph(document, "A nodule.".replace("A", "a")).entities[0].span == (2, 8)
    for other in ("a mass.", "a nodule", "a nodule. More", ""):
        if other:
            with pytest.raises(ReportError, match="is not one of this text"):
                Graph.from_radgraph(document, other)
        else:
            assert Graph.from_radgraph(document, other).entities == ()


# ---- what a document means ---------------------------------------------------------------------------------------------


def entity(
    label: str, first: int, last: int | None = None, *relations: tuple[str, str], **more: object
) -> dict[str, Any]:
    return {
        "tokens": "",
        "label": label,
        "start_ix": first,
        "end_ix": first if last is None else last,
        "relations": list(map(list, relations)),
        **more,
    }


PRESENT, ABSENT, ANATOMY = (
    "Observation::definitely present",
    "Observation::definitely absent",
    "Anatomy::definitely present",
)
MEASURED, PLACED = "Observation::measurement::definitely present", "Anatomy::measurement::definitely present"


def findings_of(text: str, tokens: str, **entities: dict[str, Any]) -> list[Finding]:
    graph = Graph.from_radgraph({"text": tokens, "entities": {key[1:]: value for key, value in entities.items()}}, text)
    references = find_image_references(text)
    graph, sizes = reconcile(text, graph, sizes=find_sizes(text), references=references)
    return build_findings(Report("r", text), graph, sizes=sizes, references=references, extractor="radgraph@0")


def test_a_nodule_with_its_place_size_and_image() -> None:
    text = "There is a 12 mm nodule in the right\n lower lobe (4/87). No pleural effusion."
    tokens = "There is a 12 mm nodule in the right lower lobe ( 4 / 87 ) . No pleural effusion ."
    nodule, effusion = findings_of(
        text,
        tokens,
        _1=entity(MEASURED, 3, 4, ("modify", "2")),
        _2=entity(PRESENT, 5, 5, ("located_at", "5")),
        _3=entity(ANATOMY, 8, 8, ("modify", "5")),
        _4=entity(ANATOMY, 9, 9, ("modify", "5")),
        _5=entity(ANATOMY, 10),
        _6=entity(ANATOMY, 18),
        _7=entity(ABSENT, 19, 19, ("located_at", "6")),
    )
    assert (nodule.observation, nodule.assertion, nodule.anatomy) == ("nodule", Assertion.PRESENT, "right lower lobe")
    assert nodule.laterality is Laterality.RIGHT
    assert [size.values_mm for size in nodule.sizes] == [(12.0,)]
    assert nodule.image_references == (ImageReference(4, 87, 87, (49, 55)),)
    assert text[slice(*nodule.mentions[0].phrase)] == "12 mm nodule in the right\n lower lobe (4/87)"
    assert (effusion.observation, effusion.assertion, effusion.sizes) == ("pleural effusion", Assertion.ABSENT, ())


def test_the_older_labels_mean_the_same() -> None:
    text = "A 12 mm nodule in the left lung; no effusion. Possible cyst."
    tokens = "A 12 mm nodule in the left lung; no effusion . Possible cyst ."
    nodule, effusion, cyst = findings_of(
        text,
        tokens,
        _1=entity("OBS-DP", 1, 2, ("modify", "2")),  # no label for a measurement: the rules say that it is one
        _2=entity("OBS-DP", 3, 3, ("located_at", "4")),
        _3=entity("ANAT-DP", 6, 6, ("modify", "4")),
        _4=entity("ANAT-DP", 7),
        _5=entity("OBS-DA", 9),
        _6=entity("OBS-U", 12),
    )
    assert (nodule.observation, nodule.laterality, nodule.sizes[0].values_mm) == ("nodule", Laterality.LEFT, (12.0,))
    assert (effusion.assertion, cyst.assertion) == (Assertion.ABSENT, Assertion.UNCERTAIN)


def test_the_graph_says_to_which_of_two_a_length_belongs() -> None:
    text = "Cyst beside mass measuring 12 mm."
    tokens = "Cyst beside mass measuring 12 mm ."
    for target, wanted in (("1", "cyst"), ("2", "mass")):
        found = findings_of(
            text,
            tokens,
            _1=entity(PRESENT, 0),
            _2=entity(PRESENT, 2),
            _3=entity(MEASURED, 4, 5, ("modify", target)),
        )
        assert [finding.observation for finding in found if finding.sizes] == [wanted]


def test_what_the_rules_call_no_length_is_no_size() -> None:
    text = "Mass with density 35 HU in the liver."
    tokens = "Mass with density 35 HU in the liver ."
    (mass,) = findings_of(
        text,
        tokens,
        _1=entity(PRESENT, 0, 0, ("located_at", "3")),
        _2=entity(MEASURED, 3, 4, ("modify", "1")),
        _3=entity(ANATOMY, 7),
    )
    assert (mass.sizes, mass.anatomy) == ((), "liver")


def test_a_length_that_the_model_measures_anatomy_with_links_to_nothing() -> None:
    text = "Mass. Node station 12 mm wide."
    graph = Graph.from_radgraph(
        {
            "text": "Mass . Node station 12 mm wide .",
            "entities": {"1": entity(PLACED, 4, 5, ("modify", "2")), "2": entity(ANATOMY, 3), "3": entity(PRESENT, 0)},
        },
        text,
    )
    (size,) = find_sizes(text)
    lesion = nlp.Size(size.values_mm, size.roundings_mm, size.axes, size.span, kind=SizeKind.LESION)
    assert reconcile(text, graph, sizes=[lesion], references=[])[1][0].kind is SizeKind.OTHER
    node = Graph.from_radgraph(
        {
            "text": "Mass . Node station 12 mm wide .",
            "entities": {"1": entity(PLACED, 4, 5, ("modify", "2")), "2": entity(PRESENT, 2, 3)},
        },
        text,
    )
    assert reconcile(text, node, sizes=[lesion], references=[])[1][0].kind is SizeKind.LESION


def test_a_finding_stays_in_its_sentence() -> None:
    text = "Nodule seen. It is in the liver, where a cyst is. IMPRESSION: Stable."
    (nodule, cyst) = findings_of(
        text,
        "Nodule seen . It is in the liver , where a cyst is . IMPRESSION : Stable .",
        _1=entity(PRESENT, 0, 0, ("located_at", "2")),
        _2=entity(ANATOMY, 7),
        _3=entity(PRESENT, 11, 11, ("located_at", "2")),
        _4=entity(PRESENT, 13, 14),
    )
    assert [text[slice(*one.mentions[0].phrase)] for one in (nodule, cyst)] == ["Nodule", "in the liver, where a cyst"]
    assert (nodule.anatomy, cyst.anatomy) == (None, "liver")


def test_numbers_and_image_references_are_no_observations() -> None:
    text = "Nodule (series 4, image 87) 12 mm."
    (nodule,) = findings_of(
        text,
        "Nodule ( series 4 , image 87 ) 12 mm .",
        _1=entity(PRESENT, 0),
        _2=entity(PRESENT, 2),
        _3=entity(PRESENT, 5, 6),
        _4=entity(PRESENT, 8, 9, ("modify", "1")),
    )
    assert (nodule.observation, nodule.sizes[0].values_mm) == ("nodule", (12.0,))


def test_of_overlapping_entities_the_surer_one_is_kept_with_the_relations_of_both() -> None:
    text = "Small solid nodule in the lung."
    document = {
        "text": "Small solid nodule in the lung .",
        "entities": {
            "1": entity(PRESENT, 0, 0, ("modify", "3", 0.5), score=0.9),
            "2": entity(PRESENT, 1, 2, ("located_at", "4", 0.7), score=0.6),
            "3": entity(PRESENT, 2, 2, score=0.8),
            "4": entity(ANATOMY, 5, score=0.95),
        },
    }
    graph = Graph.from_radgraph(document, text)
    assert [text[slice(*one.span)] for one in graph.entities] == ["Small", "nodule", "lung"]
    assert [one.score for one in graph.entities] == [0.9, 0.8, 0.95]
    assert [one.relations for one in graph.entities] == [((Relation.MODIFY, 1),), ((Relation.LOCATED_AT, 2),), ()]
    assert [one.relation_scores for one in graph.entities] == [(0.5,), (0.7,), ()]
    for one in document["entities"].values():
        del one["score"]
    longer = Graph.from_radgraph(document, text)
    assert [text[slice(*one.span)] for one in longer.entities] == ["Small", "solid nodule", "lung"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("text"), "not a document of RadGraph"),
        (lambda d: d.pop("entities"), "not a document of RadGraph"),
        (lambda d: d["entities"]["1"].pop("relations"), "not a document of RadGraph"),
        (lambda d: d["entities"]["1"].update(end_ix=9), "entity 1 .* is outside its 3 tokens"),
        (lambda d: d["entities"]["1"].update(start_ix="0"), "entity 1 .* is outside its 3 tokens"),
        (lambda d: d["entities"]["1"].update(label="OBS"), "label of neither RadGraph nor RadGraph-XL"),
        (lambda d: d["entities"]["1"].update(relations=[["modify", "7"]]), "unknown relation or one to no entity"),
        (lambda d: d["entities"]["1"].update(relations=[["causes", "1"]]), "unknown relation or one to no entity"),
        (lambda d: d["entities"]["1"].update(relations=[3]), "not a document of RadGraph"),
    ],
)
def test_a_document_of_another_form_is_refused_without_its_text(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    document = {"text": "Smith nodule .", "entities": {"1": entity(PRESENT, 1)}}
    assert Graph.from_radgraph(document, "Smith nodule.").entities[0].label is Label.OBSERVATION_PRESENT
    change(document)
    with pytest.raises(ReportError, match=message) as caught:
        Graph.from_radgraph(document, "Smith nodule.")
    assert "Smith" not in str(caught.value)
    with pytest.raises(ReportError, match="give one member"):
        Graph.from_radgraph({"0": document}, "Smith nodule.")
