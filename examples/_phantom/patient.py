"""One patient drawn from a seed: random choices, shared shapes, and layers to paint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .grid import Array, Shape, Vector
from .shapes import Bumpy, Loft, Tubes, Waves
from .tables import CANAL_MM, LABELS, SPINE, TISSUES


class Layer(NamedTuple):
    """One shape to paint: its HU, its label (None keeps what is there) and a texture's SD."""

    shape: Shape
    hu: float
    label: int | None = 0
    texture_hu: float = 0.0
    grain: Waves | None = None


def spline(points: Sequence[Sequence[float]] | Array, steps: int = 6) -> Array:
    """Return a smooth curve through rows of `points` (Catmull-Rom, `steps` a span)."""
    p = np.asarray(points, dtype=np.float64)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (p[n : len(p) - 3 + n, None, :] for n in range(4))
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    return np.vstack([curve.reshape(-1, p.shape[1]), p[-2]]).astype(np.float32)


def tube(points: Sequence[Sequence[float]], steps: int = 5, tall: float = 1.0) -> Tubes:
    """Return a swept tube through rows of (x, y, z, radius)."""
    curve = spline(points, steps)
    return Tubes(
        np.stack([curve[:-1, :3], curve[1:, :3]], axis=1),
        np.maximum(np.stack([curve[:-1, 3], curve[1:, 3]], axis=1), 0.3),
        tall,
    )


def column(rows: Sequence[Sequence[float]] | Array, power: float = 2.0) -> Loft:
    """Return a loft through rows of (z, x, y, half x, half y)."""
    return Loft(spline(rows, 6), power)


def hoop(rows: Sequence[Sequence[float]], grow: float, power: float) -> Loft:
    """Return a centred loft from rows of (z, half width, front, back)."""
    table = [(z, 0.0, (f + b) / 2, a * grow, (b - f) / 2 * grow) for z, a, f, b in rows]
    return column(table, power)


def turned(degrees: float, about: str = "z") -> tuple[Vector, Vector, Vector]:
    """Return three unit axes, turned about one of them."""
    c, s = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))
    if about == "z":
        return ((c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0))
    if about == "x":
        return ((1.0, 0.0, 0.0), (0.0, c, s), (0.0, -s, c))
    return ((c, 0.0, s), (0.0, 1.0, 0.0), (-s, 0.0, c))


def canal_y(z: float) -> float:
    """Return y of the spinal canal's centre at height z."""
    return float(np.interp(z, SPINE[:, 0], SPINE[:, 1]))


def spine_front(z: float) -> float:
    """Return y of the front of the vertebral bodies at height z."""
    return canal_y(z) - CANAL_MM - 2 * float(np.interp(z, SPINE[:, 0], SPINE[:, 2]))


@dataclass(slots=True, eq=False)
class Patient:
    """One patient: the random choices of a seed, the shapes that organs share, the layers."""

    seed: int
    contrast: bool
    arms: bool
    table: bool
    rng: np.random.Generator = field(init=False)
    layers: list[Layer] = field(default_factory=list)
    fatness: float = field(init=False)
    hu: dict[str, float] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Draw what the whole body shares."""
        self.rng = np.random.default_rng([self.seed, 2602])
        # Drawn for every tissue, whatever is asked for: options do not change the anatomy.
        for tissue, means in TISSUES.items():
            gain, offset = self.rng.normal(1, 0.02), self.rng.normal(0, 1.5)
            self.hu[tissue] = float(means[int(self.contrast)] * gain + offset)
        self.fatness = float(self.rng.uniform(0.97, 1.09))

    def near(self, point: Sequence[float], mm: float = 3.0) -> Vector:
        """Return a point moved by up to `mm` along each axis."""
        x, y, z = (float(p + self.rng.uniform(-mm, mm)) for p in point)
        return (x, y, z)

    def sized(self, radii: Sequence[float], share: float = 0.06) -> Vector:
        """Return radii changed by up to `share`, together and each."""
        both = self.rng.uniform(1 - share, 1 + share)
        a, b, c = (float(r * both * self.rng.uniform(1 - share / 2, 1 + share / 2)) for r in radii)
        return (a, b, c)

    def waves(self, shortest_mm: float, longest_mm: float, count: int = 5) -> Waves:
        """Return a random field with wavelengths in the given range."""
        length = self.rng.uniform(shortest_mm, longest_mm, count)
        way = self.rng.normal(size=(count, 3))
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        return Waves(2 * np.pi / length[:, None] * way, self.rng.uniform(0, 2 * np.pi, count))

    def bumpy(self, shape: Shape, mm: float = 1.5, longest_mm: float = 70) -> Shape:
        """Return a shape with a wandering surface."""
        return Bumpy(shape, self.waves(longest_mm * 0.45, longest_mm, 4), mm)

    def paint(
        self,
        shape: Shape,
        tissue: str,
        label: str | int | None = 0,
        texture_hu: float = 0.0,
        grain_mm: float = 8.0,
    ) -> None:
        """Add a layer; `label` is an organ's key, 0 to clear labels or None to keep them."""
        value = LABELS[label] if isinstance(label, str) else label
        grain = self.waves(grain_mm, grain_mm * 3, 5) if texture_hu else None
        self.layers.append(Layer(shape, self.hu[tissue], value, texture_hu, grain))


def unit(v: Sequence[float] | npt.NDArray[np.floating]) -> Vector:
    """Return a vector of length 1."""
    x, y, z = np.asarray(v, dtype=np.float64) / np.linalg.norm(v)
    return (float(x), float(y), float(z))


def tree(
    p: Patient, root: Vector, heading: Vector, radius: float, length: float, depth: int
) -> Tubes:
    """Return a random branching tree: each branch parts in two or three thinner, shorter ones."""
    ends: list[tuple[Vector, Vector]] = []
    radii: list[tuple[float, float]] = []

    def grow(start: Array, way: Array, r: float, size: float, left: int) -> None:
        stop = start + way * size * p.rng.uniform(0.8, 1.2)
        ends.append((tuple(start), tuple(stop)))
        radii.append((r, r * 0.8))
        if left == 0:
            return
        for _ in range(3 if left > 2 else 2):
            turn = way + 0.62 * p.rng.normal(size=3)
            grow(stop, turn / np.linalg.norm(turn), r * 0.7, size * 0.82, left - 1)

    way = np.asarray(heading, dtype=np.float64)
    grow(np.asarray(root, dtype=np.float64), way / np.linalg.norm(way), radius, length, depth)
    return Tubes(np.array(ends, np.float32), np.array(radii, np.float32))
