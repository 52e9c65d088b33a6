"""A text that grows sentence by sentence, and where in it each lesion is said."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from cohort_builder.demo.sights import Sight
from cohort_builder.demo.words import Dictated, place_with_article, with_article
from nlp.types import Span

_TOKEN = re.compile(r"(\{\w+\})")


@dataclass(frozen=True, slots=True)
class Said:
    """One mention of a lesion.

    Parameters
    ----------
    key
        ``LesionPlan.key``.
    sentence
        Half-open span of the whole sentence in the text.
    size
        Span of the current size in it, None if the mention has none; ``values_mm`` is what it states.
    prior
        Span of the earlier size, if one is quoted.

    """

    key: str
    sentence: Span
    size: Span | None
    values_mm: tuple[float, ...]
    prior: Span | None = None
    prior_mm: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """A sight put into words; ``size`` None where no length is dictated."""

    sight: Sight
    observation: str
    size: Dictated | None
    prior: Dictated | None
    reference: str
    is_short_axis: bool
    is_estimate: bool
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as it stands, or with placeholders (see ``sentences``) for a fact."""

    template: str
    fact: Fact | None = None


@dataclass(slots=True)
class Text:
    """A text that grows, and what it says of lesions; ``is_capital`` writes all of it in capitals."""

    is_capital: bool
    parts: list[str] = field(default_factory=list)
    length: int = 0
    said: list[Said] = field(default_factory=list)

    def add(self, piece: str) -> Span:
        """Append a piece; return where it stands."""
        piece = piece.upper() if self.is_capital else piece
        self.parts.append(piece)
        start, self.length = self.length, self.length + len(piece)
        return start, self.length

    def add_sentence(self, sentence: Sentence) -> None:
        """Append a sentence, and note what it says of its fact."""
        if sentence.fact is None:
            self.add(sentence.template)
            return
        fact, start = sentence.fact, self.length
        words = _words(fact)
        size = prior = None
        for token in _TOKEN.split(sentence.template):
            name = token[1:-1]
            if token[:1] != "{":
                self.add(token)
            elif name.lower() in {"size", "a_size"} and fact.size is not None:
                # The article stands before the span of the size.
                article = "" if name == "size" else with_article(fact.size.text).removesuffix(fact.size.text)
                self.add(article.capitalize() if name[0].isupper() else article)
                size = self.add(fact.size.text)
            elif name == "prior_size" and fact.prior is not None:
                prior = self.add(fact.prior.text)
            else:
                said = words[name.lower()]
                self.add(said[:1].upper() + said[1:] if name[0].isupper() else said)
        values = () if fact.size is None or size is None else fact.size.values_mm
        earlier = () if fact.prior is None or prior is None else fact.prior.values_mm
        self.said.append(Said(fact.sight.lesion.key, (start, self.length), size, values, prior, earlier))

    def add_paragraph(self, sentences: Iterable[Sentence]) -> None:
        """Append sentences with a space between them."""
        for i, sentence in enumerate(sentences):
            if i:
                self.add(" ")
            self.add_sentence(sentence)


def _words(fact: Fact) -> dict[str, str]:
    """Fill the placeholders that are no sizes."""
    location = fact.sight.location
    return {
        "obs": fact.observation,
        "a_obs": with_article(fact.observation),
        "place": place_with_article(location),
        "bare_place": location,
        "ref": f" {fact.reference}" if fact.reference else "",
        "verdict": fact.remark,
    }
