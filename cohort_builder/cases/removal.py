"""A patient who was taken out leaves nothing behind: what other modules do not write anew in every run.

The dataset, the pictures and most private files are made anew, shards of other patients apart; the index forgets by
itself (``cohort_builder.pacs.forgetting``). What is left is what a person wrote, and what killed runs left.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cohort_builder.bookkeeping import TEMPORARY

if TYPE_CHECKING:
    from cohort_builder.pacs.index import Index
    from cohort_builder.privacy.pseudonyms import Pseudonyms


def remove_leftovers(private: Path) -> None:
    """Remove what an earlier run left in the private folder and nobody reads: half written files, its last error."""
    for path in (*private.glob(f"{TEMPORARY}*"), private / "error.txt"):
        path.unlink(missing_ok=True)


def who_is_gone(index: Index, pseudonyms: Pseudonyms, crosswalk: Path, *, whole: bool) -> Callable[[str], bool]:
    """Tell by his pseudonym whether a patient is on the opt-out list, or is no longer in the export.

    Parameters
    ----------
    crosswalk
        What the last build left. If that was made with another key, all pseudonyms are unknown: nobody is gone for that
        but the patients on the list.
    whole
        Whether the index is that of all the export, and not of a part that a server was asked for.

    """
    before = _patients_of(crosswalk)
    out = index.forgotten.patient_keys | {key for key in before if index.forgotten.opt_out.has(key)}
    gone, there = ({pseudonyms.pseudonym("patient", key) for key in keys} for keys in (out, index.patient_keys()))
    known = whole and any(pseudonyms.pseudonym("patient", key) == pseudonym for key, pseudonym in before.items())
    return lambda patient: patient in gone or (known and patient not in there)


def _patients_of(crosswalk: Path) -> dict[str, str]:
    """Patient key to pseudonym; empty if there was no build yet."""
    try:
        with crosswalk.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return {}
    return {row["original"]: row["pseudonym"] for row in rows if row["kind"] == "patient"}
