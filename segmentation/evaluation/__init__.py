"""Compare engines on lesions with a truth, and lay the result out as the papers do.

`harness` compares engines on cases in memory; `run` evaluates whole sources, resumable, and `report` writes it down.
"""

from segmentation.evaluation.cases import EvaluationCase, prompted_cases
from segmentation.evaluation.harness import EngineScore, evaluate, format_table
from segmentation.evaluation.scoring import CaseScore, score_case

__all__ = [
    "CaseScore",
    "EngineScore",
    "EvaluationCase",
    "evaluate",
    "format_table",
    "prompted_cases",
    "score_case",
]
