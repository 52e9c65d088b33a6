"""The content tree of a structured report (PS3.3 C.17.3), read once, whatever state it is in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from cohort_builder.pacs.elements import sequence, text, value_of, values_in

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MOST_ITEMS = 20_000
_DEEPEST = 32  # templates of the standard nest about ten deep


class ContentTreeError(Exception):
    """The tree is larger or deeper than any report."""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 section 8): scheme and value say what it is, the meaning is for people."""

    scheme: str
    value: str
    meaning: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What two codes of the same concept share."""
        return self.scheme, self.value


NO_CODE = Code("", "")


@dataclass(eq=False)
class Node:
    """One content item.

    ``path`` is its Content Item Identifier: 1 for the root, then the position, from 1, at every level below. ``target``
    is the path of the item that stands in this place by reference. ``relationship`` and ``value_type`` are empty where
    the object does not say them.
    """

    ds: Dataset
    path: tuple[int, ...]
    parent: Node | None = None
    relationship: str = ""
    value_type: str = ""
    concept: Code = NO_CODE
    target: tuple[int, ...] = ()
    children: list[Node] = field(default_factory=list)

    @property
    def item(self) -> str:
        """The path as it is written: 1.4.2."""
        return ".".join(str(number) for number in self.path)

    def below(self) -> Iterator[Node]:
        """Every item under this one, in the order of the document."""
        stack = list(reversed(self.children))
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    def upwards(self) -> Iterator[Node]:
        """Yield this item, its parent, and so on to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def says(self, key: tuple[str, str]) -> Node | None:
        """Return the first child with that concept."""
        return self._by_concept.get(key)

    @cached_property
    def _by_concept(self) -> dict[tuple[str, str], Node]:
        return {child.concept.key: child for child in reversed(self.children)}

    def at(self, path: tuple[int, ...]) -> Node | None:
        """Return the item with that path, seen from the root; None if there is none."""
        node = self
        if not path or path[0] != self.path[0]:
            return None
        for number in path[1:]:
            if not 0 < number <= len(node.children):
                return None
            node = node.children[number - 1]
        return node

    @cached_property
    def code(self) -> Code:
        """The value of a CODE item."""
        return code_in(self.ds, "ConceptCodeSequence")


def read_tree(ds: Dataset) -> Node:
    """Read the tree; what is damaged in it is absent.

    Raises
    ------
    ContentTreeError
        It has more than 20,000 items or more than 32 levels.

    """
    root = Node(ds, (1,), value_type="CONTAINER", concept=code_in(ds, "ConceptNameCodeSequence"))
    waiting, count = [root], 0
    while waiting:
        parent = waiting.pop()
        for number, item in enumerate(sequence(parent.ds, "ContentSequence"), start=1):
            count += 1
            if count > _MOST_ITEMS or len(parent.path) >= _DEEPEST:
                raise ContentTreeError
            node = Node(
                item,
                (*parent.path, number),
                parent,
                relationship=text(item, "RelationshipType") or "",
                value_type=text(item, "ValueType") or "",
                concept=code_in(item, "ConceptNameCodeSequence"),
                target=_identifier(item),
            )
            parent.children.append(node)
            waiting.append(node)
    return root


def code_in(ds: Dataset, keyword: str) -> Code:
    """Return the first code of a code sequence, its scheme in today's spelling; an empty code if there is none."""
    for item in sequence(ds, keyword):
        scheme = text(item, "CodingSchemeDesignator") or ""
        value = text(item, "CodeValue") or text(item, "LongCodeValue") or text(item, "URNCodeValue") or ""
        return Code("SRT" if scheme in {"SNM3", "99SDM"} else scheme, value, text(item, "CodeMeaning") or "")
    return NO_CODE


def _identifier(item: Dataset) -> tuple[int, ...]:
    try:
        return tuple(int(value) for value in values_in(value_of(item, "ReferencedContentItemIdentifier")))
    except (ValueError, TypeError, OverflowError):
        return ()
