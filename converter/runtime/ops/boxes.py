"""Non-maximum suppression of overlapping boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.parameter import flag


def _overlaps(boxes: Tensor) -> Tensor:
    """Return intersection over union of each pair of boxes [B, 4] of center and size; 0 if both are empty."""
    center, size = boxes[:, None, :2], boxes[:, None, 2:]
    low, high = center - size / 2, center + size / 2
    shared = (torch.minimum(high, high.transpose(0, 1)) - torch.maximum(low, low.transpose(0, 1))).clamp(min=0).prod(-1)
    area = size.prod(-1)
    union = area + area.transpose(0, 1) - shared
    return torch.where(union > 0, shared / union, torch.zeros(()))


def _choose(boxes: Tensor, scores: Tensor, overlap: float, least: float, most: int, per_class: bool) -> list[int]:
    """Return the indices of at most ``most`` boxes, the best first."""
    best, kind = scores.max(1)
    pairs = _overlaps(boxes) > overlap
    chosen: list[int] = []
    for i in torch.sort(best, descending=True, stable=True).indices.tolist():
        if len(chosen) == most or best[i] <= least:
            break
        if not any(pairs[i, j] and (not per_class or kind[i] == kind[j]) for j in chosen):
            chosen.append(i)
    return chosen


def _non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: Tensor,
    max_boxes: Tensor,
    score_threshold: Tensor | None = None,
    per_class_suppression: Tensor | None = None,
) -> list[Tensor]:
    # Before iOS 17 the axis of boxes comes before that of coordinates; since iOS 17 there is no score_threshold.
    early = score_threshold is not None
    boxes, scores = (boxes, scores) if early else (boxes.transpose(1, 2), scores.transpose(1, 2))
    least = float(score_threshold) if score_threshold is not None else float("-inf")
    most, count = int(max_boxes), boxes.shape[0]
    kept, rated = torch.zeros(count, most, 4), torch.zeros(count, most, scores.shape[2])
    numbers, lengths = torch.full((count, most), -1, dtype=torch.int32), torch.zeros(count, dtype=torch.int32)
    for n in range(count):
        chosen = _choose(boxes[n], scores[n], float(iou_threshold), least, most, flag(per_class_suppression))
        kept[n, : len(chosen)], rated[n, : len(chosen)] = boxes[n, chosen], scores[n, chosen]
        numbers[n, : len(chosen)], lengths[n] = torch.tensor(chosen, dtype=torch.int32), len(chosen)
    return [kept, rated, numbers, lengths] if early else [kept.transpose(1, 2), rated.transpose(1, 2), numbers]


OPERATORS: dict[str, Callable[..., Any]] = {"non_maximum_suppression": _non_maximum_suppression}
