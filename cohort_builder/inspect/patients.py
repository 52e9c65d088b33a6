"""Counts some patients of an export, in whatever process."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from cohort_builder.config import BuildConfig
from cohort_builder.engines import Engines
from cohort_builder.errors import CohortError
from cohort_builder.inspect.cases import count_case
from cohort_builder.inspect.drawings import count_drawings
from cohort_builder.inspect.series import count_series
from cohort_builder.inspect.tally import Tally, count_skip, count_skips
from cohort_builder.inspect.writers import REPORTS, STATES, writer_of
from cohort_builder.jobs import plan_stacks
from cohort_builder.pacs.index import open_index
from cohort_builder.pacs.instances import PRESENTATION_STATE, kind_of
from cohort_builder.patient import read_patient
from cohort_builder.progress import News, Tell
from cohort_builder.scope.store import ReportStore
from segmentation.types import GeometryError

if TYPE_CHECKING:
    from cohort_builder.anatomy.locators import AnatomyLocator
    from cohort_builder.cases.sieve import Sieve
    from cohort_builder.pacs.index import Index
    from cohort_builder.pacs.instances import Instance
    from nlp.findings import Extractor
    from segmentation.types import Prompt

_CANDIDATES = 4


@dataclass(frozen=True, slots=True)
class InspectTask:
    """Some patients to read, in whatever process."""

    patient_keys: tuple[str, ...]
    index_path: Path
    reports_path: Path
    config: BuildConfig
    engines: Engines
    supports: frozenset[type[Prompt]]
    sieve: Sieve
    seed: int


@dataclass(frozen=True, slots=True)
class Inspected:
    """What was counted of the patients of one task, and some of them on whom a build can be tried (private)."""

    tally: Tally
    candidates: tuple[str, ...]


def inspect_patients(task: InspectTask, tell: Tell) -> Inspected:
    """Count what is stored, drawn, said and linked of some patients."""
    tally = Tally()
    with_lesions: list[str] = []
    with closing(open_index(task.index_path)) as index, closing(ReportStore.open(task.reports_path)) as reports:
        count = _Counting(task, task.sieve.over(index), reports, tally)
        for patient_key in task.patient_keys:
            try:
                if count.patient(patient_key):
                    with_lesions.append(patient_key)
            except CohortError:
                raise
            except GeometryError as error:
                count_skip("patient", "geometry", str(error), tally)
            except Exception as error:  # noqa: BLE001 - one study, whatever is wrong with it, must not hide the others
                count_skip("patient", "unexpected_error", type(error).__name__, tally)
            tell(News(patients=1))
    random.Random(task.seed).shuffle(with_lesions)
    return Inspected(tally, tuple(with_lesions[:_CANDIDATES]))


class _Counting:
    """What one task needs for all its patients."""

    def __init__(self, task: InspectTask, index: Index, reports: ReportStore, tally: Tally) -> None:
        self.task, self.config = task, task.config
        self.index, self.reports, self.tally = index, reports, tally
        self.extractor: Extractor = task.engines.load_extractor()
        self.locator: AnatomyLocator | None = task.engines.load_locator()

    def patient(self, patient_key: str) -> bool:
        """Count one patient; whether a build would segment something."""
        studies = self.index.studies_of(patient_key)
        drawn_on = False
        for study in studies:
            count_series(self.index, study.study_instance_uid, self.tally)
            for stored in self.index.annotation_objects(study.study_instance_uid):
                drawn_on = True
                self._count_object(stored)
        said = self.reports.of_patient(patient_key)
        self.tally["patients", "read"] += 1
        if not drawn_on and not said:
            return False  # a build does not read it, either
        self.tally["patients", "drawn_or_reported"] += 1
        started = perf_counter()
        case = read_patient(
            patient_key,
            self.index,
            said,
            self.extractor,
            self.config.link,
            locator=self.locator,
            pixel_origin=self.config.pixel_origin,
        )
        self.tally["time", "microseconds"] += round(1e6 * (perf_counter() - started))
        plans, skips = plan_stacks(
            case.lesions, self.index, target_series=self.config.target_series, supports=self.task.supports
        )
        count_skips(skips, self.tally)
        count_drawings(case.drawn, self.index, self.tally)
        count_case(case, plans, self.config, self.tally)
        self.tally["patients", "with_lesions"] += bool(plans)
        return bool(plans)

    def _count_object(self, stored: Instance) -> None:
        is_state = kind_of(stored.sop_class_uid) == PRESENTATION_STATE
        self.tally["writers", STATES if is_state else REPORTS, *writer_of(stored)] += 1
