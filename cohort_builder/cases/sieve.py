"""What a selection leaves of an index: a view on it without the rest, and a count of the rest by criterion.

The index itself stays whole, so that another selection needs no new one, and so that a report is joined among all
studies before it is asked whether its study is selected: of two CTs of one day the wrong one must not become the only
one. Patients on the opt-out list are the exception: the index forgets them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cohort_builder.cases.criteria import ORDER, Criteria, Criterion, LeftOut, accession_key, slices_of
from cohort_builder.errors import ConfigError
from cohort_builder.pacs.forgetting import Forgotten
from cohort_builder.pacs.index import Index
from cohort_builder.types import Annotation, Skip

if TYPE_CHECKING:
    from pathlib import Path

    from cohort_builder.cases.selection import Selection
    from cohort_builder.pacs.index import Study
    from cohort_builder.pacs.instances import Instance

NOT_SELECTED = "not_selected"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sieve:
    """What a selection leaves out of an index: Study and Series Instance UIDs, each with the reason.

    ``series`` are those of studies that are not left out themselves. ``kept`` counts the studies that are left (None:
    there is no selection), ``absent`` the accession numbers asked for that no study has; ``forgotten`` knows the
    patients on the opt-out list again for as long as this run needs it to.
    """

    studies: Mapping[str, LeftOut] = field(default_factory=dict)
    series: Mapping[str, LeftOut] = field(default_factory=dict)
    kept: int | None = None
    absent: int = 0
    forgotten: Forgotten = field(default_factory=Forgotten)

    @property
    def counts(self) -> dict[str, int]:
        """``selected_studies``, ``not_selected_series_contrast_unknown`` ...; empty without a selection."""
        if self.kept is None:
            return {}
        counts = {"selected_studies": self.kept, "accession_numbers_not_in_export": self.absent}
        if listed := self.forgotten.opt_out.listed:
            counts |= {"opt_out_ids_listed": listed, "opt_out_ids_found": self.forgotten.found}
        for left, found in self._tally().items():
            ending = f"{left.criterion}{'_unknown' if left.unknown else ''}"
            counts |= {f"not_selected_{what}_{ending}": n for what, n in found.items()}
        return {name: n for name, n in counts.items() if n or name in {"selected_studies", "opt_out_ids_found"}}

    def over(self, index: Index) -> Index:
        """Return the index without what is left out."""
        return SelectedIndex(index, self) if self.studies or self.series else index

    def part(self, index: Index, patient_keys: Iterable[str]) -> Sieve:
        """Return what is left out of some patients of the whole index: small enough to be sent to a worker."""
        studies = [study.study_instance_uid for key in patient_keys for study in index.studies_of(key)]
        series = [uid for study in studies for uid in index.series_of(study)] if self.series else []
        return Sieve(
            {uid: self.studies[uid] for uid in studies if uid in self.studies},
            {uid: self.series[uid] for uid in series if uid in self.series},
        )

    def skips(self) -> list[Skip]:
        """One Skip a criterion: how many studies and series it left out."""
        return [
            Skip("select", f"{left.criterion} {left.unknown}", NOT_SELECTED, f"{_told(found)} {left.sentence}")
            for left, found in self._tally().items()
        ]

    def listed(self) -> Iterator[dict[str, object]]:
        """Each study and series that is left out, for ``private/``; of the opt-out list nobody is left to be named."""
        for kind, left in (("study", self.studies), ("series", self.series)):
            for uid, why in sorted(left.items()):
                yield {"kind": kind, "uid": uid, "criterion": why.criterion.value, "unknown": why.unknown}

    def told(self) -> str:
        """The counts of what is left out by criterion, for messages."""
        tally = self._tally().items()
        told = [f"{left.criterion}{' (unknown)' * left.unknown}: {_told(found)}" for left, found in tally]
        if self.kept is not None and (listed := self.forgotten.opt_out.listed):
            told.append(f"opt-out list: {listed} Patient ID(s) listed, {self.forgotten.found} found")
        return "; ".join(told)

    def _tally(self) -> dict[LeftOut, Counter[str]]:
        """Studies and series by why they are left out, in the order of the criteria."""
        tally: dict[LeftOut, Counter[str]] = {}
        if forgotten := len(self.forgotten.study_instance_uids):
            tally[LeftOut(Criterion.EXCLUDE_PATIENTS)] = Counter(studies=forgotten)
        for what, left in (("studies", self.studies), ("series", self.series)):
            for why in left.values():
                tally.setdefault(why, Counter())[what] += 1
        return dict(sorted(tally.items(), key=lambda item: (ORDER.index(item[0].criterion), item[0].unknown)))


def _told(found: Mapping[str, int]) -> str:
    return " and ".join(f"{n} {'study' if (what, n) == ('studies', 1) else what}" for what, n in found.items())


class SelectedIndex(Index):
    """An index without what a sieve leaves out: whoever reads it sees a smaller export."""

    def __init__(self, index: Index, sieve: Sieve) -> None:
        self._all, self.sieve = index, sieve  # all that the base class does is done anew below
        self.path: Path | None = index.path
        self.forgotten = index.forgotten

    def __reduce__(self) -> tuple[Callable[..., Index], tuple[Index, Sieve]]:  # type: ignore[override]
        return SelectedIndex, (self._all, self.sieve)

    def close(self) -> None:
        """Close the file."""
        self._all.close()

    def studies(self) -> list[Study]:
        """Every selected study, in order of Study Instance UID."""
        return [study for study in self._all.studies() if self._keeps(study)]

    def study(self, study_instance_uid: str) -> Study | None:
        """One selected study, or None."""
        return None if study_instance_uid in self.sieve.studies else self._all.study(study_instance_uid)

    def patient_keys(self) -> list[str]:
        """Every patient with a selected study, sorted."""
        return [key for key in self._all.patient_keys() if any(map(self._keeps, self._all.studies_of(key)))]

    def studies_of(self, patient_key: str) -> list[Study]:
        """Selected studies of one patient, oldest first.

        Each with the identifiers of all studies of the patient: a report may name what stands in another one.
        """
        every = self._all.studies_of(patient_key)
        identifiers = tuple(sorted({value for study in every for value in study.identifiers}))
        return [replace(study, identifiers=identifiers) for study in every if self._keeps(study)]

    def series_of(self, study_instance_uid: str) -> list[str]:
        """Series Instance UIDs of the selected CT series of a study, sorted."""
        if study_instance_uid in self.sieve.studies:
            return []
        return [uid for uid in self._all.series_of(study_instance_uid) if uid not in self.sieve.series]

    def instances(self, series_instance_uid: str) -> list[Instance]:
        """Images of one series, none if it is left out."""
        found = [] if series_instance_uid in self.sieve.series else self._all.instances(series_instance_uid)
        return [] if found and found[0].study_instance_uid in self.sieve.studies else found

    def instance(self, sop_instance_uid: str, frame_number: int | None = None) -> Instance | None:
        """One object, None if its study or series is left out."""
        found = self._all.instance(sop_instance_uid, frame_number)
        return None if found is None or self.left_out(found) else found

    def annotation_objects(self, study_instance_uid: str) -> list[Instance]:
        """Presentation states and structured reports drawn on images of a study, none if it is left out."""
        return [] if study_instance_uid in self.sieve.studies else self._all.annotation_objects(study_instance_uid)

    def fingerprint(self, patient_key: str) -> str:
        """As that of the whole index: what is left out of a patient may name him in a report."""
        return self._all.fingerprint(patient_key)

    def tally(self, *names: str) -> dict[tuple[object, ...], int]:
        """Count the objects of the whole export."""
        return self._all.tally(*names)

    @property
    def skips(self) -> list[Skip]:
        """What of the whole export could not be used."""
        return self._all.skips

    @property
    def counts(self) -> dict[str, int]:
        """Files of the whole export by what they are."""
        return self._all.counts

    def left_out(self, instance: Instance) -> LeftOut | None:
        """Why the study or series of an object is left out; None if it is not."""
        by_study = self.sieve.studies.get(instance.study_instance_uid)
        return by_study or self.sieve.series.get(instance.series_instance_uid)

    def why_not(self, sop_instance_uid: str) -> LeftOut | None:
        """Why an image is not in the selection; None if it is, or is in no export at all."""
        found = self._all.instance(sop_instance_uid)
        return None if found is None else self.left_out(found)

    def _keeps(self, study: Study) -> bool:
        return study.study_instance_uid not in self.sieve.studies


def without_left_out(annotations: Iterable[Annotation], index: Index) -> tuple[list[Annotation], list[Skip]]:
    """Take out the annotations whose image is not selected, with a Skip each."""
    kept: list[Annotation] = []
    skips: list[Skip] = []
    for annotation in annotations:
        why = index.why_not(annotation.sop_instance_uid) if isinstance(index, SelectedIndex) else None
        if why is None:
            kept.append(annotation)
            continue
        private = {"annotation_id": annotation.annotation_id, "sop_instance_uid": annotation.sop_instance_uid}
        detail = f"it is drawn on an image that is {why.sentence}"
        skips.append(Skip("select", annotation.annotation_id, NOT_SELECTED, detail, private=private))
    return kept, skips


def make_sieve(select: Selection, index: Index) -> Sieve:
    """Decide for every study and CT series of an index (``Selection.sieve``); ``select`` has its lists read."""
    if not select.is_set:
        return Sieve()
    criteria = Criteria(select)
    every = index.studies()
    studies: dict[str, LeftOut] = {}
    series: dict[str, LeftOut] = {}
    for study in every:
        uid = study.study_instance_uid
        left = criteria.of_study(study)
        if left is None and criteria.has_series_criteria:
            stored = {name: slices_of(index.instances(name)) for name in index.series_of(uid)}
            found = {name: criteria.of_series(slices) for name, slices in stored.items() if slices}
            left = _of_all_series(found.values(), criteria.first_of_series)
            series |= {name: why for name, why in found.items() if left is None and why is not None}
        if left is not None:
            studies[uid] = left
    absent = criteria.numbers - {accession_key(study.accession_number) for study in every}
    absent = {number for number in absent if not index.forgotten.accession_numbers.has(number)}
    sieve = Sieve(studies, series, len(every) - len(studies), len(absent), index.forgotten)
    if (listed := index.forgotten.opt_out.listed) and not index.forgotten.found:
        logger.warning(
            "none of the %d Patient ID(s) of the opt-out list is in the export: nobody is taken out; compare how the "
            "list and the headers write them",
            listed,
        )
    if not sieve.kept:
        raise nothing_left(sieve)
    return sieve


def nothing_left(sieve: Sieve) -> ConfigError:
    """The error of a selection that leaves nothing to build from."""
    return ConfigError(
        f"the selection leaves nothing of the export to build from; left out: {sieve.told() or 'nothing'}. Widen "
        "[select]; what an earlier build may have left in its folder is still there: delete it, if it must not be"
    )


def _of_all_series(found: Iterable[LeftOut | None], first: Criterion) -> LeftOut | None:
    """Why a study is left out whose series are: by the criterion that took the last of them; None if one is kept."""
    series = list(found)
    if None in series:
        return None
    left = [why for why in series if why is not None]
    last = max((why.criterion for why in left), key=ORDER.index, default=first)
    return LeftOut(last, unknown=all(why.unknown for why in left if why.criterion is last))
