"""What the dictating radiologist sees: every lesion with its place, its size today and its size before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np

from cohort_builder.demo.plan import LesionPlan, PatientPlan, Scenario

_OUTSIDE_RATE = 0.4


@dataclass(frozen=True, slots=True)
class Sight:
    """One lesion as the dictating radiologist sees it.

    Parameters
    ----------
    diameters_mm
        Long and perhaps short axis as measured today; of what is not drawn, as measured and not saved.
    prior_mm
        The same in the study that is compared with; empty where there is none.

    """

    lesion: LesionPlan
    location: str
    diameters_mm: tuple[float, ...]
    series_number: int
    instance_number: int
    prior_mm: tuple[float, ...] = ()


def compared(
    plan: PatientPlan, sights: Mapping[str, Sight], prior: Mapping[str, Sight] | None = None
) -> tuple[dict[str, Sight], date | None]:
    """Put the earlier sizes beside today's.

    Parameters
    ----------
    sights, prior
        By lesion key, of ``plan.exams`` and of ``plan.prior``.

    Returns
    -------
    The sights with ``prior_mm``, and the day of the examination that is compared with: the prior study of the export,
    or now and then one of another hospital, which the export does not hold; None where nothing is compared.

    """
    if plan.prior is not None:
        before = {sight.lesion.number: sight.diameters_mm for sight in (prior or {}).values()}
        known = {key: before.get(sight.lesion.number, ()) for key, sight in sights.items()}
        return {
            key: replace(sight, prior_mm=_alike(known[key], sight)) for key, sight in sights.items()
        }, plan.prior.day
    rng = plan.rng("outside")
    if plan.scenario is not Scenario.SINGLE or rng.random() > _OUTSIDE_RATE:
        return dict(sights), None
    day = plan.exams[0].day - timedelta(days=int(rng.integers(60, 500)))
    result = {}
    for key, sight in sights.items():
        factor = float(np.exp(rng.normal(-0.1, 0.2)))
        old = tuple(factor * value for value in sight.diameters_mm) if sight.lesion.growth is not None else ()
        result[key] = replace(sight, prior_mm=old)
    return result, day


def _alike(before: tuple[float, ...], sight: Sight) -> tuple[float, ...]:
    """As many axes as today; a radiologist who measures two looks up two, or none."""
    return before[: len(sight.diameters_mm)] if len(before) >= len(sight.diameters_mm) else ()
