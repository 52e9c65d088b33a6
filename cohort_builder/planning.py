"""What decides about the shards: which patients there is something to say of, and by what a shard is known again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cohort_builder.shards import signature

if TYPE_CHECKING:
    from cohort_builder.cases.sieve import Sieve
    from cohort_builder.pacs.index import Index
    from cohort_builder.scope.store import ReportStore


def plan_patients(
    index: Index, sieve: Sieve, reports: ReportStore, verdicts_of: Callable[[str], object]
) -> tuple[dict[str, float], dict[str, str]]:
    """Choose the patients that were drawn on or reported, of those that are selected.

    Parameters
    ----------
    index
        Of the whole export.
    sieve
        What of it is left out.
    verdicts_of
        What a person said of the links of a patient.

    Returns
    -------
    Uncompressed CT megabytes by patient key, and a hash of all that a patient's rows are made from.

    """
    view = sieve.over(index)
    megabytes: dict[str, float] = {}
    signatures: dict[str, str] = {}
    for patient_key in view.patient_keys():
        studies = view.studies_of(patient_key)
        uids = [study.study_instance_uid for study in studies]
        digests = reports.digests_of(patient_key)
        if not digests and not any(map(view.annotation_objects, uids)):
            continue
        images = [i for uid in uids for series in view.series_of(uid) for i in view.instances(series)]
        megabytes[patient_key] = sum((i.rows or 0) * (i.columns or 0) * 2e-6 for i in images)
        names = sorted({name for study in studies for name in study.identifiers})
        left_out = list(sieve.part(index, [patient_key]).listed())
        signatures[patient_key] = signature(
            [view.fingerprint(patient_key), names, digests, verdicts_of(patient_key), left_out]
        )
    return megabytes, signatures
