"""The errors that end a run.

::

    CohortError                  all that build_cohort raises on purpose
      ConfigError (ValueError)   an argument or a configuration file is wrong
      PacsError                  the PACS export cannot be read at all
      TooManySkips               more items failed than ``max_skip_fraction`` allows
      SetupError                 something the machine lacks: weights, a device, an optional package

``nlp.ReportError``, ``segmentation.SegmentationError`` (with ``GeometryError``) cost one report or one lesion: they are
caught where that report (patient.py) or lesion (worker.py) is worked on, and become a Skip. A
``segmentation.EngineError`` becomes a SetupError (engines.py). ``exports.ExportError`` means that a dataset was not
written whole.

Messages say what happened, to which item, what was got, what is allowed and what to do; never a patient's name, an
identifier or report text.
"""

from __future__ import annotations


class CohortError(Exception):
    """The run ends, on purpose, with a message for the user."""


class ConfigError(CohortError, ValueError):
    """An argument or a configuration value is wrong."""


class PacsError(CohortError):
    """The PACS export cannot be read at all."""


class TooManySkips(CohortError):  # noqa: N818 - the public name of DESIGN.md section 5
    """So many items failed that the result would mislead."""


class SetupError(CohortError):
    """Something that the machine lacks: weights, a device, an optional package."""
