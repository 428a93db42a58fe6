"""Bones: spine with canal and cord, ribs, sternum, shoulder girdle, pelvis."""

from __future__ import annotations

import itertools

import numpy as np

from .grid import Shape
from .patient import Patient, canal_y, column, tube, turned
from .shapes import Common, Ellipsoid, Grown, Joined, Loft
from .tables import CANAL_MM, CAVITY, SPINE, VERTEBRAE


def bone(p: Patient, shape: Shape, shell_mm: float = 2.0) -> None:
    """Paint a bone: a cortical shell around spongy bone."""
    p.paint(shape, "cortical")
    p.paint(Grown(shape, -shell_mm), "spongy", texture_hu=35, grain_mm=5)


def draw_spine(p: Patient) -> None:
    """Vertebral bodies with discs, arches and processes, the canal and the cord."""
    rows = [(z, 0, y - CANAL_MM - d, w, d) for z, y, d, w in SPINE]
    bodies = column(rows, 2.4)
    p.paint(bodies, "cortical")
    p.paint(Grown(bodies, -2), "spongy", texture_hu=30, grain_mm=5)
    for low, high in itertools.pairwise(VERTEBRAE):
        gap = (low + high) / 2
        thick = 3.4 if gap < -70 else 1.7
        row = np.array([np.interp(gap, SPINE[:, 0], SPINE[:, c]) for c in range(4)])
        y, d, w = row[1] - CANAL_MM - row[2], row[2], row[3]
        for extra, tissue, grow in ((1.8, "cortical", 1.0), (0.0, "disc", 1.0)):
            half = thick + extra
            p.paint(
                column(
                    [
                        (gap - half, 0, y, w + grow, d + grow),
                        (gap + half, 0, y, w + grow, d + grow),
                    ],
                    2.4,
                ),
                tissue,
            )
    heights = range(-300, 300, 30)
    ring = column([(z, 0, canal_y(z), CANAL_MM + 4, CANAL_MM + 3) for z in heights])
    p.paint(ring, "muscle")
    for z in VERTEBRAE:
        draw_arch(p, z)
    draw_canal(p)


def draw_arch(p: Patient, z: float) -> None:
    """Pedicles and laminae around the canal, transverse and spinous processes of a vertebra."""
    y = canal_y(z)
    lumbar = z < -70
    tall = 9 if lumbar else 7
    ring = CANAL_MM + (6 if lumbar else 5)
    bone(
        p,
        column(
            [(z + 4 - tall, 0, y + 1, ring + 2, ring), (z + 4 + tall, 0, y + 1, ring + 2, ring)]
        ),
        1.8,
    )
    reach = 40 if lumbar else 30
    back = 2 if lumbar else 12
    for side in (-1, 1):
        ends = [
            (side * 12, y + 4, z + 3, 6),
            (side * 24, y + 4 + back / 2, z + 4, 5),
            (side * reach, y + back, z + 5, 3.5),
        ]
        bone(p, tube(ends, 3), 1.5)
    drop = -8 if lumbar else -22
    bone(
        p,
        tube([(0, y + 12, z, 4), (0, y + 24, z + drop / 2, 3.6), (0, y + 38, z + drop, 4)], 3, 1.8),
        1.4,
    )


def draw_canal(p: Patient) -> None:
    """Epidural fat, fluid and cord. The label is the dural sac, as CT shows it."""
    heights = np.linspace(-290, 290, 30)

    def sac(a: float, b: float) -> Loft:
        return column([(z, 0, canal_y(z), a, b) for z in heights])

    p.paint(sac(CANAL_MM + 1.5, CANAL_MM), "visceral_fat")
    p.paint(sac(CANAL_MM - 0.6, CANAL_MM - 1.6), "csf", "spinal_cord")
    cord = [(z, 0, canal_y(z), 6.0, 4.8) for z in heights if z > -90]
    p.paint(column(cord), "cord", "spinal_cord")


def rib_path(number: int, side: int, p: Patient) -> list[tuple[float, float, float, float]]:
    """Return (x, y, z, radius) along rib `number` (1 to 12) on the outside of the cavity."""
    start = VERTEBRAE[17 - number] + 8.0
    drop = np.interp(number, (1, 3, 6, 9, 11, 12), (24, 55, 82, 80, 55, 42)) + p.rng.uniform(-3, 3)
    end = np.interp(number, (1, 2, 7, 8, 10, 11, 12), (148, 150, 146, 135, 112, 84, 64))
    cage = np.array(CAVITY, dtype=np.float64)
    path = []
    for angle in np.radians(np.linspace(14, float(end), 15)):
        z = start - drop * np.sin(min(angle, 2.5) / 2.5 * np.pi / 2) ** 1.5
        a, front, back = (np.interp(z, cage[:, 0], cage[:, c]) for c in (1, 2, 3))
        out, middle, deep = a + 6, (front + back) / 2, (back - front) / 2 + 6
        x = out * np.sin(angle) ** 0.87
        y = middle + deep * np.sign(np.cos(angle)) * abs(np.cos(angle)) ** 0.87
        path.append((float(side * x), float(y), float(z), 4.0))
    return path


def draw_ribs(p: Patient) -> None:
    """Twelve pairs of ribs, costal cartilage, the sternum."""
    shaft = [Ellipsoid((0, -99, 152), (27, 7, 24), turned(-24, "x"))]
    shaft.append(Ellipsoid((0, -134, 92), (17, 7, 62), turned(-24, "x")))
    for side in (-1, 1):
        for number in range(1, 13):
            path = rib_path(number, side, p)
            if number <= 10:
                x, y, z, _ = path[-1]
                rise = 12 if number < 4 else 26 + 4 * (number - 4)
                front = min(z + rise, 150)
                end_y = float(np.interp(front, [r[0] for r in CAVITY], [r[2] for r in CAVITY])) - 6
                end_x = side * (16 if number < 8 else 16 + 16 * (number - 7))
                mid = (0.45 * x + 0.55 * end_x, min(y, end_y) - 1, z + 0.2 * rise, 5.0)
                gristle = [(x, y, z, 5.0), mid, (end_x, end_y, front, 5.0)]
                p.paint(tube(gristle, 4, 1.2), "cartilage", None)
            ribs = tube(path, 2, 1.6)
            p.paint(ribs, "cortical", None)
            p.paint(Grown(ribs, -1.5), "spongy", None)
    for part in shaft:
        bone(p, part, 1.6)


def draw_girdles(p: Patient) -> None:
    """Clavicles, shoulder blades, humeral heads; iliac wings."""
    for side in (-1, 1):
        path = [(22, -100, 168, 9), (60, -98, 180, 6), (105, -78, 192, 6), (150, -48, 198, 7)]
        bone(p, tube([(side * x, y, z, r) for x, y, z, r in path]), 1.8)
        blade = Ellipsoid((side * 112, 26, 132), (50, 4.5, 72), turned(side * -36))
        bone(p, Common((blade,)), 1.6)
        crest = [(side * 80, 40, 158, 5), (side * 125, 20, 175, 6), (side * 158, -22, 196, 8)]
        bone(p, tube(crest), 1.8)
        head = Ellipsoid((side * 158, -28, 182), (23, 23, 24))
        shaft = tube([(side * 160, -28, 178, 14), (side * 172, -40, 300, 11)])
        bone(p, head if p.arms else Joined((head, shaft), 6), 2.5)
        wing = Ellipsoid((side * 86, -12, -266), (72, 6.5, 72), turned(side * -42))
        bone(p, wing, 2.2)


def draw_bones(p: Patient) -> None:
    """Paint every bone, the spine last."""
    draw_ribs(p)
    draw_girdles(p)
    draw_spine(p)
