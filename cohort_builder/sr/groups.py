"""A measurement group (PS3.16 TID 1501, 1410, 1411) or a section: what is drawn in it and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from cohort_builder.authorship import group_of, moment
from cohort_builder.gsps.texts import is_density
from cohort_builder.pacs.elements import sequence, text
from cohort_builder.sr.concepts import (
    ALGORITHM_NAME,
    DEVICE,
    DEVICE_OBSERVER,
    DIAMETERS,
    HOUNSFIELD,
    IMAGE_LIBRARIES,
    LABELS,
    MEASUREMENT_GROUP,
    MM_PER_UNIT,
    OBSERVER_NAME,
    OBSERVER_TYPE,
    PERSON,
    SEGMENTS,
    TEMPORAL_OFFSET,
    TRACKING_IDENTIFIER,
    VIEWER_SCHEMES,
    is_absent,
    is_earlier,
    measure_of,
    tool_of,
)
from cohort_builder.sr.images import measured, names_segmentation
from cohort_builder.sr.tree import Node, code_in

if TYPE_CHECKING:
    from datetime import datetime

_MOST_MM = 1000.0  # larger numbers are typed by mistake
_NOBODY = frozenset({"unknown^unknown", "unknown", "anonymous"})  # what viewers write for a user who is not logged in
COORDINATES = frozenset({"SCOORD", "SCOORD3D"})


@dataclass(eq=False)
class Group:
    """A container with coordinates or numbers directly in it, or in the items in it.

    ``context`` is what the observation context of the document says against it: a reason of ``refusal``.
    """

    node: Node
    context: str | None = None
    coordinates: list[Node] = field(default_factory=list)
    numbers: list[Node] = field(default_factory=list)

    @cached_property
    def tool(self) -> str | None:
        """The viewer's tool, where the tracking identifier names one."""
        identifier = self.node.says(TRACKING_IDENTIFIER)
        return None if identifier is None else tool_of(text(identifier.ds, "TextValue") or "")

    @cached_property
    def label(self) -> str:
        """Tracking identifier (if a person wrote it), findings, sites and comments: private."""
        lines = []
        for child in self.node.children:
            if child.concept.key == TRACKING_IDENTIFIER and self.tool is None:
                lines.append(text(child.ds, "TextValue"))
            elif child.concept.key in LABELS:
                lines.append(child.code.meaning or text(child.ds, "TextValue"))
        return "\n".join(line for line in lines if line)

    @property
    def refusal(self) -> str | None:
        """Why nothing in it is read: ``prior_measurement``, ``absent_finding``, ``drawn_by_algorithm``, or None."""
        if self.context is not None:
            return self.context
        said = [child for child in self.node.children if child.value_type not in {"NUM", "CONTAINER", *COORDINATES}]
        offset = self.node.says(TEMPORAL_OFFSET)
        return next((reason for node in [*said, *filter(None, [offset])] if (reason := _refused(node))), None)

    @cached_property
    def is_density(self) -> bool:
        """Whether its words, or a number stated of it as a whole, read out pixel values."""
        own = {id(node.parent) for node in self.coordinates} | {id(number) for number in self._referring.values()}
        stated = (number for number in self.numbers if id(number) not in own)
        return is_density(self.label) or any(map(reads_density, stated))

    def number_of(self, coordinates: Node) -> Node | None:
        """Return the number that was inferred from coordinates: they stand in it, or it refers to them."""
        if coordinates.parent is not None and coordinates.parent.value_type == "NUM":
            return coordinates.parent
        return self._referring.get(coordinates.path)

    @cached_property
    def _referring(self) -> dict[tuple[int, ...], Node]:
        return {child.target: number for number in reversed(self.numbers) for child in number.children if child.target}

    @cached_property
    def lengths(self) -> list[float]:
        """The diameters in mm that are stated of the group as a whole, not inferred from coordinates of their own."""
        own = {id(node.parent) for node in self.coordinates}
        stated = [
            value_mm(number)
            for number in self.numbers
            if id(number) not in own and measure_of(number.concept)[0] in DIAMETERS and refusal_of(number) is None
        ]
        return [mm for mm in stated if mm is not None]

    @cached_property
    def drawn_by_group(self) -> str | None:
        """The keyed code of the person who observed it, else of the one who verified it; None if nobody is named."""
        names = []
        for above in self.node.upwards():
            observer = above.says(OBSERVER_NAME)
            if observer is not None:
                names.append(text(observer.ds, "PersonName") or text(observer.ds, "TextValue"))
            names += [text(item, "VerifyingObserverName") for item in sequence(above.ds, "VerifyingObserverSequence")]
        return group_of(next((name for name in names if name is not None and name.casefold() not in _NOBODY), None))

    @cached_property
    def images(self) -> list[Node]:
        """The images that are named of the group as a whole."""
        return [child for child in self.node.children if child.value_type == "IMAGE"]

    @property
    def names_segmentation(self) -> bool:
        """Whether what it measures is a segmentation, stored as another object."""
        return any(
            child.concept.key in SEGMENTS or (child.value_type == "IMAGE" and names_segmentation(child))
            for child in self.node.children
        )


def groups_of(root: Node) -> list[Group]:
    """Return the containers in which something is drawn, and all measurement groups, in the order of the document."""
    groups: dict[int, Group] = {}
    contexts: dict[int, _Context] = {}
    for node in (root, *root.below()):
        if node.concept.key == MEASUREMENT_GROUP:
            groups.setdefault(id(node), Group(node, _context_of(node, contexts).refusal))
        if node.value_type not in {*COORDINATES, "NUM"} or node.concept.scheme in VIEWER_SCHEMES:
            continue
        container = next((n for n in node.upwards() if n.value_type == "CONTAINER"), root)
        if any(n.concept.key in IMAGE_LIBRARIES for n in container.upwards()):
            continue
        group = groups.setdefault(id(container), Group(container, _context_of(container, contexts).refusal))
        (group.numbers if node.value_type == "NUM" else group.coordinates).append(node)
    return [g for g in groups.values() if g.coordinates or g.node.concept.key == MEASUREMENT_GROUP]


def refusal_of(number: Node) -> str | None:
    """Why one number is not read although its group is: the reasons of ``Group.refusal``."""
    if is_earlier(number.concept):
        return "prior_measurement"
    return _refused(number) or ("drawn_by_algorithm" if _is_by_device(number) else None)


def reads_density(number: Node) -> bool:
    """Whether a NUM item reads out pixel values, by the rule for what viewers write beside a drawing."""
    value = measured(number.ds) or 0.0
    return any(
        is_density(f"{number.concept.meaning}: {value:g} {'HU' if unit in HOUNSFIELD else unit}")
        for unit in _units(number) or {""}
    )


def value_mm(number: Node) -> float | None:
    """Return the value of a NUM item in mm; None if it is no length, or none that a lesion has."""
    value = measured(number.ds)
    units = _units(number)
    factor = MM_PER_UNIT.get(units.pop()) if len(units) == 1 else None
    if value is None or factor is None or not 0 < value * factor <= _MOST_MM:
        return None
    return round(value * factor, 6)


def _units(number: Node) -> set[str]:
    """UCUM codes of its units, also where another scheme is named beside the commonest."""
    units = (code_in(item, "MeasurementUnitsCodeSequence") for item in sequence(number.ds, "MeasuredValueSequence"))
    return {unit.value for unit in units if unit.scheme == "UCUM" or unit.value in {"mm", "cm", *HOUNSFIELD}}


def drawn_at(node: Node) -> datetime | None:
    """Return when it was observed: Observation DateTime of the item or one above it, else the document's content."""
    *above, root = node.upwards()
    for item in above:
        written = text(item.ds, "ObservationDateTime") or ""
        observed = moment(written[:8], written[8:].partition("+")[0].partition("-")[0])
        if observed is not None:
            return observed
    return moment(text(root.ds, "ContentDate"), text(root.ds, "ContentTime"))


@dataclass(frozen=True, slots=True)
class _Context:
    """What is said of an item and of all below it: why they are not read, and whether a device alone observed them."""

    said: str | None = None
    by_device: bool = False

    @property
    def refusal(self) -> str | None:
        return self.said or ("drawn_by_algorithm" if self.by_device else None)


def _context_of(node: Node, known: dict[int, _Context]) -> _Context:
    """Context of an item; ``known`` holds those that were asked for before."""
    if id(node) not in known:
        above = _Context() if node.parent is None else _context_of(node.parent, known)
        context = [child for child in node.children if child.relationship == "HAS OBS CONTEXT"]
        said = "prior_measurement" if is_earlier(node.concept) else next(filter(None, map(_refused, context)), None)
        by_device = _is_by_device(node)
        known[id(node)] = _Context(said or above.said, above.by_device if by_device is None else by_device)
    return known[id(node)]


def _is_by_device(node: Node) -> bool | None:
    """Whether a device, and no person beside it, is named as the observer; None if nobody is (PS3.16 TID 1002)."""
    kinds = {child.code.key for child in node.children if child.concept.key == OBSERVER_TYPE}
    said = {child.concept.key for child in node.children}
    if PERSON in kinds or OBSERVER_NAME in said:
        return False
    return True if DEVICE in kinds or said & DEVICE_OBSERVER else None


def _refused(node: Node) -> str | None:
    """What the item itself, or one of the codes and numbers that qualify it, says against it."""
    for said in (node, *node.children):
        if said.concept.key == ALGORITHM_NAME:
            return "drawn_by_algorithm"
        if is_earlier(said.code) or (said.concept.key == TEMPORAL_OFFSET and (measured(said.ds) or 0.0) < 0):
            return "prior_measurement"
        if is_absent(said.code):
            return "absent_finding"
    return None
