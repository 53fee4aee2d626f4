"""The images that the bundled model learns from: one or two colored shapes in named places on a colored ground.

A `Scene` describes an image in the words of its caption; `draw` turns it into pixels. Everything that a caption does not
mention has a default (medium size, flat, plain, center), so a prompt determines its image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (244, 140, 32),
    "yellow": (250, 214, 50),
    "green": (46, 160, 74),
    "cyan": (64, 200, 214),
    "blue": (40, 84, 214),
    "purple": (128, 58, 178),
    "pink": (246, 132, 186),
    "white": (248, 248, 248),
    "black": (26, 26, 30),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
SIZES = ("small", "medium", "large")
STYLES = ("flat", "outlined", "shaded")
#: A style that no caption names: outlined in white. The LoRA of `demo.train_lora` teaches it.
CHALK = "chalk"
PATTERNS = ("plain", "striped", "dotted", "checkered")
#: Cell name -> center as a fraction of the image (x to the right, y down).
PLACES: dict[str, tuple[float, float]] = {
    "top left": (0.25, 0.25),
    "top": (0.5, 0.25),
    "top right": (0.75, 0.25),
    "left": (0.25, 0.5),
    "center": (0.5, 0.5),
    "right": (0.75, 0.5),
    "bottom left": (0.25, 0.75),
    "bottom": (0.5, 0.75),
    "bottom right": (0.75, 0.75),
}
#: Radius of the shape as a fraction of the image, for scenes of one object and of two.
RADII = {1: {"small": 0.10, "medium": 0.155, "large": 0.22}, 2: {"small": 0.085, "medium": 0.125, "large": 0.17}}


@dataclass(frozen=True)
class Thing:
    """One object of a scene, in the caption's words."""

    shape: str
    color: str
    place: str
    size: str = "medium"
    style: str = "flat"


@dataclass(frozen=True)
class Scene:
    """One or two things on a ground."""

    things: tuple[Thing, ...]
    ground: str
    pattern: str = "plain"

    def radius(self, thing: Thing) -> float:
        """Return the thing's radius as a fraction of the image's side."""
        return RADII[len(self.things)][thing.size]


def _fits(scene: Scene) -> bool:
    if len(scene.things) < 2:
        return True
    a, b = scene.things
    gap = np.hypot(*np.subtract(PLACES[a.place], PLACES[b.place]))
    return bool(gap >= scene.radius(a) + scene.radius(b) + 0.03)


def _thing(rng: np.random.Generator, ground: str) -> Thing:
    return Thing(
        shape=str(rng.choice(SHAPES)),
        color=str(rng.choice([c for c in COLORS if c != ground])),
        place=str(rng.choice(list(PLACES))),
        size=str(rng.choice(SIZES, p=(0.25, 0.5, 0.25))),
        style=str(rng.choice(STYLES, p=(0.6, 0.2, 0.2))),
    )


def random_scene(rng: np.random.Generator, *, two: float = 0.5) -> Scene:
    """Return a scene whose things do not touch; ``two`` is the share of scenes with two things."""
    while True:
        ground = str(rng.choice(list(COLORS)))
        things = tuple(_thing(rng, ground) for _ in range(2 if rng.random() < two else 1))
        if rng.random() < 0.25:
            things = tuple(replace(t, place=p) for t, p in zip(things, _usual_places(len(things), rng), strict=True))
        things = tuple(replace(t, style=things[0].style) for t in things)
        scene = Scene(things, ground, str(rng.choice(PATTERNS, p=(0.55, 0.15, 0.15, 0.15))))
        if _fits(scene):
            return scene


def _usual_places(count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Return the places that people mean if they name none; scenes with these are more frequent."""
    if count == 1:
        return ("center",)
    return ("left", "right") if rng.random() < 0.6 else ("top", "bottom")


def held_out(scene: Scene) -> bool:
    """Return whether a scene is excluded from training: one shape-color-ground triple in eight is.

    A scene is held out if any of its things is; `demo.check` uses only held-out scenes.
    """
    shapes, colors = list(SHAPES), list(COLORS)
    return any(
        (shapes.index(t.shape) * 5 + colors.index(t.color) * 3 + colors.index(scene.ground)) % 8 == 0
        for t in scene.things
    )


# --- drawing ------------------------------------------------------------------------------------------------------


def _polygon(points: list[tuple[float, float]]) -> NDArray[np.float32]:
    return np.asarray(points, np.float32)


def _star() -> NDArray[np.float32]:
    angle = -np.pi / 2 + np.arange(10) * np.pi / 5
    reach = np.where(np.arange(10) % 2 == 0, 1.08, 0.47)
    return np.stack([np.cos(angle) * reach, np.sin(angle) * reach + 0.06], 1).astype(np.float32)


_POLYGONS = {
    "square": _polygon([(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]),
    "triangle": _polygon([(0, -0.98), (1.02, 0.8), (-1.02, 0.8)]),
    "diamond": _polygon([(0, -1.1), (0.8, 0), (0, 1.1), (-0.8, 0)]),
    "cross": _polygon(
        [
            *[(-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33)],
            *[(0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33)],
        ]
    ),
    "star": _star(),
}


def _polygon_distance(
    x: NDArray[np.float32], y: NDArray[np.float32], points: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the signed distance to a polygon, negative inside (even-odd rule)."""
    nearest = np.full(x.shape, np.inf, np.float32)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
        ex, ey = bx - ax, by - ay
        t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (x - ax - t * ex) ** 2 + (y - ay - t * ey) ** 2)
        if ey != 0:
            crosses = (ay > y) != (by > y)
            inside ^= crosses & (x < ex * (y - ay) / ey + ax)
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def _heart_distance(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the signed distance to a heart of unit radius, point down: two circle arcs and two straight sides."""
    hx, hy = np.abs(x) / 1.75, (0.92 - y) / 1.75
    upper = hx + hy > 1
    arc = np.sqrt((hx - 0.25) ** 2 + (hy - 0.75) ** 2) - np.sqrt(2) / 4
    foot = 0.5 * np.maximum(hx + hy, 0)
    side = np.minimum(hx**2 + (hy - 1) ** 2, (hx - foot) ** 2 + (hy - foot) ** 2)
    return (np.where(upper, arc, np.sqrt(side) * np.sign(hx - hy)) * 1.75).astype(np.float32)


def shape_distance(shape: str, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the signed distance (negative inside) to a shape of unit radius around the origin, y down."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - 1
    if shape == "ring":
        return np.abs(np.sqrt(x * x + y * y) - 0.74) - 0.26
    if shape == "heart":
        return _heart_distance(x, y)
    return _polygon_distance(x, y, _POLYGONS[shape])


def _ground(
    scene: Scene, x: NDArray[np.float32], y: NDArray[np.float32], side: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    base = np.asarray(COLORS[scene.ground], np.float32) + rng.uniform(-5, 5, 3).astype(np.float32)
    image = np.broadcast_to(base, (*x.shape, 3)).copy()
    if scene.pattern == "plain":
        return image
    second = base + (0.28 * (255 - base) if base.mean() < 128 else -0.18 * base)
    pitch = 0.125
    if scene.pattern == "striped":
        mark = np.abs((x / pitch) % 1 - 0.5) * pitch - pitch / 4
    elif scene.pattern == "dotted":
        mark = np.hypot((x / pitch) % 1 - 0.5, (y / pitch) % 1 - 0.5) * pitch - pitch * 0.22
    else:
        mark = np.maximum(np.abs((x / pitch / 2) % 1 - 0.5), 0) * pitch * 2 - pitch / 2
        row = np.abs((y / pitch / 2) % 1 - 0.5) * pitch * 2 - pitch / 2
        mark = np.where(np.abs(mark) < np.abs(row), mark * -np.sign(row), row * -np.sign(mark))
    cover = np.clip(0.5 - mark * side, 0, 1)[..., None]
    return image * (1 - cover) + second * cover


def draw(
    scene: Scene, rng: np.random.Generator, *, window: tuple[int, int, int, int] | None = None, side: int = 256
) -> NDArray[np.uint8]:
    """Return the scene's pixels, uint8 [height, width, 3], of a square image of this ``side``.

    ``rng`` moves and tints things slightly; if a ``window`` (left, top, right, bottom in pixels) is given, only that is
    drawn. The same ``rng`` gives the same scene at every side; its edges are always one pixel soft.
    """
    left, top, right, bottom = window or (0, 0, side, side)
    y, x = np.meshgrid(
        (np.arange(top, bottom, dtype=np.float32) + 0.5) / side,
        (np.arange(left, right, dtype=np.float32) + 0.5) / side,
        indexing="ij",
    )
    image = _ground(scene, x, y, side, rng)
    for thing in scene.things:
        radius = scene.radius(thing) * rng.uniform(0.95, 1.05)
        cx, cy = np.asarray(PLACES[thing.place]) + rng.uniform(-0.015, 0.015, 2)
        color = np.asarray(COLORS[thing.color], np.float32) + rng.uniform(-5, 5, 3).astype(np.float32)
        u, v = ((x - cx) / radius).astype(np.float32), ((y - cy) / radius).astype(np.float32)
        distance = shape_distance(thing.shape, u, v) * radius * side
        fill = np.broadcast_to(color, image.shape)
        if thing.style == "shaded":
            light = np.clip(1.1 - 0.3 * np.hypot(u + 0.45, v + 0.45), 0.6, 1.1)[..., None]
            gleam = 60 * np.exp(-6 * ((u + 0.4) ** 2 + (v + 0.4) ** 2))[..., None]
            fill = fill * light + gleam
        if thing.style in ("outlined", CHALK):
            white = thing.style == CHALK or sum(COLORS[thing.color]) < 120
            edge = (235, 235, 235) if white else (18, 18, 20)
            line = np.clip(distance + 4.5 * side / 256 + 0.5, 0, 1)[..., None]
            fill = fill * (1 - line) + np.asarray(edge, np.float32) * line
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        image = image * (1 - cover) + fill * cover
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)
