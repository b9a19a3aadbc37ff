"""Generated scenes: coloured shapes on grounds, with questions after COCO-QA.

A scene is a 64 x 64 picture of one to four shapes on a 3 x 3 grid. The picture is
parted into grounds (grass, water, sand, ...), each with a texture of its own, and
every shape lies on one of them. Four kinds of question have an exact answer:

======== ===================================== ==================
type     question                              answer
======== ===================================== ==================
color    what is the color of the circle       red, light blue, ...
object   which shape is red                    circle, star, ...
number   how many stars are there              one ... four
location where is the cross                    grass, water, ...
======== ===================================== ==================

Everything is drawn from one `numpy.random.Generator`, so a scene is fixed by its
seed. NumPy and Pillow only: nothing here knows the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
GRID = 3
MAX_OBJECTS = 4

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
COLORS = {
    "red": (214, 32, 38),
    "orange": (245, 140, 20),
    "yellow": (250, 226, 40),
    "purple": (136, 40, 160),
    "white": (250, 250, 250),
    "black": (22, 22, 26),
    "light blue": (120, 196, 250),
    "dark blue": (20, 36, 150),
    "light green": (140, 232, 110),
    "dark green": (12, 92, 40),
}
GROUNDS = {
    "grass": (96, 158, 74),
    "water": (58, 118, 190),
    "sand": (222, 196, 140),
    "road": (118, 118, 122),
    "snow": (204, 216, 230),
}
NUMBERS = ("one", "two", "three", "four")
PLURALS = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
QUESTION_TYPES = ("color", "object", "number", "location")

_SUPERSAMPLE = 4  # shapes are drawn this much larger, then averaged down


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene: what it is, what it lies on and where (grid cell)."""

    shape: str
    color: str
    ground: str
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    """A picture and all that is known of it.

    Attributes:
        pixels: (64, 64, 3) uint8.
        objects: the shapes, in reading order.
        owner: (64, 64) int8, the index in `objects` of the shape that covers a
            pixel, -1 where the ground is seen.
        ground: (64, 64) int8, the index in `GROUNDS` of the ground under a pixel.
    """

    pixels: np.ndarray
    objects: tuple[SceneObject, ...]
    owner: np.ndarray
    ground: np.ndarray

    def box(self, number: int) -> tuple[int, int, int, int]:
        """Of one of the objects: left, upper, right and lower in pixels, right and lower left out, as Pillow has it."""
        rows, columns = (np.flatnonzero((self.owner == number).any(axis)) for axis in (1, 0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @property
    def image(self) -> Image.Image:
        """The picture as a PIL image."""
        return Image.fromarray(self.pixels)


@dataclass(frozen=True)
class SceneQuestion:
    """One question about a scene: `type` is one of `QUESTION_TYPES`, `about` says which of its objects are meant."""

    question: str
    answer: str
    type: str
    about: tuple[int, ...]


def scene(seed: int, index: int = 0, objects: int | None = None) -> Scene:
    """Scene number `index` of the endless series with this seed.

    Args:
        seed: the series. Training uses seed 0, the accuracy table seed 1.
        index: which scene of it.
        objects: how many shapes (1 to 4); drawn uniformly if not given.
    """
    rng = np.random.default_rng([seed, index])
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    if objects is not None:
        if not 1 <= objects <= MAX_OBJECTS:
            raise ValueError(f"a scene has 1 to {MAX_OBJECTS} objects, not {objects}")
        count = objects
    grounds = _ground_of_cells(rng)
    ground, pixels = _draw_grounds(grounds, rng)
    found = []
    cells = sorted(rng.permutation(GRID * GRID)[:count])
    for cell, shape in zip(cells, _choose_shapes(count, rng), strict=True):
        row, column = divmod(int(cell), GRID)
        color = list(COLORS)[rng.integers(len(COLORS))]
        name = list(GROUNDS)[grounds[row, column]]
        found.append(SceneObject(shape, color, name, row, column))
    owner = np.full((SIZE, SIZE), -1, np.int8)
    for number, item in enumerate(found):
        pixels = _draw_object(pixels, item, number, owner, rng)
    pixels = pixels + rng.normal(0.0, 5.0, pixels.shape)
    return Scene(pixels.clip(0, 255).astype(np.uint8), tuple(found), owner, ground)


def questions(scene: Scene) -> list[SceneQuestion]:
    """Every question about the scene that has exactly one right answer."""
    shapes = Counter(item.shape for item in scene.objects)
    colors = Counter(item.color for item in scene.objects)
    asked = []
    for number, item in enumerate(scene.objects):
        if shapes[item.shape] == 1:
            asked.append(SceneQuestion(f"what is the color of the {item.shape}", item.color, "color", (number,)))
            asked.append(SceneQuestion(f"where is the {item.shape}", item.ground, "location", (number,)))
        if colors[item.color] == 1:
            asked.append(SceneQuestion(f"which shape is {item.color}", item.shape, "object", (number,)))
    for shape, count in shapes.items():
        about = tuple(number for number, item in enumerate(scene.objects) if item.shape == shape)
        asked.append(SceneQuestion(f"how many {PLURALS[shape]} are there", NUMBERS[count - 1], "number", about))
    return asked


def vocabulary() -> Iterator[str]:
    """Every word that a question or an answer of these scenes can hold."""
    yield from ["what", "is", "the", "color", "of", "which", "shape", "how", "many", "are", "there", "where"]
    yield from SHAPES
    yield from PLURALS.values()
    yield from dict.fromkeys(word for color in COLORS for word in color.split())
    yield from GROUNDS
    yield from NUMBERS


def _choose_shapes(count: int, rng: np.random.Generator) -> list[str]:
    """Half of the scenes repeat one shape, so that every number up to four is common."""
    order = [SHAPES[i] for i in rng.permutation(len(SHAPES))]
    repeats = int(rng.integers(1, count + 1)) if rng.random() < 0.5 else 1
    shapes = [order[0]] * repeats + order[1 : count - repeats + 1]
    return [shapes[i] for i in rng.permutation(count)]


def _ground_of_cells(rng: np.random.Generator) -> np.ndarray:
    """(3, 3) indices into `GROUNDS`: bands or quarters, two to four different grounds."""
    order = rng.permutation(len(GROUNDS))
    rows = np.arange(GRID) >= rng.integers(1, GRID)
    columns = np.arange(GRID) >= rng.integers(1, GRID)
    match rng.integers(3):
        case 0:
            part = np.broadcast_to(rows[:, None].astype(int), (GRID, GRID))
        case 1:
            part = np.broadcast_to(columns[None, :].astype(int), (GRID, GRID))
        case _:
            part = 2 * rows[:, None].astype(int) + columns[None, :]
    return order[part]


def _draw_grounds(cells: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The ground under each pixel, (64, 64) int8, and its picture, (64, 64, 3) float."""
    edges = [0, *(round(SIZE * k / GRID) + int(rng.integers(-1, 2)) for k in range(1, GRID)), SIZE]
    band = np.searchsorted(edges, np.arange(SIZE), side="right") - 1
    ground = cells[np.ix_(band, band)].astype(np.int8)
    picture = np.zeros((SIZE, SIZE, 3))
    y, x = np.mgrid[:SIZE, :SIZE]
    phase = rng.uniform(0, 2 * math.pi, len(GROUNDS))
    speckle = rng.normal(size=(SIZE, SIZE))
    texture = {
        "grass": 16 * speckle * (x % 2 == 0),
        "water": 18 * np.sin(y * 1.4 + np.sin(x * 0.35 + phase[1]) + phase[1]),
        "sand": 14 * speckle,
        "road": 40.0 * (((x + y + int(4 * phase[3])) % 12) < 2),
        "snow": -34.0 * (speckle > 1.9),
    }
    for number, (name, color) in enumerate(GROUNDS.items()):
        here = ground == number
        picture[here] = np.array(color) + rng.normal(0, 6, 3) + texture[name][here][:, None]
    return ground, picture


def _outline(shape: str, radius: float, angle: float) -> list[tuple[float, float]]:
    """Corners of a shape around (0, 0)."""

    def around(radii: list[float], start: float) -> list[tuple[float, float]]:
        step = 2 * math.pi / len(radii)
        turned = [start + angle + step * k for k in range(len(radii))]
        return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, turned, strict=True)]

    match shape:
        case "circle":
            return around([0.95 * radius] * 36, 0.0)
        case "square":
            return around([1.2 * radius] * 4, math.pi / 4)
        case "diamond":
            # narrow, so that a turned square is not one
            return [(x * 0.62, y * 1.15) for x, y in around([radius] * 4, -angle)]
        case "triangle":
            return around([1.15 * radius] * 3, -math.pi / 2)
        case "star":
            return around([1.2 * radius, 0.48 * radius] * 5, -math.pi / 2)
    arm, width = 1.05 * radius, 0.36 * radius
    corners = [
        (-width, -arm), (width, -arm), (width, -width), (arm, -width), (arm, width), (width, width),
        (width, arm), (-width, arm), (-width, width), (-arm, width), (-arm, -width), (-width, -width),
    ]  # fmt: skip
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in corners]


def _draw_object(
    picture: np.ndarray, item: SceneObject, number: int, owner: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The picture with one more shape on it; `owner` is marked in place."""
    cell = SIZE / GRID
    center = [(k + 0.5) * cell + rng.uniform(-1.5, 1.5) for k in (item.column, item.row)]
    corners = _outline(item.shape, rng.uniform(6.5, 8.2), rng.uniform(-0.2, 0.2))
    spots = [tuple(_SUPERSAMPLE * (c + d) for c, d in zip(center, corner, strict=True)) for corner in corners]
    mask = Image.new("L", (SIZE * _SUPERSAMPLE,) * 2)
    ImageDraw.Draw(mask).polygon(spots, fill=255)
    cover = np.asarray(mask.reduce(_SUPERSAMPLE), np.float64) / 255
    owner[cover > 0.5] = number
    color = np.array(COLORS[item.color]) + rng.normal(0, 7, 3)
    return picture * (1 - cover[..., None]) + color * cover[..., None]
