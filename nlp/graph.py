"""The one graph that extractors produce and the finding builder reads: RadGraph's schema with character offsets.

Jain et al., RadGraph (NeurIPS Datasets and Benchmarks 2021), and the labels of RadGraph-XL (Delbrouck et al., ACL
Findings 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nlp.types import Assertion, Span


class Label(StrEnum):
    """What an entity is, in RadGraph-XL's words."""

    ANATOMY_PRESENT = "Anatomy::definitely present"
    ANATOMY_UNCERTAIN = "Anatomy::uncertain"
    ANATOMY_ABSENT = "Anatomy::definitely absent"
    ANATOMY_MEASUREMENT_PRESENT = "Anatomy::measurement::definitely present"
    ANATOMY_MEASUREMENT_UNCERTAIN = "Anatomy::measurement::uncertain"
    OBSERVATION_PRESENT = "Observation::definitely present"
    OBSERVATION_UNCERTAIN = "Observation::uncertain"
    OBSERVATION_ABSENT = "Observation::definitely absent"
    OBSERVATION_MEASUREMENT_PRESENT = "Observation::measurement::definitely present"
    OBSERVATION_MEASUREMENT_UNCERTAIN = "Observation::measurement::uncertain"
    OBSERVATION_MEASUREMENT_ABSENT = "Observation::measurement::definitely absent"

    @property
    def is_measurement(self) -> bool:
        """Whether the entity is a number and not a thing."""
        return "::measurement" in self

    @property
    def is_observation(self) -> bool:
        """Whether the entity is an observation (or a word that describes one)."""
        return self[0] == "O" and "::measurement" not in self

    @property
    def is_anatomy(self) -> bool:
        """Whether the entity is a place in the body."""
        return self[0] == "A" and "::measurement" not in self

    @property
    def assertion(self) -> Assertion:
        """Whether it is there."""
        if self.endswith("absent"):
            return Assertion.ABSENT
        return Assertion.UNCERTAIN if self.endswith("uncertain") else Assertion.PRESENT


class Relation(StrEnum):
    """How one entity stands to another."""

    MODIFY = "modify"
    LOCATED_AT = "located_at"
    SUGGESTIVE_OF = "suggestive_of"


@dataclass(frozen=True, slots=True)
class Entity:
    """A span of ``Report.text``, its label, its outgoing relations (to indexes in ``Graph.entities``) and its term.

    ``score`` is the model's own probability of the label (softmax, not calibrated), ``relation_scores`` those of the
    relations, in their order; None and empty where nobody gave any.
    """

    span: Span
    label: Label
    term: str
    relations: tuple[tuple[Relation, int], ...] = ()
    score: float | None = None
    relation_scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.relation_scores and len(self.relation_scores) != len(self.relations):
            raise ValueError(f"{len(self.relation_scores)} relation_scores for {len(self.relations)} relations")


@dataclass(frozen=True, slots=True)
class Graph:
    """The entities of one report, in order of their spans."""

    entities: tuple[Entity, ...]
    _incoming: Mapping[tuple[Relation, int], tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        last = len(self.entities)
        if any(not 0 <= target < last for entity in self.entities for _, target in entity.relations):
            raise ValueError("a relation points at an entity that is not in the graph")
        incoming: dict[tuple[Relation, int], tuple[int, ...]] = {}
        for index, entity in enumerate(self.entities):
            for relation in entity.relations:
                incoming[relation] = (*incoming.get(relation, ()), index)
        object.__setattr__(self, "_incoming", incoming)

    @classmethod
    def from_radgraph(cls, document: Mapping[str, Any], text: str) -> Graph:
        """Read one document of RadGraph's JSON (v1 or XL labels), whoever ran the model: see ``nlp.radgraph_json``.

        Parameters
        ----------
        document
            ``{"text": ..., "entities": {"1": {"label", "start_ix", "end_ix", "relations"}}}``, as in
            ``radgraph([text])["0"]``.
        text
            The report that it was made from, character for character.

        Raises
        ------
        ReportError
            The document has another form, an unknown label, or is not one of this text.

        """
        from nlp.radgraph_json import read_document  # it builds graphs

        return read_document(document, text)

    def targets(self, index: int, relation: Relation) -> list[int]:
        """Where an entity's relations of one kind lead."""
        return [target for kind, target in self.entities[index].relations if kind is relation]

    def sources(self, index: int, relation: Relation) -> tuple[int, ...]:
        """Which entities have a relation of one kind to this one."""
        return self._incoming.get((relation, index), ())

    def closure(self, index: int) -> list[int]:
        """An entity and all that modify it, directly or through others, in order of their spans."""
        if not self.sources(index, Relation.MODIFY):
            return [index]
        seen = {index}
        queue = [index]
        while queue:
            for source in self.sources(queue.pop(), Relation.MODIFY):
                if source not in seen:
                    seen.add(source)
                    queue.append(source)
        return sorted(seen)

    def chain(self, place: int) -> set[int]:
        """A place of the body with its parts and the wholes that it is part of."""
        found = set(self.closure(place))
        wholes = [place]
        while wholes:
            wholes = [whole for part in wholes for whole in self.targets(part, Relation.MODIFY) if whole not in found]
            found.update(wholes)
        return {index for index in found if self.entities[index].label.is_anatomy}

    def heads(self) -> list[int]:
        """Observations that describe no other observation; in a cycle of descriptions, the last of it."""
        found = []
        for index, entity in enumerate(self.entities):
            if not entity.label.is_observation:
                continue
            described = [
                target for target in self.targets(index, Relation.MODIFY) if self.entities[target].label.is_observation
            ]
            if all(
                target < index and index in self.closure(target) and target in self.closure(index)
                for target in described
            ):
                found.append(index)
        return found
