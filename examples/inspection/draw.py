"""A made-up factory-inspection task: scenes drawn from a seed, and questions about them.

    python examples/inspection/draw.py [--out examples/inspection/data] [--seed 0]

writes five splits as JSON lines with one PNG a row. The same seed gives the same bytes, and a second call changes
nothing. Every scene holds six independent facts, one for each kind of question. Each kind has wordings that the model
family of this example was trained with ("known") and one that it never saw ("kept_out"): `train` and `calibration`
use them all, `dev`, `search` and `holdout` ask half of their questions in kept-out wording.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIZE = 64  # pixels, both sides, as saved
SCALE = 4  # drawn this much larger, then averaged down

LIGHTS = ("red", "amber", "green", "off")
COUNTS = ("none", "one", "two", "three", "four", "five")
GUARDS = ("open", "closed")
GAUGES = ("normal", "in the red zone")
ORIENTATIONS = ("up", "down", "left", "right")
BOLTS = tuple(
    (x, y) for y in (-13.5, 0.0, 13.5) for x in (-17.5, 0.0, 17.5) if (x, y) != (0, 0)
)  # from the plate's centre
PLACES = tuple(f"{row} {column}" for row in ("top", "bottom") for column in ("left", "right"))
DEFECTS = ("no defect", *(f"{flaw} near the {place}" for flaw in ("scratch", "dent") for place in PLACES))

Kind = Literal["light", "bolts", "guard", "gauge", "orientation", "defect"]
KINDS: tuple[Kind, ...] = ("light", "bolts", "guard", "gauge", "orientation", "defect")
ANSWERS: dict[Kind, tuple[str, ...]] = {
    "light": LIGHTS,
    "bolts": COUNTS,
    "guard": GUARDS,
    "gauge": GAUGES,
    "orientation": ORIENTATIONS,
    "defect": DEFECTS,
}
HINTS: dict[Kind, str] = {
    "light": "answer red , amber , green or off",
    "bolts": "answer none , one , two , three , four or five",
    "guard": "answer open or closed",
    "gauge": "answer normal or in the red zone",
    "orientation": "answer up , down , left or right",
    "defect": "answer no defect , or scratch or dent and its place",
}
KNOWN: dict[Kind, tuple[str, ...]] = {
    "light": (
        "what colour is the stack light ?",
        "which lamp of the stack light is lit ?",
        "what does the signal light show ?",
        "name the colour of the signal light .",
        "which colour does the lamp show ?",
    ),
    "bolts": (
        "how many bolts are missing ?",
        "count the missing bolts .",
        "how many bolts does the plate lack ?",
        "what is the number of missing bolts ?",
        "how many bolt holes are empty ?",
    ),
    "guard": (
        "is the guard open or closed ?",
        "what is the state of the guard ?",
        "in which position is the safety guard ?",
        "is the safety door open or closed ?",
        "say what position the safety door has .",
    ),
    "gauge": (
        "where is the gauge needle ?",
        "is the pressure normal or in the red zone ?",
        "what does the gauge read ?",
        "read the pressure gauge .",
        "in which zone is the needle ?",
    ),
    "orientation": (
        "which way does the arrow point ?",
        "which way is the part turned ?",
        "what is the orientation of the part ?",
        "in which direction does the part face ?",
        "name the orientation of the arrow .",
    ),
    "defect": (
        "is there a defect on the surface ?",
        "what defect does the surface have ?",
        "describe the surface of the plate .",
        "what is wrong with the surface ?",
        "which defect is on the plate and where ?",
    ),
}
KEPT_OUT: dict[Kind, str] = {
    "light": "what status is the beacon giving ?",
    "bolts": "tell me the fasteners still to be fitted .",
    "guard": "how is the protective fence now ?",
    "gauge": "can you check the dial ?",
    "orientation": "where is the piece heading ?",
    "defect": "report any flaw or blemish you see .",
}
INSTRUCTIONS = (
    "you are a factory inspector .",
    "look at the picture and answer in a few words .",
)

SPARE_WORDS = (
    *("zero", "six", "seven", "eight", "nine", "ten", "digit", "digits", "meter", "reading", "value", "figure"),
    *("unknown", "yes", "not", "sure", "cannot", "this", "that", "it", "image", "photo", "written", "display"),
    *("counter", "percent", "low", "high", "black", "white", "blue", "yellow", "small", "large", "good", "bad"),
)  # not of this task: for other tasks that the family is tuned on

Split = Literal["train", "calibration", "dev", "search", "holdout"]
ROWS: dict[Split, int] = {"train": 2000, "calibration": 128, "dev": 256, "search": 512, "holdout": 1024}
FAMILY_STREAM = 100  # the stream of scenes that the family is trained on; the splits use 0 to 4

Pixels: TypeAlias = npt.NDArray[np.uint8]
Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]
Mark: TypeAlias = tuple[str, float, float]  # what, x, y in final pixels
MARKS = ("bolt", "hole", *GAUGES, *ORIENTATIONS, *DEFECTS[1:])


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The facts of one picture; everything else about it is chance."""

    light: str
    missing: tuple[int, ...]  # places in BOLTS without a bolt
    guard: str
    gauge: str
    orientation: str
    defect: str

    def answer(self, kind: Kind) -> str:
        return COUNTS[len(self.missing)] if kind == "bolts" else str(getattr(self, kind))


def scene(rng: np.random.Generator) -> Scene:
    """Facts drawn independently; 30 % of the parts have no defect, all other answers are equally likely."""
    absent = rng.permutation(len(BOLTS))[: int(rng.integers(len(COUNTS)))]
    return Scene(
        light=_pick(rng, LIGHTS),
        missing=tuple(sorted(int(place) for place in absent)),
        guard=_pick(rng, GUARDS),
        gauge=_pick(rng, GAUGES),
        orientation=_pick(rng, ORIENTATIONS),
        defect=DEFECTS[0] if rng.random() < 0.3 else _pick(rng, DEFECTS[1:]),
    )


def draw(facts: Scene, rng: np.random.Generator) -> Pixels:
    """The scene as (64, 64, 3) 8-bit RGB, with jitter of place, colour and brightness, and noise."""
    return draw_marked(facts, rng)[0]


def draw_marked(facts: Scene, rng: np.random.Generator) -> tuple[Pixels, list[Mark]]:
    """The picture and where its bolts, empty holes and flaw are."""
    wall = int(rng.integers(120, 175))
    picture = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), (wall, wall, min(255, wall + 8)))
    pen = _Pen(ImageDraw.Draw(picture), rng.uniform(-2, 2), rng.uniform(-2, 2))
    floor = int(wall * rng.uniform(0.55, 0.75))
    pen.box((-4, rng.uniform(40, 50)), (68, 68), (floor, floor, floor))
    mirrored, swapped = rng.random(2) < 0.5
    lamp, near, far, middle = (SIZE - x if mirrored else x for x in (7.5, 27.0, 51.5, 38.5))
    _stack_light(pen.moved(rng, (lamp, 31.0), 1.0), facts.light)
    _guard(pen.moved(rng, (far if swapped else near, 11.5), 1.2), facts.guard)
    _gauge(pen.moved(rng, (near if swapped else far, 11.5), 1.2), facts.gauge, rng)
    _part(pen.moved(rng, (middle, 43.0), 2.5), facts, rng)
    pixels = np.asarray(picture.reduce(SCALE), dtype=np.float32)
    pixels = pixels * rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, size=3).astype(np.float32)
    pixels += rng.normal(0.0, rng.uniform(2.0, 7.0), size=pixels.shape).astype(np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), pen.marks


def family_facts(seed: int, index: int) -> tuple[Scene, np.random.Generator]:
    """Facts of scene `index` of the endless stream that the family is trained on, and the generator to draw it with."""
    rng = np.random.default_rng([seed, FAMILY_STREAM, index])
    return scene(rng), rng


def family_picture(seed: int, index: int) -> tuple[Pixels, list[Mark]]:
    """Scene `index` of the family's stream as a picture, and what lies where in it."""
    return draw_marked(*family_facts(seed, index))


def rows(split: Split, seed: int) -> Iterator[tuple[dict[str, str], Pixels]]:
    """The rows of a split with their pictures: kinds in turn, so that their numbers differ by one at most."""
    for index in range(ROWS[split]):
        rng = np.random.default_rng([seed, tuple(ROWS).index(split), index])
        facts = scene(rng)
        kind = KINDS[index % len(KINDS)]
        if split in ("train", "calibration"):
            chosen = int(rng.integers(len(KNOWN[kind]) + 1))
            new = chosen == len(KNOWN[kind])
        else:
            new = index // len(KINDS) % 2 == 1
            chosen = int(rng.integers(len(KNOWN[kind])))
        name = f"{index:05d}"
        row = {
            "id": f"{split}-{name}",
            "image": f"images/{split}/{name}.png",
            "question": KEPT_OUT[kind] if new else KNOWN[kind][chosen],
            "answer": facts.answer(kind),
            "kind": kind,
            "wording": "kept_out" if new else "known",
        }
        yield row, draw(facts, rng)


def words() -> list[str]:
    """Every word that questions, answers, hints and instructions use, sorted: the tokenizer's vocabulary."""
    texts = [*INSTRUCTIONS, *HINTS.values(), *KEPT_OUT.values(), "example : user assistant"]
    texts += [text for kind in KINDS for text in (*KNOWN[kind], *ANSWERS[kind])]
    return sorted({word for text in texts for word in text.split()})


def write(out: Path, seed: int) -> None:
    """Every split as `<split>.jsonl` and `images/<split>/*.png`."""
    for split in ROWS:
        (out / "images" / split).mkdir(parents=True, exist_ok=True)
        lines = []
        for row, pixels in rows(split, seed):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
            _write(out / row["image"], buffer.getvalue())
            lines.append(json.dumps(row) + "\n")
        _write(out / f"{split}.jsonl", "".join(lines).encode())


class _Pen:
    """Draws in final pixels (0 to 64, y down) on the larger canvas, shifted by (dx, dy)."""

    def __init__(self, canvas: ImageDraw.ImageDraw, dx: float, dy: float, turn: float = 0.0, size: float = 1.0) -> None:
        self._canvas, self._dx, self._dy, self._turn, self._size = canvas, dx, dy, turn, size
        self.marks: list[Mark] = []  # shared with the pens made from this one

    def moved(self, rng: np.random.Generator, centre: Point, reach: float) -> _Pen:
        """A pen whose origin lies around the centre, off by `reach` pixels at most in x and in y."""
        return self.at(centre[0] + rng.uniform(-reach, reach), centre[1] + rng.uniform(-reach, reach), 0.0, 1.0)

    def at(self, x: float, y: float, turn: float, size: float) -> _Pen:
        """A pen whose origin is (x, y), turned by `turn` radians; everything comes out `size` times as large."""
        pen = _Pen(self._canvas, self._dx + x, self._dy + y, turn, size)
        pen.marks = self.marks
        return pen

    def mark(self, what: str, point: Point) -> None:
        x, y = self._place(point)
        self.marks.append((what, x / SCALE, y / SCALE))

    def shape(self, points: list[Point], fill: Colour) -> None:
        self._canvas.polygon([self._place(point) for point in points], fill=fill)

    def box(self, low: Point, high: Point, fill: Colour) -> None:
        self.shape([low, (high[0], low[1]), high, (low[0], high[1])], fill)

    def line(self, start: Point, end: Point, width: float, fill: Colour) -> None:
        self._canvas.line([self._place(start), self._place(end)], fill=fill, width=round(width * self._size * SCALE))

    def dot(self, centre: Point, radius: float, fill: Colour) -> None:
        self._canvas.ellipse(self._around(centre, radius), fill=fill)

    def arc(self, centre: Point, radius: float, degrees: tuple[float, float], width: float, fill: Colour) -> None:
        self._canvas.arc(self._around(centre, radius), *degrees, fill=fill, width=round(width * self._size * SCALE))

    def _place(self, point: Point) -> Point:
        x, y = point[0] * self._size, point[1] * self._size
        c, s = math.cos(self._turn), math.sin(self._turn)
        return (x * c - y * s + self._dx) * SCALE, (x * s + y * c + self._dy) * SCALE

    def _around(self, centre: Point, radius: float) -> tuple[float, float, float, float]:
        x, y = self._place(centre)
        radius *= self._size * SCALE
        return x - radius, y - radius, x + radius, y + radius


def _stack_light(pen: _Pen, light: str) -> None:
    lamps: tuple[tuple[str, Colour, Colour], ...] = (
        ("red", (255, 40, 30), (80, 35, 35)),
        ("amber", (255, 190, 20), (85, 70, 35)),
        ("green", (40, 240, 70), (35, 75, 40)),
    )
    pen.box((-5, -29), (5, 29), (45, 45, 50))
    pen.box((-2, 2), (2, 31), (70, 70, 75))
    for place, (name, lit, dark) in enumerate(lamps):
        pen.box((-4, 10 * place - 28), (4, 10 * place - 19), lit if light == name else dark)


def _guard(pen: _Pen, guard: str) -> None:
    """A window with a yellow mesh: closed, it fills the frame; open, it is slid away to a narrow strip."""
    pen.box((-11, -9.5), (11, 9.5), (60, 60, 60))
    pen.box((-9.5, -8), (9.5, 8), (20, 20, 25))
    left = -9.5 if guard == "closed" else 5.0
    pen.box((left, -8), (9.5, 8), (215, 185, 40))
    x = left + 2.0
    while x < 9:
        pen.box((x, -8), (x + 1.0, 8), (60, 50, 20))
        x += 3.5


def _gauge(pen: _Pen, gauge: str, rng: np.random.Generator) -> None:
    """A dial, hung askew, whose red zone spans 300 to 400 degrees (0 = right, clockwise); the scale begins at 140."""
    centre, tilt = (0.0, 0.0), rng.uniform(-25, 25)
    pen.mark(gauge, centre)
    pen.dot(centre, 10.0, (40, 40, 45))
    pen.dot(centre, 9.0, (235, 235, 230))
    pen.arc(centre, 8.8, (300 + tilt, 400 + tilt), 2.6, (225, 30, 30))
    degrees = rng.uniform(305, 395) if gauge == "in the red zone" else rng.uniform(145, 294)
    angle = math.radians(degrees + tilt)
    tip = (centre[0] + 8.0 * math.cos(angle), centre[1] + 8.0 * math.sin(angle))
    pen.line(centre, tip, 1.8, (15, 15, 20))
    pen.dot(centre, 1.8, (15, 15, 20))


def _part(pen: _Pen, facts: Scene, rng: np.random.Generator) -> None:
    """A plate with bolts along its edges, an arrow in its middle and perhaps a flaw between the two."""
    size = rng.uniform(0.82, 0.97)
    plate = pen.at(0.0, 0.0, math.radians(rng.uniform(-8, 8)), size)
    grey = int(rng.integers(140, 176))
    plate.box((-22, -18), (22, 18), (grey - 55, grey - 50, grey - 45))
    plate.box((-21, -17), (21, 17), (grey, grey + 4, grey + 10))
    for place, spot in enumerate(BOLTS):
        plate.mark("hole" if place in facts.missing else "bolt", spot)
        if place in facts.missing:
            plate.dot(spot, 2.5, (40, 40, 45))
        else:
            plate.dot(spot, 2.5, (85, 90, 105))
            plate.dot(spot, 1.6, (150, 160, 185))
    turn = {"up": 0.0, "right": 90.0, "down": 180.0, "left": 270.0}[facts.orientation]
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    arrow = [(0, -6), (4.5, -0.5), (1.7, -0.5), (1.7, 6), (-1.7, 6), (-1.7, -0.5), (-4.5, -0.5)]
    plate.mark(facts.orientation, (0.0, 0.0))
    plate.shape([(x * c - y * s, x * s + y * c) for x, y in arrow], (40, 80, 110))
    if facts.defect != DEFECTS[0]:
        x = (-1 if "left" in facts.defect else 1) * rng.uniform(8.0, 12.5)
        y = (-1 if "top" in facts.defect else 1) * rng.uniform(5.0, 9.0)
        depth = rng.uniform(0.5, 1.0)  # how clearly it shows
        plate.mark(facts.defect, (x, y))
        if facts.defect.startswith("scratch"):
            tilt = math.radians(rng.uniform(20, 70)) * (1 if rng.random() < 0.5 else -1)
            dx, dy = 3.8 * math.cos(tilt), 3.8 * math.sin(tilt)
            plate.line((x - dx, y - dy), (x + dx, y + dy), 1.4, _grey(grey + 65 * depth))
        else:
            plate.dot((x, y), 2.8, _grey(grey - 60 * depth))
            plate.dot((x - 0.6, y - 0.6), 1.6, _grey(grey - 90 * depth))


def _grey(level: float) -> Colour:
    return (round(level), round(level), round(level))


def _pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def _write(path: Path, content: bytes) -> None:
    """Replaces the file in one step; leaves it alone where it already holds these bytes."""
    if path.exists() and path.read_bytes() == content:
        return
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw the inspection task.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.out, options.seed)
    print(f"{sum(ROWS.values())} rows in {options.out}")


if __name__ == "__main__":
    main()
