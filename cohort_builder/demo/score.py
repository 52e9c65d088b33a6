"""The demo's score: a built cohort against the truth of its generated hospital."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohort_builder.demo.plan import Drawing
from cohort_builder.demo.score_links import LinkCounts, count_links, read_links
from cohort_builder.demo.score_masks import PublishedMasks, evaluation_cases, score_published
from cohort_builder.demo.truth import load_truth
from segmentation.evaluation import EngineScore, evaluate
from segmentation.metrics import Interval

_ENGINES = ("classical", "ellipsoid")
_PROMPTS = {
    "line": (Drawing.LINE, Drawing.BIDIMENSIONAL),
    "arrow": (Drawing.ARROW,),
}


@dataclass(frozen=True, slots=True)
class DemoScore:
    """Everything that the demo says about itself.

    Parameters
    ----------
    engines
        By kind of prompt ("line" holds bi-dimensional pairs, too), one score an engine, all on the same strokes; absent
        where nothing was drawn in that way.

    """

    links: LinkCounts
    published: PublishedMasks
    engines: dict[str, tuple[EngineScore, ...]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; names neither patient nor report."""
        counts = self.links
        return {
            "links": {
                "right": counts.right,
                "wrong": counts.wrong,
                "withheld": counts.withheld,
                "linkable": counts.linkable,
                "precision": counts.precision,
                "recall": counts.recall,
                "prior_right": counts.prior_right,
                "prior_wrong": counts.prior_wrong,
                "merged_lesions": counts.merged,
                "split_lesions": counts.split,
                "decisions": dict(counts.decisions),
            },
            "published_masks": {
                "lesions": self.published.lesions,
                "unscored": self.published.unscored,
                "dice": _numbers(self.published.dice),
                "volume_error": _numbers(self.published.volume_error),
            },
            "engines": {
                prompt: {score.engine: _engine_dict(score) for score in scores}
                for prompt, scores in self.engines.items()
            },
        }

    def as_text(self) -> str:
        """Return a small table for people."""
        links, masks = self.links, self.published
        lines = [
            "links      "
            + _row(right=links.right, wrong=links.wrong, withheld=links.withheld, linkable=links.linkable),
            f"           precision {links.precision:.3f}, linked {links.recall:.1%} of the linkable findings",
            "           " + _row(prior_right=links.prior_right, prior_wrong=links.prior_wrong),
            "lesions    " + _row(merged=links.merged, split=links.split),
            f"published  {masks.lesions} masks: Dice {masks.dice or '-'}, volume error {_percent(masks.volume_error)}",
            "",
            f"{'prompt':<8}{'engine':<12}{'lesions':>8}  {'Dice':<23}{'volume error %':<23}{'Dice above ellipsoid'}",
        ]
        for prompt, scores in self.engines.items():
            lines += [
                f"{prompt:<8}{score.engine:<12}{score.lesions:>8}  {score.dice!s:<23}"
                f"{_percent(score.volume_error):<23}{score.dice_above_baseline or ''}".rstrip()
                for score in scores
            ]
        return "\n".join(lines)


def score_cohort(cohort_dir: str | Path, truth_dir: str | Path) -> DemoScore:
    """Score what ``build_cohort`` made of a generated hospital.

    Parameters
    ----------
    cohort_dir
        What ``build_cohort`` left, with its ``private/``.
    truth_dir
        ``Hospital.truth``; the export is expected beside it.

    Raises
    ------
    ConfigError
        The cohort has no ``private/links.jsonl``.
    PacsError
        The export is not beside the truth.

    """
    cohort, folder = Path(cohort_dir), Path(truth_dir)
    truth = load_truth(folder)
    links = read_links(cohort)
    published = score_published(cohort, links, truth, folder)
    return DemoScore(count_links(links, truth), published, score_engines(folder))


def score_engines(truth_dir: str | Path) -> dict[str, tuple[EngineScore, ...]]:
    """Run ``classical`` and ``ellipsoid`` on the strokes of a generated hospital, by kind of prompt."""
    from segmentation import load_segmenter

    folder = Path(truth_dir)
    truth = load_truth(folder)
    engines = {name: load_segmenter(name) for name in _ENGINES}
    scores = {}
    for prompt, drawings in _PROMPTS.items():
        if any(a["usable"] and a["drawing"] in drawings for lesion in truth.lesions for a in lesion["annotations"]):
            cases = evaluation_cases(truth, folder, folder.parent / "pacs_export", drawings)
            scores[prompt] = evaluate(cases, engines)
    return scores


def _engine_dict(score: EngineScore) -> dict[str, Any]:
    return {
        "lesions": score.lesions,
        "failures": score.failures,
        "dice": _numbers(score.dice),
        "volume_error": _numbers(score.volume_error),
        "recist_error": _numbers(score.recist_error),
        "seconds": score.seconds,
        "dice_above_ellipsoid": _numbers(score.dice_above_baseline),
    }


def _numbers(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _row(**counts: int) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
