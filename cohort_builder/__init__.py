"""Turn the annotations that radiologists left in their PACS into grounded training data.

>>> from cohort_builder import build_cohort
>>> cohort = build_cohort("reports.csv", "pacs_export/", out="cohort/")  # doctest: +SKIP
>>> print(cohort.summary())  # doctest: +SKIP

Names are loaded on first use, so that ``import cohort_builder`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cohort_builder.anatomy.locators import AnatomyLocator
    from cohort_builder.annotations import read_annotations
    from cohort_builder.build import build_cohort
    from cohort_builder.cases.selection import Selection
    from cohort_builder.cohort import Cohort, open_cohort
    from cohort_builder.config import BuildConfig
    from cohort_builder.ct.series import load_volume
    from cohort_builder.errors import CohortError, ConfigError, PacsError, SetupError, TooManySkips
    from cohort_builder.inspect import Inspection, inspect_export
    from cohort_builder.lesions.locating import group_lesions, locate
    from cohort_builder.linking.assignment import link
    from cohort_builder.linking.config import LinkConfig
    from cohort_builder.pacs.index import Index, index_export
    from cohort_builder.types import Annotation, Decision, Lesion, Link, LocatedAnnotation, Skip
    from nlp.findings import Extractor
    from nlp.types import Report
    from segmentation.types import Segmenter

_HOMES = {
    "AnatomyLocator": "cohort_builder.anatomy.locators",
    "Annotation": "cohort_builder.types",
    "BuildConfig": "cohort_builder.config",
    "Cohort": "cohort_builder.cohort",
    "CohortError": "cohort_builder.errors",
    "ConfigError": "cohort_builder.errors",
    "Decision": "cohort_builder.types",
    "Extractor": "nlp.findings",
    "Index": "cohort_builder.pacs.index",
    "Inspection": "cohort_builder.inspect",
    "Lesion": "cohort_builder.types",
    "Link": "cohort_builder.types",
    "LinkConfig": "cohort_builder.linking.config",
    "LocatedAnnotation": "cohort_builder.types",
    "PacsError": "cohort_builder.errors",
    "Report": "nlp.types",
    "Segmenter": "segmentation.types",
    "Selection": "cohort_builder.cases.selection",
    "SetupError": "cohort_builder.errors",
    "Skip": "cohort_builder.types",
    "TooManySkips": "cohort_builder.errors",
    "build_cohort": "cohort_builder.build",
    "group_lesions": "cohort_builder.lesions.locating",
    "index_export": "cohort_builder.pacs.index",
    "inspect_export": "cohort_builder.inspect",
    "link": "cohort_builder.linking.assignment",
    "load_volume": "cohort_builder.ct.series",
    "locate": "cohort_builder.lesions.locating",
    "open_cohort": "cohort_builder.cohort",
    "read_annotations": "cohort_builder.annotations",
}

__all__ = [
    "AnatomyLocator",
    "Annotation",
    "BuildConfig",
    "Cohort",
    "CohortError",
    "ConfigError",
    "Decision",
    "Extractor",
    "Index",
    "Inspection",
    "Lesion",
    "Link",
    "LinkConfig",
    "LocatedAnnotation",
    "PacsError",
    "Report",
    "Segmenter",
    "Selection",
    "SetupError",
    "Skip",
    "TooManySkips",
    "build_cohort",
    "group_lesions",
    "index_export",
    "inspect_export",
    "link",
    "load_volume",
    "locate",
    "open_cohort",
    "read_annotations",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cohort_builder' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
