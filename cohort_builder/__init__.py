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
    from cohort_builder.build import build_cohort
    from cohort_builder.cohort import Cohort, open_cohort
    from cohort_builder.config import BuildConfig
    from cohort_builder.ct import load_volume
    from cohort_builder.errors import CohortError, ConfigError, PacsError, SetupError, TooManySkips
    from cohort_builder.gsps import read_annotations
    from cohort_builder.lesions import group_lesions, locate
    from cohort_builder.linking import LinkConfig, link
    from cohort_builder.pacs import Index, index_export
    from cohort_builder.types import Annotation, Decision, Lesion, Link, LocatedAnnotation, Skip

_HOMES = {
    "Annotation": "types",
    "BuildConfig": "config",
    "Cohort": "cohort",
    "CohortError": "errors",
    "ConfigError": "errors",
    "Decision": "types",
    "Index": "pacs",
    "Lesion": "types",
    "Link": "types",
    "LinkConfig": "linking",
    "LocatedAnnotation": "types",
    "PacsError": "errors",
    "SetupError": "errors",
    "Skip": "types",
    "TooManySkips": "errors",
    "build_cohort": "build",
    "group_lesions": "lesions",
    "index_export": "pacs",
    "link": "linking",
    "load_volume": "ct",
    "locate": "lesions",
    "open_cohort": "cohort",
    "read_annotations": "gsps",
}

__all__ = [
    "Annotation",
    "BuildConfig",
    "Cohort",
    "CohortError",
    "ConfigError",
    "Decision",
    "Index",
    "Lesion",
    "Link",
    "LinkConfig",
    "LocatedAnnotation",
    "PacsError",
    "SetupError",
    "Skip",
    "TooManySkips",
    "build_cohort",
    "group_lesions",
    "index_export",
    "link",
    "load_volume",
    "locate",
    "open_cohort",
    "read_annotations",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cohort_builder' has no attribute {name!r}")
    return getattr(import_module(f"cohort_builder.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
