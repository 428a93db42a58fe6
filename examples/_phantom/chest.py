"""The chest: lungs, heart, airways, great vessels, esophagus."""

from __future__ import annotations

from .grid import Shape, Vector
from .patient import Patient, canal_y, column, spine_front, tree, tube, turned
from .shapes import Above, Common, Ellipsoid, Grown, Joined, Plane, Shared
from .tables import (
    AORTA,
    AORTIC_BRANCHES,
    CAVA_INFERIOR,
    CAVA_SUPERIOR,
    CORONARY_GROOVE,
    MEDIASTINUM,
    PULMONARY_LEFT,
    PULMONARY_RIGHT,
    PULMONARY_TRUNK,
    SEPTAL_GROOVE,
)


def draw_lungs(p: Patient) -> None:
    """The diaphragm's domes, and what the chest wall, they and the mediastinum leave to lungs."""
    cavity = p.shapes["cavity"]
    low = float(p.rng.uniform(-16, -6))
    domes = Joined(
        (
            Ellipsoid(p.near((-67, -58, -104), 2), (67, 97, 103)),
            Ellipsoid(p.near((68, -58, -112), 2), (66, 96, 112 + low)),
            Ellipsoid((8, -92, -118), (92, 70, 102)),
            Ellipsoid((0, -24, -120), (46, 62, 84)),
            Plane((0, 0, -92), (0, 0, 1)),
        ),
        14,
    )
    dome = Shared(p.bumpy(domes, 1.5, 110))
    spine = column(
        [
            (
                z,
                0,
                (canal_y(z) + spine_front(z)) / 2 + 8,
                24,
                (canal_y(z) - spine_front(z)) / 2 + 12,
            )
            for z in (-110, -50, 0, 50, 100, 150, 200)
        ],
        2.5,
    )
    middle = column(MEDIASTINUM, 2.2)
    mediastinum = p.bumpy(Joined((spine, middle), 10), 1.5, 60)
    heart = p.shapes["heart"]
    lungs = Shared(
        Common((Grown(cavity, -2.5),), (Grown(dome, 2), mediastinum, Grown(heart, 3)), 4)
    )
    p.shapes.update(dome=dome, lungs=lungs)
    p.paint(Common((dome, cavity)), "muscle")
    inside = Shared(Common((Grown(dome, -2.5), Grown(cavity, -0.5)), seam_mm=4))
    p.shapes["abdomen"] = inside
    p.paint(inside, "visceral_fat", texture_hu=7, grain_mm=7)
    for key, side in (("lung_left", 1), ("lung_right", -1)):
        half = Common((lungs, Plane((side * -0.8 + 2, 0, 0), (-side, 0, 0))))
        p.paint(half, "lung", key, texture_hu=22, grain_mm=5)


def shape_heart(p: Patient) -> None:
    """The heart's outline and chambers (drawn after the lungs, which make room for it)."""
    shift = p.near((3, 0, -7), 3)
    size = float(p.rng.uniform(1.0, 1.1))

    def part(center: Vector, radii: Vector, turn: float = 0, about: str = "z") -> Ellipsoid:
        x, y, z = (c + s for c, s in zip(center, shift, strict=True))
        a, b, c = (r * size for r in radii)
        return Ellipsoid((x, y, z), (a, b, c), turned(turn, about))

    left = part((40, -92, 19), (52, 34, 36), -38)
    chambers = {
        "lv": part((39, -91, 20), (40, 21, 24), -38),
        "rv": part((10, -118, 20), (40, 17, 28), -8),
        "ra": part((-19, -92, 36), (19, 25, 32), 20),
        "la": part((8, -70, 56), (31, 17, 21)),
        "rvot": part((16, -110, 60), (16, 15, 24)),
    }
    outer: list[Shape] = [left, *(Grown(c, 3.5) for n, c in chambers.items() if n != "lv")]
    p.shapes.update(chambers)
    p.shapes["heart"] = Shared(p.bumpy(Joined(tuple(outer), 16), 1.2, 60))


def draw_lung_vessels(p: Patient) -> None:
    """Arteries and veins in the lungs; they stay part of the lung, as in most labels."""
    lungs = p.shapes["lungs"]
    for side in (-1, 1):
        hilum = (side * 38, -62.0, 84.0 if side > 0 else 78.0)
        for heading in (
            (0.6, -0.2, 0.9),
            (0.5, -0.8, 0.35),
            (0.9, 0.15, 0.1),
            (0.5, 0.75, -0.3),
            (0.7, 0.3, -0.9),
            (0.55, -0.5, -0.75),
        ):
            way = (side * heading[0], heading[1], heading[2])
            vessels = tree(p, p.near(hilum, 6), way, 4.2, 27, 5)
            p.paint(Common((vessels, Grown(lungs, 3))), "venous_blood", None)


def draw_airways(p: Patient) -> None:
    """Trachea and main bronchi with their walls; the label ends a little below the carina."""
    carina = float(p.rng.uniform(90, 98))
    top = [(0, spine_front(z) - 22, z, 9.2) for z in (290, 250, 215, 185)]
    rows = [*top, (2, spine_front(150) - 20, 150, 9), (1, spine_front(120) - 19, 120, 9)]
    fork = (0, spine_front(carina) - 18, carina)
    wind = tube([*rows, (*fork, 9.0)])
    right = tube(
        [(*fork, 8), (-18, fork[1] + 2, carina - 15, 7.2), (-38, fork[1] + 6, carina - 27, 6)]
    )
    left = tube(
        [(*fork, 7.5), (20, fork[1] + 3, carina - 17, 6.4), (44, fork[1] + 9, carina - 27, 5.6)]
    )
    p.shapes["trachea"] = wind
    pipes = Joined((wind, right, left), 3)
    p.paint(Grown(pipes, 1.6), "soft")
    for side, way in (
        (-1, (-0.7, 0.1, 0.7)),
        (-1, (-0.6, 0.1, -0.9)),
        (1, (0.6, 0, 0.5)),
        (1, (0.6, 0.2, -0.9)),
    ):
        start = (side * 38.0, fork[1] + 7, carina - 27)
        twigs = tree(p, start, way, 4.0, 22, 2)
        p.paint(Grown(twigs, 1.2), "soft", None)
        p.paint(twigs, "airway", None)
    p.paint(pipes, "airway")
    short = Common((Grown(pipes, 0.4), Joined((Plane((0, 0, carina - 14), (0, 0, -1)),))))
    p.paint(short, "airway", "trachea")


def draw_heart(p: Patient) -> None:
    """Pericardial fat, muscle and blood of the heart."""
    above = Grown(p.shapes["dome"], 2)
    heart = Common((p.shapes["heart"],), (above,), 5)
    p.paint(Common((Grown(p.shapes["heart"], 3.5),), (above,), 4), "visceral_fat")
    p.paint(heart, "myocardium", "heart", texture_hu=4)
    grooves = Above(p.waves(40, 80, 6), 1.35, 10)
    p.paint(Common((heart, grooves), (Grown(p.shapes["heart"], -7),)), "visceral_fat", None)
    groove = Joined((tube(CORONARY_GROOVE, 4), tube(SEPTAL_GROOVE, 4)))
    p.paint(Common((heart, groove)), "visceral_fat", None)
    for name in ("lv", "rv", "ra", "la", "rvot"):
        p.paint(Common((p.shapes[name], Grown(heart, -2.5)), seam_mm=4), "blood", None, 5, 12)


def draw_chest_veins(p: Patient) -> None:
    """Pulmonary trunk and arteries, pulmonary veins, caval and brachiocephalic veins."""
    for path in (PULMONARY_TRUNK, PULMONARY_LEFT, PULMONARY_RIGHT):
        p.paint(tube([(*p.near(q[:3], 1), q[3]) for q in path]), "blood")
    for side in (-1, 1):
        for z in (50, 68):
            vein = [
                (side * 26, -66, 58, 7),
                (side * 44, -64, z, 6.5),
                (side * 58, -66, 2 * z - 60, 5),
            ]
            p.paint(tube(vein), "blood")
    p.paint(tube(CAVA_SUPERIOR), "venous_blood")
    p.paint(
        tube([(52, -84, 188, 6), (20, -100, 158, 6.5), (-14, -98, 146, 7), (-29, -88, 134, 8)]),
        "venous_blood",
    )
    p.paint(tube([(-25, -86, 30, 11), (-24, -70, 8, 11.5), (-24, -60, -12, 12)]), "venous_blood")
    p.paint(tube([(-8, spine_front(z) - 2, z, 3.2) for z in (-40, 0, 50, 85)]), "venous_blood")


def draw_aorta(p: Patient) -> None:
    """Aorta from its root to the bifurcation; arch branches and iliac arteries without a label."""
    wide = float(p.rng.uniform(0.92, 1.1))
    tilt = p.near((0, 0, 0), 2.5)
    trunk = tube([(x + tilt[0], y + tilt[1], z, r * wide) for x, y, z, r in AORTA], 6)
    for branch in AORTIC_BRANCHES:
        p.paint(tube(branch), "aortic_blood")
    p.paint(tube(CAVA_INFERIOR), "venous_blood")
    for side in (-1, 1):
        iliac = [
            (-19, -62, -168, 8),
            (side * 20 - 10, -54, -195, 7),
            (side * 44, -44, -235, 6.5),
            (side * 50, -50, -290, 6.5),
        ]
        p.paint(tube(iliac), "venous_blood")
        p.paint(
            tube([(side * 12, spine_front(-90) + 2, -92, 3.5), (side * 38, -30, -98, 4)]),
            "venous_blood",
        )
    p.paint(Grown(trunk, 0.8), "soft", "aorta")
    p.paint(trunk, "aortic_blood", "aorta", 4, 12)


def draw_esophagus(p: Patient) -> None:
    """Esophagus from the neck to the stomach, with air in some places."""
    heights = (290, 250, 215, 180, 150, 120, 95)
    rows: list[tuple[float, ...]] = [
        (z, 4 if z > 120 else 5, spine_front(z) - 7.5, 8, 5.8) for z in heights
    ]
    rows += [(65, 7, -42, 8.5, 5.5), (35, 7, -49, 9, 6), (10, 10, -60, 9, 7)]
    rows += [(-8, 16, -66, 9, 7), (-24, 26, -66, 9, 8), (-36, 36, -62, 9, 9)]
    gullet = column(sorted(rows))
    p.paint(Grown(gullet, 1.5), "visceral_fat")
    p.paint(gullet, "gut_wall", "esophagus", 5)
    gas = Above(p.waves(40, 90, 4), 1.1, 6)
    p.paint(Common((Grown(gullet, -3.6), gas)), "gas", None)


def draw_neck(p: Patient) -> None:
    """Thyroid and small veins beside the trachea."""
    for side in (-1, 1):
        lobe = Ellipsoid(p.near((side * 18, spine_front(205) - 20, 205), 2), (9, 11, 22))
        p.paint(lobe, "thyroid")
        p.paint(tube([(side * 34, -76, 180, 6), (side * 36, -80, 290, 6)]), "venous_blood")
