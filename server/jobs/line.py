"""A waiting line: sorted, and the work before any place in it at hand."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from server.jobs.pace import Tally, Work

#: A block that grows to twice this is halved. Ten thousand jobs are then some hundred blocks: a place is found, and the
#: work before it summed, in some hundred steps over blocks and as many inside one.
_BLOCK = 64


class Place(NamedTuple):
    """Where a job stands in a line: by its turn, and among equal ones by its number."""

    turn: float
    number: int


class _Block:
    def __init__(self, places: list[Place], works: dict[Place, Work]) -> None:
        self.places, self.works, self.tally = places, works, Tally()
        for work in works.values():
            self.tally.add(work)

    def halved(self) -> tuple[_Block, _Block]:
        middle = len(self.places) // 2
        first, second = (
            _Block(part, {p: self.works[p] for p in part}) for part in (self.places[:middle], self.places[middle:])
        )
        return first, second


class Line:
    """Places and the work that waits at them. Adding, removing and looking cost about the root of the length."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Place]:
        for block in self._blocks:
            yield from block.places

    def first(self) -> Place | None:
        """The first place; None where nobody waits."""
        return self._blocks[0].places[0] if self._blocks else None

    def _block(self, place: Place) -> int:
        """The block that ``place`` is in or belongs into: the first whose last place is not before it."""
        return min(bisect_left(self._blocks, place, key=lambda b: b.places[-1]), len(self._blocks) - 1)

    def add(self, place: Place, work: Work) -> None:
        """Let a job wait at a place where none does."""
        self._length += 1
        if not self._blocks:
            self._blocks = [_Block([place], {place: work})]
            return
        index = self._block(place)
        block = self._blocks[index]
        block.places.insert(bisect_left(block.places, place), place)
        block.works[place] = work
        block.tally.add(work)
        if len(block.places) >= 2 * _BLOCK:
            self._blocks[index : index + 1] = block.halved()

    def remove(self, place: Place) -> None:
        """Take a waiting job out; raises KeyError where none waits there."""
        block = self._blocks[self._block(place)]
        block.tally.take(block.works.pop(place))
        del block.places[bisect_left(block.places, place)]
        self._length -= 1
        if not block.places:
            self._blocks.remove(block)

    def before(self, place: Place, tally: Tally) -> int:
        """How many wait before ``place``, which itself need not be taken; their work is counted into ``tally``."""
        count = 0
        for block in self._blocks:
            if block.places[-1] < place:
                count += len(block.places)
                tally.merge(block.tally)
                continue
            within = bisect_left(block.places, place)
            for other in block.places[:within]:
                tally.add(block.works[other])
            return count + within
        return count
