"""``cohort inspect``: what an export and its reports hold, and what would link, before anything is segmented.

It reads what a build reads, in the same way, up to the links; it needs neither model nor GPU, publishes nothing and
keeps nothing. Counts only: nobody can be told from it.
"""

from __future__ import annotations

import secrets
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort_builder.config import BuildConfig
from cohort_builder.engines import Engines
from cohort_builder.errors import CohortError, ConfigError
from cohort_builder.executors import load_executor
from cohort_builder.linking.assignment import link
from cohort_builder.linking.config import LinkConfig
from cohort_builder.pacs.index import index_export, open_index
from cohort_builder.patient import PatientCase, ReadReport, given_out, lesions_in_scope, read_patient
from cohort_builder.privacy.pseudonyms import KEY_BYTES, Pseudonyms
from cohort_builder.progress import News, Progress, Tell
from cohort_builder.scope.joining import studies_without_report
from cohort_builder.scope.store import ReportStore
from cohort_builder.types import Decision, Lesion, Link, Skip
from nlp import EXTRACTORS
from nlp.types import Assertion, Finding, ImageReference, ReportError, SizeKind, Temporality
from segmentation.types import GeometryError

if TYPE_CHECKING:
    from cohort_builder.pacs.index import Index
    from nlp.findings import Extractor

_PATIENTS_A_TASK = 20
_BINS = 10
_KINDS_OF_EVIDENCE = ("size", "reference", "reference_near", "side", "organ", "level", "label")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What would go into a cohort, as counts.

    Parameters
    ----------
    export
        Patients, studies, CT series, presentation states and files.
    annotations
        Strokes that can be used, by kind.
    lesions
        ``drawn``; of them ``linked``, ``prior_linked`` and ``unmentioned`` (a report reads the study, and no phrase of
        it was linked to them) and ``without_report``.
    reports
        ``read`` from the source, ``used`` with at least one study, and these ``by_<key>``.
    findings
        ``found`` in the used reports; ``present`` and ``uncertain`` ones of them ``with_size`` (a current one of a
        lesion) and ``with_image_reference``; ``linkable``: one or both of these, and something drawn in the studies.
    decisions
        Answers of the linker for findings.
    probabilities
        Linked and withheld findings by the probability of their best lesion: ten equal bins from 0 to 1.
    evidence
        Linked findings by what speaks for them: ``size``, ``size + side`` ...
    with_references
        How many of the linkable findings would be linked if each named the image of what it fits best.
    skips
        What is left out, by stage and reason (docs/skips.md); of the masks a build leaves out more.
    details
        The commonest detail of each of these reasons; it quotes nobody.

    """

    export: Mapping[str, int]
    annotations: Mapping[str, int]
    lesions: Mapping[str, int]
    reports: Mapping[str, int]
    findings: Mapping[str, int]
    decisions: Mapping[str, int]
    probabilities: tuple[int, ...]
    evidence: Mapping[str, int]
    with_references: int
    skips: Mapping[str, Mapping[str, int]]
    details: Mapping[str, Mapping[str, str]]

    @property
    def coverage(self) -> float | None:
        """Linked among the linkable findings; None where there are none."""
        linkable = self.findings.get("linkable", 0)
        return self.decisions.get(Decision.LINKED.value, 0) / linkable if linkable else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for machines."""
        return {**asdict(self), "probabilities": list(self.probabilities), "coverage": self.coverage}

    def summary(self) -> str:
        """The counts as text."""
        lines = ["Inspection"]
        for title, counts in (
            ("Export", self.export),
            ("Annotations", self.annotations),
            ("Lesions", self.lesions),
            ("Reports", self.reports),
            ("Findings", self.findings),
            ("Links of findings", self.decisions),
            ("Linked by", self.evidence),
        ):
            if counts:
                lines += [title, *(f"  {name.replace('_', ' '):<32}{n:>8}" for name, n in counts.items())]
        if any(self.probabilities):
            lines.append("Probability of the best lesion")
            lines += [
                f"  {i / _BINS:.1f} to {(i + 1) / _BINS:.1f}{'':<22}{n:>8}"
                for i, n in enumerate(self.probabilities)
                if n
            ]
        if self.coverage is not None:
            would = self.with_references / self.findings["linkable"]
            lines += [
                "Coverage",
                f"  {'linked of the linkable':<32}{self.coverage:>8.1%}",
                f"  {'with image references':<32}{would:>8.1%}",
            ]
        if self.skips:
            lines.append("Left out")
            for stage, found in self.skips.items():
                for reason, n in found.items():
                    lines.append(f"  {f'{stage}: {reason}':<32}{n:>8}")
                    if detail := self.details.get(stage, {}).get(reason):
                        lines.append(f"    {detail}")
        return "\n".join(lines)


def inspect_export(
    pacs_export: str | Path,
    reports: Any = None,
    *,
    config: BuildConfig | None = None,
    extractor: str | Extractor | None = None,
    index: str | Path | None = None,
    progress: bool = True,
) -> Inspection:
    """Say what an export and its reports hold and what of them would link, without segmenting anything.

    Parameters
    ----------
    pacs_export
        Folder of DICOM files, as for ``build_cohort``.
    reports
        As for ``build_cohort``; None: what is drawn alone.
    config
        Its extractor, its ``link`` and its ``workers`` count.
    extractor
        Name or object; by default that of ``config``.
    index
        File of the index, made if it is not there, to be kept for the next time: it names patients. By default a
        temporary one.
    progress
        Draw progress bars (on a terminal) or log lines (elsewhere).

    Raises
    ------
    ConfigError
        An argument is wrong.
    PacsError
        The export is missing, or holds no DICOM file.
    nlp.ReportError
        The reports cannot be read.

    """
    config = config or BuildConfig()
    engines = Engines(
        extractor or config.extractor,
        config.engine,
        extractor_options=config.extractor_options,
        anatomy=config.anatomy,
    )
    if isinstance(engines.extractor, str) and engines.extractor not in EXTRACTORS:
        raise ConfigError(f"unknown extractor {engines.extractor!r}; known: {', '.join(sorted(EXTRACTORS))}")
    counts: Counter[str] = Counter()
    bars = Progress(show=progress)
    with tempfile.TemporaryDirectory(prefix="cohort-inspect-") as folder:  # mode 0700
        private = Path(folder)
        store = ReportStore.create(private, Pseudonyms(secrets.token_bytes(KEY_BYTES)))
        rows = () if reports is None else config.open_reports(reports, on_error=_noted_in(store))
        index_path = private / "index.sqlite" if index is None else Path(index)
        with bars.stage("index", unit="files") as stage:
            made = index_export(pacs_export, index_path, progress=stage.advance)
        with closing(made) as opened, closing(store):
            with bars.stage("reports", unit="reports") as stage:
                for _ in store.add(rows, opened, engines.languages()):
                    stage.advance()
                store.finish(private / "reports.sqlite")
            _count_export(opened, counts)
            _count_reports(opened, store, counts, asked=reports is not None)
            patients = _patients(opened, store)
            tasks = [
                InspectTask(tuple(part), index_path, private / "reports.sqlite", config.link, engines)
                for part in _parts(patients)
            ]
            with bars.stage("links", len(patients), unit="patients") as stage:
                executor = load_executor(config.workers)
                for part_counts in executor.run(inspect_patients, tasks, lambda news: stage.advance(news.patients)):
                    counts.update(part_counts)
    return _inspection(counts)


@dataclass(frozen=True, slots=True)
class InspectTask:
    """Some patients to read, in whatever process."""

    patient_keys: tuple[str, ...]
    index_path: Path
    reports_path: Path
    config: LinkConfig
    engines: Engines


def inspect_patients(task: InspectTask, tell: Tell) -> Counter[str]:
    """Count what is drawn, said and linked of some patients; names of counts are ``group/name``."""
    counts: Counter[str] = Counter()
    extractor, locator = task.engines.load_extractor(), task.engines.load_locator()
    with closing(open_index(task.index_path)) as index, closing(ReportStore.open(task.reports_path)) as reports:
        for patient_key in task.patient_keys:
            try:
                said = reports.of_patient(patient_key)
                case = read_patient(patient_key, index, said, extractor, task.config, locator=locator)
            except CohortError:
                raise
            except GeometryError as error:
                _count_skip("patient", "geometry", str(error), counts)
            except Exception as error:  # noqa: BLE001 - one study, whatever is wrong with it, must not hide the others
                _count_skip("patient", "unexpected_error", type(error).__name__, counts)
            else:
                _count_case(case, task.config, counts)
            tell(News(patients=1))
    return counts


def _noted_in(store: ReportStore) -> Any:
    def note(error: ReportError, row: int) -> None:
        store.add_skip(Skip("reports", f"row {row}", "report_unusable", str(error), failure=True))

    return note


def _count_export(index: Index, counts: Counter[str]) -> None:
    series = {uid for study in index.studies() for uid in index.series_of(study.study_instance_uid)}
    counts["export/ct_series"] += len(series)
    counts.update({f"export/{name}": n for name, n in index.counts.items()})
    for skip in index.skips:
        _count_skip(skip.stage, skip.reason, skip.detail, counts)


def _count_reports(index: Index, store: ReportStore, counts: Counter[str], *, asked: bool) -> None:
    if not asked:
        return
    counts["reports/read"] += store.read
    counts["reports/used"] += store.used
    counts.update(f"reports/by_{scope.joined_by}" for scope in store.scopes())
    for row in store.skips():
        _count_skip(row["stage"], row["reason"], row["detail"], counts)
    for skip in studies_without_report(index, store.scopes()):
        _count_skip(skip.stage, skip.reason, skip.detail, counts)


def _count_skip(stage: str, reason: str, detail: str, counts: Counter[str]) -> None:
    counts[f"skips/{stage}/{reason}"] += 1
    counts[f"details/{stage}/{reason}/{detail}"] += 1


def _patients(index: Index, store: ReportStore) -> list[str]:
    """Those that a build would read: drawn on, or reported on."""
    return [
        key
        for key in index.patient_keys()
        if store.digests_of(key) or any(index.annotation_objects(s.study_instance_uid) for s in index.studies_of(key))
    ]


def _parts(patients: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(patients), _PATIENTS_A_TASK):
        yield patients[start : start + _PATIENTS_A_TASK]


def _count_case(case: PatientCase, config: LinkConfig, counts: Counter[str]) -> None:
    for skip in case.skips:
        _count_skip(skip.stage, skip.reason, skip.detail, counts)
    counts.update(f"annotations/{a.annotation.kind.value}" for lesion in case.lesions for a in lesion.annotations)
    answers = [one for read in case.reports for one in read.links if one.finding_id is not None and one.lesion_id]
    linked = {one.lesion_id: "prior_linked" for one in answers}
    linked |= {one.lesion_id: "linked" for one in answers if one.decision is Decision.LINKED}
    reported = {uid for read in case.reports for uid in read.scope.reads}
    for lesion in case.lesions:
        state = "unmentioned" if lesion.study_instance_uid in reported else "without_report"
        counts["lesions/drawn"] += 1
        counts[f"lesions/{linked.get(lesion.lesion_id, state)}"] += 1
    for read in case.reports:
        in_scope = lesions_in_scope(case.lesions, read.scope)
        _count_findings(read, in_scope, counts)
        counts["with_references"] += _linked_with_references(read, in_scope, config)


def _count_findings(read: ReadReport, lesions: Sequence[Lesion], counts: Counter[str]) -> None:
    answers = {answer.finding_id: answer for answer in read.links}
    drawn = any(lesion.study_instance_uid in read.scope.reads for lesion in lesions)
    for finding in read.findings:
        answer = answers[finding.finding_id]
        sized, pointing = _has_size(finding), bool(finding.image_references)
        here = finding.assertion is not Assertion.ABSENT
        counts["findings/found"] += 1
        counts["findings/with_size"] += here and sized
        counts["findings/with_image_reference"] += here and pointing
        counts["findings/linkable"] += drawn and here and (sized or pointing)
        counts[f"decisions/{answer.decision.value}"] += 1
        if answer.decision in {Decision.LINKED, Decision.AMBIGUOUS}:
            counts[f"probabilities/{min(int(answer.probability * _BINS), _BINS - 1)}"] += 1
        if answer.decision is Decision.LINKED:
            counts[f"evidence/{_kinds_of_evidence(answer)}"] += 1


def _has_size(finding: Finding) -> bool:
    return any(s.temporality is Temporality.CURRENT and s.kind is SizeKind.LESION for s in finding.sizes)


def _kinds_of_evidence(answer: Link) -> str:
    found = [name for name in _KINDS_OF_EVIDENCE if answer.evidence.get(name, 0.0) > 0]
    return " + ".join(found) or "other"


def _linked_with_references(read: ReadReport, lesions: Sequence[Lesion], config: LinkConfig) -> int:
    """How many findings were linked if each that has a likely lesion, and names no image, named that lesion's.

    The likeliest findings choose first, so that no two name one lesion.
    """
    by_id = {lesion.lesion_id: lesion for lesion in lesions}
    taken = {answer.lesion_id for answer in read.links if answer.finding_id is not None}
    named: dict[str, Lesion] = {}
    for answer in sorted(read.links, key=lambda one: -one.probability):
        if answer.finding_id is None or answer.decision is not Decision.AMBIGUOUS:
            continue
        free = [name for name, _ in answer.rivals if name not in taken and name in by_id]
        if free:
            taken.add(free[0])
            named[answer.finding_id] = by_id[free[0]]
    linked = sum(answer.decision is Decision.LINKED for answer in read.links)
    if not named:
        return linked
    findings = [_pointing(finding, named.get(finding.finding_id)) for finding in read.findings]
    answers = link(findings, lesions, config, reported_at=given_out(read.report))
    return max(linked, sum(answer.decision is Decision.LINKED for answer in answers))


def _pointing(finding: Finding, lesion: Lesion | None) -> Finding:
    if lesion is None or finding.image_references:
        return finding
    first = lesion.annotations[0]
    if first.instance_number is None:
        return finding
    image = first.instance_number
    return replace(finding, image_references=(ImageReference(first.series_number, image, image, (0, 1)),))


def _inspection(counts: Mapping[str, int]) -> Inspection:
    def group(name: str, order: Iterable[str] = ()) -> dict[str, int]:
        found = {key.partition("/")[2]: n for key, n in counts.items() if key.startswith(f"{name}/")}
        first = [key for key in order if key in found]
        return {key: found[key] for key in [*first, *sorted(set(found) - set(first), key=lambda k: (-found[k], k))]}

    skips: dict[str, dict[str, int]] = {}
    for name, n in group("skips").items():
        stage, _, reason = name.partition("/")
        skips.setdefault(stage, {})[reason] = n
    details: dict[str, dict[str, str]] = {}
    for name in group("details"):  # the commonest first
        stage, reason, detail = name.split("/", 2)
        details.setdefault(stage, {}).setdefault(reason, detail)
    bins = group("probabilities")
    return Inspection(
        export=group("export", ("patients", "studies", "ct_series", "presentation_states", "files", "dicom", "ct")),
        annotations=group("annotations"),
        lesions=group("lesions", ("drawn", "linked", "prior_linked", "unmentioned", "without_report")),
        reports=group("reports", ("read", "used")),
        findings=group("findings", ("found", "with_size", "with_image_reference", "linkable")),
        decisions=group("decisions", [decision.value for decision in Decision]),
        probabilities=tuple(bins.get(str(i), 0) for i in range(_BINS)),
        evidence=group("evidence"),
        with_references=counts.get("with_references", 0),
        skips={stage: skips[stage] for stage in sorted(skips)},
        details={stage: details[stage] for stage in sorted(details)},
    )
