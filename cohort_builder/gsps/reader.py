"""Softcopy presentation states (PS3.3 A.33) to annotations: grayscale, colour, pseudo-colour, blending, XA/XRF.

What is read: lines, bi-dimensional pairs, arrows, ellipses, boxes, outlines and pointers, in PIXEL or DISPLAY units,
simple or compound, each on one image. Every other encoding becomes a Skip whose reason names it; nothing is dropped
silently.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cohort_builder.authorship import group_of, moment
from cohort_builder.gsps.bundles import Bundle, bundles_of
from cohort_builder.gsps.captions import Caption, captions_of, points_at_nothing_drawn
from cohort_builder.gsps.confidence import confidence
from cohort_builder.gsps.graphics import classify
from cohort_builder.gsps.items import Item, read_items
from cohort_builder.gsps.labels import labels_among
from cohort_builder.gsps.reasons import DETAILS, FAILURES, OTHER_STATES
from cohort_builder.gsps.strokes import Hints, Number, Polyline, Shape, Target, place
from cohort_builder.gsps.texts import DrawnText, tool_of
from cohort_builder.gsps.units import PixelOrigin, origin_of
from cohort_builder.pacs.elements import is_uid, sequence, text
from cohort_builder.types import Annotation, AnnotationKind, Skip, Source

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_READ = frozenset(f"1.2.840.10008.5.1.4.1.1.11.{n}" for n in range(1, 6))
_KIND_OF_TOOL = {
    "line": AnnotationKind.LINE,
    "pair": AnnotationKind.BIDIMENSIONAL,
    "arrow": AnnotationKind.ARROW,
    "box": AnnotationKind.BOX,
    "ellipse": AnnotationKind.ELLIPSE,
    "outline": AnnotationKind.OUTLINE,
}
_STRAIGHT = frozenset({AnnotationKind.LINE, AnnotationKind.BIDIMENSIONAL})
_REGIONS = frozenset({AnnotationKind.ELLIPSE, AnnotationKind.BOX, AnnotationKind.OUTLINE})
_CANNOT_BE = {"box": _STRAIGHT, "ellipse": _STRAIGHT, "outline": _STRAIGHT, "arrow": _REGIONS}


def read_state(
    ds: Dataset, private: Mapping[str, str], *, pixel_origin: Mapping[str, str] | None = None
) -> tuple[list[Annotation], list[Skip]]:
    """Read what is drawn in one presentation state.

    Parameters
    ----------
    ds
        The presentation state.
    private
        What goes into the ``private`` of every Skip.
    pixel_origin
        Writers to origins of PIXEL units, as for ``units.origin_of``.

    """
    return _Reader(ds, private, origin_of(ds, pixel_origin or {})).read()


class _Reader:
    """Reads one presentation state."""

    def __init__(self, ds: Dataset, private: Mapping[str, str], origin: PixelOrigin) -> None:
        self._ds, self._private, self._origin = ds, private, origin
        uid = text(ds, "SOPInstanceUID")
        self._uid = uid if uid is not None and is_uid(uid) else ""
        self._skips: list[Skip] = []
        self._refused: dict[Target, list[Polyline]] = defaultdict(list)
        self._layers = {
            text(layer, "GraphicLayer"): text(layer, "GraphicLayerDescription")
            for layer in sequence(ds, "GraphicLayerSequence")
        }
        self._groups = {
            text(group, "GraphicGroupID"): text(group, "GraphicGroupLabel")
            for group in sequence(ds, "GraphicGroupSequence")
        }
        self._items: dict[int, Item] = {}

    def read(self) -> tuple[list[Annotation], list[Skip]]:
        sop_class = text(self._ds, "SOPClassUID") or ""
        if sop_class not in _READ or not self._uid:
            self._skip((), OTHER_STATES.get(sop_class, "not_presentation_state"), failure=not self._uid)
            return [], self._skips
        items = read_items(self._ds, self._origin, on_refusal=self._skip)
        self._items = {item.number: item for item in items}
        shapes = [(item.target, shape) for item in items for shape in self._of_tool(item.shapes)]
        for bundle in bundles_of(items):
            shapes += [(bundle.target, shape) for shape in self._classify(bundle)]
        shapes.sort(key=lambda pair: pair[1].members)
        shapes = self._without_labels(shapes, items)
        captions = captions_of(shapes, items, self._refused)
        shapes = [(target, one) for target, shape in shapes if (one := self._as_said(shape, captions)) is not None]
        shapes += self._pointers(items, captions)
        if not shapes and not self._skips:
            self._skip((), "no_graphics")
        return [self._annotation(target, shape, captions) for target, shape in shapes], self._skips

    def _classify(self, bundle: Bundle) -> list[Shape]:
        strokes: list[Polyline] = []
        of_tool: dict[str, list[Number]] = defaultdict(list)
        for stroke in bundle.strokes:
            tool = self._tool(stroke.number)
            if tool is None or tool in _KIND_OF_TOOL:
                strokes.append(stroke)
            else:
                of_tool[tool].append(stroke.number)
        for tool, members in of_tool.items():
            self._skip(members[0], tool, members=members)
        texts = _texts_beside(bundle, self._items.values())
        hints = Hints(
            stated_mm=tuple(drawn.values_mm for drawn in texts if drawn.values_mm),
            grouped=bundle.key is not None,
        )
        shapes, refusals = classify(strokes, hints)
        for refusal in refusals:
            self._skip(refusal.members[0], refusal.reason, members=refusal.members)
        shapes = self._of_tool(shapes)
        read = {number for shape in shapes for number in shape.members}
        self._refused[bundle.target] += [stroke for stroke in bundle.strokes if stroke.number not in read]
        return shapes

    def _tool(self, number: Number) -> str | None:
        """The tool that the group's label, the layer's description or its name says the object was drawn with."""
        item = self._items[number[0]]
        key = item.keys.get(number)
        label = self._groups.get(key[1]) if key is not None and key[0] == "group" else None
        names = (label, self._layers.get(item.layer), item.layer)
        return next((tool for name in names if name is not None and (tool := tool_of(name)) is not None), None)

    def _of_tool(self, shapes: Iterable[Shape]) -> list[Shape]:
        """Shapes that the tool they were drawn with can make."""
        kept = []
        for shape in shapes:
            tool = self._tool(shape.members[0])
            reason = None
            if tool is not None and tool not in _KIND_OF_TOOL:
                reason = tool
            elif tool == "arrow" and shape.kind in _STRAIGHT:
                reason = "arrow_without_head"
            elif shape.kind in _CANNOT_BE.get(tool or "", ()):
                reason = "tool_disagrees"
            if reason is None:
                kept.append(shape)
            else:
                self._skip(shape.members[0], reason, members=shape.members)
        return kept

    def _without_labels(
        self, shapes: Sequence[tuple[Target, Shape]], items: Iterable[Item]
    ) -> list[tuple[Target, Shape]]:
        """Shapes that are not drawn for a text."""
        labels = labels_among(shapes, [drawn for item in items for drawn in item.texts])
        for _, shape in shapes:
            if shape.members[0] in labels:
                self._skip(shape.members[0], labels[shape.members[0]], members=shape.members)
        return [(target, shape) for target, shape in shapes if shape.members[0] not in labels]

    def _as_said(self, shape: Shape, captions: Mapping[Number, Caption]) -> Shape | None:
        """Return the shape, unless the texts beside it say that no lesion was measured."""
        caption = captions.get(shape.members[0], Caption())
        reason = caption.refusal(shape.kind)
        if reason is not None:
            self._skip(shape.members[0], reason, members=shape.members)
            return None
        if caption.is_density and shape.kind is AnnotationKind.OUTLINE:
            return replace(shape, rule=f"{shape.rule}+density")
        return shape

    def _pointers(self, items: Iterable[Item], captions: dict[Number, Caption]) -> list[tuple[Target, Shape]]:
        """Pointers that are nothing but a text with a leader line, each with that text as its caption."""
        used = {drawn.number for caption in captions.values() for drawn in (*caption.texts, *caption.others)}
        found = []
        for item in items:
            for drawn in item.texts:
                if drawn.number in used:
                    continue
                if drawn.anchor is not None and points_at_nothing_drawn(drawn, item, self._refused[item.target]):
                    shape = Shape(AnnotationKind.POINTER, (drawn.anchor,), "pointer:text", (drawn.number,))
                    captions[drawn.number] = Caption(label=drawn.value, texts=(drawn,))
                    found.append((item.target, shape))
                else:
                    self._skip(drawn.number, "value_only" if drawn.is_reading else "text_only")
        return found

    def _annotation(self, target: Target, shape: Shape, captions: Mapping[Number, Caption]) -> Annotation:
        number = shape.members[0]
        item, tool, caption = place(number), self._tool(number), captions.get(number, Caption())
        converted = self._items[number[0]].converted
        rule = "+".join([shape.rule, *sorted({converted[n] for n in shape.members if n in converted})])
        sure = confidence(rule, has_value=bool(caption.values_mm), is_named=_KIND_OF_TOOL.get(tool or "") is shape.kind)
        return Annotation(
            annotation_id=f"{self._uid}/{item}",
            kind=shape.kind,
            points=tuple((point.real, point.imag) for point in shape.points),
            sop_instance_uid=target.sop_instance_uid,
            series_instance_uid=target.series_instance_uid,
            study_instance_uid=text(self._ds, "StudyInstanceUID") or "",
            source=Source(self._uid, item, rule, confidence=sure),
            frame_number=target.frame_number,
            stated_mm=caption.values_mm,
            label=caption.label,
            drawn_at=moment(text(self._ds, "PresentationCreationDate"), text(self._ds, "PresentationCreationTime")),
            drawn_by_group=group_of(text(self._ds, "ContentCreatorName")),
        )

    def _skip(
        self, number: Sequence[int], reason: str, *, members: Sequence[Number] = (), failure: bool = False
    ) -> None:
        """Record the refusal of one object, or of several ``members`` at once: then it says how many."""
        where, detail = place(number), DETAILS[reason]
        private = {"sop_instance_uid": self._uid, "item": where, **self._private}
        if len(members) > 1:
            detail += f" ({len(members)} graphics)"
            private["members"] = " ".join(place(member) for member in members)
        item = f"{self._uid}/{where}" if where else self._uid or "presentation state"
        failed = failure or reason in FAILURES
        self._skips.append(Skip("annotations", item, reason, detail, failure=failed, private=private))


def _texts_beside(bundle: Bundle, items: Iterable[Item]) -> list[DrawnText]:
    """Texts with the key of the strokes, where these have one; else those without a key in the items of the strokes."""
    if bundle.key is not None:
        return [d for item in items for d in item.texts if d.key == bundle.key and item.target == bundle.target]
    numbers = {stroke.number[0] for stroke in bundle.strokes}
    return [drawn for item in items if item.number in numbers for drawn in item.texts if drawn.key is None]
