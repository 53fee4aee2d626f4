"""Choosing among overlapping boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.parameter import flag


def _overlaps(boxes: Tensor) -> Tensor:
    """Return the intersection over the union of each pair of boxes [B, 4], given as centre and size; 0 where both are empty."""
    centre, size = boxes[:, None, :2], boxes[:, None, 2:]
    low, high = centre - size / 2, centre + size / 2
    shared = (torch.minimum(high, high.transpose(0, 1)) - torch.maximum(low, low.transpose(0, 1))).clamp(min=0).prod(-1)
    area = size.prod(-1)
    union = area + area.transpose(0, 1) - shared
    return torch.where(union > 0, shared / union, torch.zeros(()))


def _chosen(boxes: Tensor, scores: Tensor, overlap: float, least: float, most: int, per_class: bool) -> list[int]:
    """Return the numbers of at most ``most`` of the boxes, the best first."""
    best, kind = scores.max(1)
    pairs = _overlaps(boxes) > overlap
    found: list[int] = []
    for i in torch.sort(best, descending=True, stable=True).indices.tolist():
        if len(found) == most or best[i] <= least:
            break
        if not any(pairs[i, j] and (not per_class or kind[i] == kind[j]) for j in found):
            found.append(i)
    return found


def _non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: Tensor,
    max_boxes: Tensor,
    score_threshold: Tensor | None = None,
    per_class_suppression: Tensor | None = None,
) -> list[Tensor]:
    # Before iOS 17 the boxes come before their coordinates; from then on there is no threshold for scores.
    early = score_threshold is not None
    boxes, scores = (boxes, scores) if early else (boxes.transpose(1, 2), scores.transpose(1, 2))
    least = float(score_threshold) if score_threshold is not None else float("-inf")
    most, count = int(max_boxes), boxes.shape[0]
    kept, rated = torch.zeros(count, most, 4), torch.zeros(count, most, scores.shape[2])
    numbers, lengths = torch.full((count, most), -1, dtype=torch.int32), torch.zeros(count, dtype=torch.int32)
    for n in range(count):
        found = _chosen(boxes[n], scores[n], float(iou_threshold), least, most, flag(per_class_suppression))
        kept[n, : len(found)], rated[n, : len(found)] = boxes[n, found], scores[n, found]
        numbers[n, : len(found)], lengths[n] = torch.tensor(found, dtype=torch.int32), len(found)
    return [kept, rated, numbers, lengths] if early else [kept.transpose(1, 2), rated.transpose(1, 2), numbers]


OPERATORS: dict[str, Callable[..., Any]] = {"non_maximum_suppression": _non_maximum_suppression}
