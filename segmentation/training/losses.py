"""Losses on logits: those of SAM 2, and cross-entropy for what starts from random weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import Tensor

from segmentation.sam2ct.steps import Step
from segmentation.training.config import LossRecipe

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
"""Of SAM 2 and RetinaNet (Lin et al. 2017, arXiv:1708.02002)."""
_MOST_LOGIT = 20.0
"""What is found empty is written as -1024: a mask on which there is an object cannot learn from that."""


def focal_loss(logits: Tensor, goal: Tensor) -> Tensor:
    """(B,) mean over all but the first axis of the focal loss of logits against shares in [0, 1]."""
    probability = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    right = probability * goal + (1 - probability) * (1 - goal)
    weight = FOCAL_ALPHA * goal + (1 - FOCAL_ALPHA) * (1 - goal)
    return (weight * (1 - right) ** FOCAL_GAMMA * entropy).flatten(1).mean(dim=1)


def cross_entropy_loss(logits: Tensor, goal: Tensor) -> Tensor:
    """(B,) mean over all but the first axis of the cross-entropy of logits against shares in [0, 1]."""
    return F.binary_cross_entropy_with_logits(logits, goal, reduction="none").flatten(1).mean(dim=1)


def dice_loss(logits: Tensor, goal: Tensor) -> Tensor:
    """(B,) soft Dice loss, 1 - (2 |p g| + 1) / (|p| + |g| + 1), over all but the first axis."""
    share, goal = torch.sigmoid(logits).flatten(1), goal.flatten(1)
    return 1 - (2 * (share * goal).sum(dim=1) + 1) / ((share + goal).sum(dim=1) + 1)


def slice_losses(step: Step, goal: Tensor, recipe: LossRecipe, *, scores_objects: bool = True) -> dict[str, Tensor]:
    """(B,) weighted parts of the loss of one slice each.

    Parameters
    ----------
    goal
        (B, 1, S, S) share of each network pixel that is lesion.
    scores_objects
        The network says by a score of its own that a slice is empty: its mask is only judged where there is an object
        (SAM 2). Otherwise an empty slice must have an empty mask.

    """
    logits = F.interpolate(step.logits.float(), size=goal.shape[-2:], mode="bilinear", align_corners=False)
    goal_is, mask_is = goal > 0.5, logits > 0
    present = goal_is.flatten(1).any(dim=1).float()
    judged = present if scores_objects else torch.ones_like(present)
    logits = logits.clamp(-_MOST_LOGIT, _MOST_LOGIT)
    overlap, union = (goal_is & mask_is).sum(dim=(1, 2, 3)), (goal_is | mask_is).sum(dim=(1, 2, 3))
    parts = {}
    if recipe.focal:
        parts["focal"] = recipe.focal * judged * focal_loss(logits, goal)
    if recipe.cross_entropy:
        parts["cross_entropy"] = recipe.cross_entropy * judged * cross_entropy_loss(logits, goal)
    parts["dice"] = recipe.dice * judged * dice_loss(logits, goal)
    parts["iou"] = recipe.iou * judged * (step.iou.float() - overlap / union.clamp(min=1)).abs()
    if scores_objects:
        score = F.binary_cross_entropy_with_logits(step.object_score.float(), present, reduction="none")
        parts["object"] = recipe.object_score * score
    return parts
