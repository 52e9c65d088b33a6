"""One evaluation: every engine on every prompt of every lesion, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segmentation.evaluation.cases import Drawing, EvaluationCase, Lesion, prompted_cases
from segmentation.evaluation.contenders import Contender
from segmentation.evaluation.ledger import Ledger
from segmentation.evaluation.scoring import CaseScore, score_case
from segmentation.prompts import Kind

Unit = Callable[[], Iterable[Lesion]]
"""Reads the lesions that lie together, one scan as a rule; may be called again."""

LEDGER = "scores.jsonl"


class EvaluationError(Exception):
    """There is nothing to evaluate, or two lesions cannot be told apart."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What every engine is asked.

    Parameters
    ----------
    kinds
        Kinds of prompts, see `segmentation.prompts.KINDS`.
    size_cut_mm
        Longest in-plane diameter of the truth from which a lesion counts as large. 20 mm is a convention (the least
        length that RECIST 1.0 let be measured on thick slices), not a finding.

    """

    kinds: tuple[Kind, ...] = ("line",)
    prompts_per_lesion: int = 1
    drawing: Drawing = "paper"
    seed: int = 0
    size_cut_mm: float = 20.0


@dataclass(frozen=True, slots=True)
class Run:
    """All scores of an evaluation.

    Parameters
    ----------
    engines
        Labels, in the order asked for.
    bases
        Label of an ablation to the label that it is held against.
    not_asked
        Label to the kinds that the engine has no prompt for: these are not failures.
    places
        Lesion to the number of its unit.

    """

    plan: Plan
    engines: tuple[str, ...]
    scores: tuple[CaseScore, ...]
    bases: Mapping[str, str]
    not_asked: Mapping[str, tuple[Kind, ...]]
    places: Mapping[str, int]
    reused: int = 0

    def of(self, engine: str, kind: str) -> tuple[CaseScore, ...]:
        """Scores of one engine on one kind of prompt."""
        return tuple(score for score in self.scores if score.engine == engine and score.kind == kind)


def run_evaluation(
    units: Sequence[Unit],
    contenders: Sequence[Contender],
    plan: Plan,
    folder: Path,
    *,
    done: Callable[[], None] = lambda: None,
) -> Run:
    """Score every contender on every case; what an earlier run in ``folder`` has scored is not done again.

    Parameters
    ----------
    done
        Called after each lesion.

    Raises
    ------
    EvaluationError
        No lesion, one id for two lesions, a patient that an engine has seen in training, or a damaged file of scores.
    EngineError
        An engine cannot run on this machine.

    """
    try:
        ledger = Ledger(folder / LEDGER)
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    places: dict[str, int] = {}
    scores: list[CaseScore] = []
    for number, unit in enumerate(units):
        for lesion in unit():
            if lesion.sample_id in places:
                raise EvaluationError(
                    f"two lesions are called {lesion.sample_id}: give each source once, or a name of its own"
                )
            places[lesion.sample_id] = number
            _require_unseen(contenders, lesion.patient_id)
            scores.extend(_scored(lesion, contenders, plan, ledger))
            done()
    if not scores:
        raise EvaluationError("no lesion was found in this split of these sources, or no engine takes these prompts")
    asked = {(score.engine, score.kind) for score in scores}
    return Run(
        plan,
        tuple(contender.label for contender in contenders),
        tuple(scores),
        {contender.label: contender.base for contender in contenders if contender.base},
        {
            c.label: missing
            for c in contenders
            if (missing := tuple(k for k in plan.kinds if (c.label, k) not in asked))
        },
        places,
        ledger.reused,
    )


def chosen_cases(units: Sequence[Unit], run: Run, wanted: Iterable[tuple[str, str, int]]) -> Iterator[EvaluationCase]:
    """Read and prompt again the cases (lesion, kind, number), the same as in the run; only their units are read."""
    left = set(wanted)
    for number in sorted({run.places[lesion] for lesion, _, _ in left}):
        for lesion in units[number]():
            kinds = tuple({kind for name, kind, _ in left if name == lesion.sample_id})
            for case in _cases(lesion, run.plan, kinds):
                if (case.case_id, case.kind, case.number) in left:
                    yield case


def _cases(lesion: Lesion, plan: Plan, kinds: Sequence[str]) -> Iterator[EvaluationCase]:
    wanted = [kind for kind in plan.kinds if kind in kinds]
    return prompted_cases(lesion, wanted, plan.prompts_per_lesion, drawing=plan.drawing, seed=plan.seed)


def _scored(lesion: Lesion, contenders: Sequence[Contender], plan: Plan, ledger: Ledger) -> Iterator[CaseScore]:
    for case in _cases(lesion, plan, plan.kinds):
        for contender in contenders:
            if not contender.takes(case.kind, case.patient_id):
                continue
            key = contender.key(case.patient_id)
            known = None if key is None else ledger.get(key, case.digest)
            if known is not None:
                yield known.of(case, contender.label)
                continue
            score = score_case(case, contender.engine(case.patient_id), contender.label, contender.tiers)
            if key is not None:
                ledger.add(key, score)
            yield score


def _require_unseen(contenders: Sequence[Contender], patient_id: str) -> None:
    for contender in contenders:
        if contender.lacks([patient_id]):
            raise EvaluationError(
                f"no fold of {contender.label!r} leaves out the patient of a lesion here: add the patient to the file "
                "of the weights that have not seen it, or give weights for all other patients"
            )
