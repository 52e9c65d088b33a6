"""Free-text radiology reports in, findings with sizes out. Knows nothing of pixels or DICOM files.

``import nlp`` is light: the extractor's pipeline is loaded by its first use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any

from nlp.findings import Extractor, build_findings
from nlp.graph import Entity, Graph, Label, Relation
from nlp.radgraph import RadGraphExtractor
from nlp.reports import read_reports
from nlp.rules import RulesExtractor
from nlp.sections import Section, split_sections, split_sentences
from nlp.sizes import find_image_references, find_sizes
from nlp.types import (
    Assertion,
    Axis,
    ExtractorError,
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

EXTRACTORS: Mapping[str, Callable[..., Extractor]] = MappingProxyType(
    {"rules": RulesExtractor, "radgraph": RadGraphExtractor}
)

__all__ = [
    "EXTRACTORS",
    "Assertion",
    "Axis",
    "Entity",
    "Extractor",
    "ExtractorError",
    "Finding",
    "Graph",
    "ImageReference",
    "Label",
    "Laterality",
    "Mention",
    "Qualifier",
    "RadGraphExtractor",
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
        For an unknown name or option.
    ExtractorError
        What it needs is not on this machine.
    """
    if name not in EXTRACTORS:
        raise ValueError(f"unknown extractor {name!r}; known are {sorted(EXTRACTORS)}")
    kind = EXTRACTORS[name]
    known = signature(kind).parameters
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise ValueError(f"extractor {name!r} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    return kind(**options)
