"""The body wall: table, skin, fat, muscles and the cavity of chest and abdomen."""

from __future__ import annotations

from .grid import Shape
from .patient import Patient, canal_y, column, hoop, tube, turned
from .shapes import Common, Ellipsoid, Grown, Joined, Loft, Plane, Septa, Shared
from .tables import ARM_BONE, ARM_DOWN, ARM_RAISED, CAVITY, ERECTOR, HULL, SHOULDER_MUSCLES, SKIN


def draw_wall(p: Patient) -> None:
    """Table, skin, fat, muscles and the cavity of chest and abdomen."""
    grow = p.fatness
    skin: list[Shape] = [hoop(SKIN, grow, 2.35)]
    if p.rng.random() < 0.5:  # breasts
        size = p.rng.uniform(0.7, 1.1)
        for side in (-1, 1):
            at = p.near((side * 82, -148 * grow, 62), 4)
            skin.append(Ellipsoid(at, (52 * size, 40 * size, 50 * size)))
    skin += [Grown(limb, 9) for limb in limbs(p)]
    body = Shared(p.bumpy(Joined(tuple(skin), 24), 1.5, 160))
    hull = Shared(p.bumpy(hoop(HULL, 1.0, 2.5), 1.6, 120))
    back = column([(z, 0, canal_y(z) + 44, 30, 46) for z in range(-300, 240, 30)])
    cage = Common((hoop(CAVITY, 1.0, 2.3),), (back,), 16)
    cavity = Shared(p.bumpy(cage, 1.2, 150))
    p.shapes.update(body=body, hull=hull, cavity=cavity)
    if p.table:
        arc = column([(z, 0, 82 * grow - 640, 640, 640) for z in (-2000.0, 0.0, 2000.0)])
        top = Common((Grown(arc, 16), Plane((0, -20, 0), (0, -1, 0))), (arc,))
        p.paint(top, "table")
        p.paint(Grown(top, -2.5), "foam")
    p.paint(body, "skin")
    p.paint(Grown(body, -2.0), "fat", texture_hu=4, grain_mm=10)
    muscle = Common((hull, Grown(body, -6)), seam_mm=6)
    p.paint(muscle, "muscle", texture_hu=4, grain_mm=8)
    septa = Septa(p.waves(50, 130, 6), 0.7, 12)
    p.shapes["septa"] = septa
    p.paint(Common((Grown(muscle, -2), septa)), "fat")
    for side in (-1, 1):
        draw_back_muscles(p, side)
    for side, limb in zip((-1, 1), limbs(p), strict=True):
        p.paint(limb, "muscle", texture_hu=4)
        p.paint(Common((Grown(limb, -2), septa)), "fat")
        if p.arms:
            p.paint(tube([(side * x, y, z, r) for x, y, z, r in ARM_BONE]), "cortical")
    p.paint(Grown(cavity, 2), "muscle")
    p.paint(cavity, "visceral_fat", texture_hu=6, grain_mm=9)


def limbs(p: Patient) -> tuple[Loft, Loft]:
    """Return the muscles of the right and the left arm."""
    rows = ARM_DOWN if p.arms else ARM_RAISED
    right, left = (column([(z, s * x, y, a, b) for z, x, y, a, b in rows]) for s in (-1, 1))
    return right, left


def draw_back_muscles(p: Patient, side: int) -> None:
    """Erector spinae, pectorals, latissimus and shoulder muscles of one side."""
    rows = [(z, side * x, canal_y(z) + y, a, b) for z, x, y, a, b in ERECTOR]
    p.paint(column(rows, 2.3), "muscle", texture_hu=5)
    for (x, y, z), radii, turn in SHOULDER_MUSCLES:
        lump = Ellipsoid(p.near((side * x, y, z)), radii, turned(side * turn))
        inside = Common((lump, Grown(p.shapes["body"], -6)), seam_mm=5)
        p.paint(inside, "muscle", texture_hu=4)
        p.paint(Common((Grown(inside, -2), p.shapes["septa"])), "fat")
