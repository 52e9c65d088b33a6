"""``cohort inspect``: what an export and its reports hold, what would link, and what a build would take.

It reads what a build reads, in the same way, up to the links; it publishes nothing and keeps nothing. It shows
counts, and of headers the names of known makers, their models and versions.
"""

from __future__ import annotations

from cohort_builder.inspect.inspection import Inspection
from cohort_builder.inspect.run import inspect_export

__all__ = ["Inspection", "inspect_export"]
