"""Free-text radiology reports in, findings with sizes out. Knows nothing of pixels or DICOM files.

``import nlp`` is light: the extractor's pipeline is loaded by its first use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from nlp.findings import Extractor, build_findings
from nlp.graph import Entity, Graph, Label, Relation
from nlp.reports import read_reports
from nlp.rules import RulesExtractor
from nlp.sections import Section, split_sections, split_sentences
from nlp.sizes import find_image_references, find_sizes
from nlp.types import (
    Assertion,
    Axis,
    Finding,
    ImageReference,
    Laterality,
    Mention,
    Qualifier,
    Report,
    ReportError,
    Size,
    SizeKind,
    Span,
    Temporality,
)

EXTRACTORS: Mapping[str, Callable[..., Extractor]] = MappingProxyType({"rules": RulesExtractor})

__all__ = [
    "EXTRACTORS",
    "Assertion",
    "Axis",
    "Entity",
    "Extractor",
    "Finding",
    "Graph",
    "ImageReference",
    "Label",
    "Laterality",
    "Mention",
    "Qualifier",
    "Relation",
    "Report",
    "ReportError",
    "RulesExtractor",
    "Section",
    "Size",
    "SizeKind",
    "Span",
    "Temporality",
    "build_findings",
    "find_image_references",
    "find_sizes",
    "load_extractor",
    "read_reports",
    "split_sections",
    "split_sentences",
]


def load_extractor(name: str = "rules", **options: Any) -> Extractor:
    """Return a new extractor by its name in ``EXTRACTORS``; ``options`` go to its constructor.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name not in EXTRACTORS:
        raise ValueError(f"unknown extractor {name!r}; known are {sorted(EXTRACTORS)}")
    return EXTRACTORS[name](**options)
