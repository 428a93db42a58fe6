"""The abdomen: liver, spleen, kidneys, gut, pancreas, psoas."""

from __future__ import annotations

import numpy as np

from .grid import Vector
from .patient import Patient, column, tree, tube, turned, unit
from .shapes import Above, Common, Ellipsoid, Grown, Plane, Shared
from .tables import COLON, DUODENUM, PANCREAS, PSOAS, QUADRATUS, STOMACH


def draw_liver(p: Patient) -> None:
    """A wedge under the right dome that thins out to the left, with its vessels and gallbladder."""
    tip = float(p.rng.uniform(-8, 10))
    wedge = Common(
        (
            Grown(p.shapes["abdomen"], 1.5),
            Plane((-40, -70, -103 + tip), (0.46, 0.12, -0.88)),
            Plane((-18, -42, -50), (0.66, 0.74, -0.1)),
            Plane((62 + tip, -110, -40), (0.9, 0.1, -0.35)),
            Plane((0, 0, -162 + tip), (0, 0, -1)),
        ),
        (
            column([(z, 0, -20, 32, 36) for z in (-200.0, 20.0)]),
            Ellipsoid((-66, -10, -118), (33, 33, 58)),
        ),
        16,
    )
    liver = p.bumpy(wedge, 1.8, 90)
    p.shapes["liver"] = liver
    p.paint(liver, "liver", "liver", texture_hu=4, grain_mm=5)
    inner = Grown(liver, -5)
    porta: Vector = (-30, -74, -74)
    for way in ((-0.9, 0.3, 0.1), (-0.8, -0.4, 0.3), (-0.7, 0.2, -0.6), (0.3, -0.8, 0.5)):
        p.paint(Common((tree(p, porta, way, 5.2, 32, 4), inner)), "portal_blood", None)
    for way in ((-1.0, 0.1, -0.3), (-0.6, -0.8, -0.4), (0.2, -0.9, -0.3)):
        p.paint(Common((tree(p, (-26, -60, -12), way, 5, 36, 3), inner)), "portal_blood", None)
    bile = Ellipsoid(p.near((-58, -106, -100)), p.sized((15, 22, 25)), turned(-25, "x"))
    p.paint(Grown(bile, 1.5), "soft", None)
    p.paint(bile, "bile", "gallbladder")
    p.paint(
        tube([(porta[0], porta[1], porta[2], 6.5), (-14, -76, -84, 7), (0, -78, -94, 6.5)]),
        "portal_blood",
    )


def draw_spleen(p: Patient) -> None:
    """A crescent between the left flank, the dome and the stomach."""
    outer = Ellipsoid(p.near((92, -12, -48)), p.sized((52, 62, 54)), turned(16))
    hollow = Ellipsoid(p.near((44, -54, -70)), (37, 47, 50), turned(16))
    spleen = p.bumpy(Common((Grown(p.shapes["abdomen"], 1), outer), (hollow,), 10), 1.2, 50)
    p.paint(Grown(spleen, 1.2), "visceral_fat")
    p.paint(spleen, "spleen", "spleen", texture_hu=3, grain_mm=7)


def draw_kidneys(p: Patient) -> None:
    """Beans beside the psoas in their own fat, with cortex, medulla, sinus and pelvis."""
    for side, key, at in (
        (1, "kidney_left", (66, -12, -104)),
        (-1, "kidney_right", (-66, -12, -118)),
    ):
        x, y, z = p.near(at, 4)
        a, b, c = p.sized((27, 25, 55), 0.08)
        lean = np.radians(side * 14)
        long: Vector = (float(np.sin(lean)), -0.2, -float(np.cos(lean)))
        long = unit(long)
        wide = unit(np.cross(long, (0.35 * side, 1.0, 0.0)))
        deep = unit(np.cross(wide, long))
        axes = (wide, deep, long)
        body = Ellipsoid((x, y, z), (a, b, c), axes)
        hilum = Ellipsoid((x - side * 25, y - 9, z), (15, 11, 17))
        bean = p.bumpy(Common((body,), (hilum,), 8), 0.8, 40)
        p.paint(Grown(bean, 2.5), "visceral_fat")
        p.paint(bean, "kidney", key)
        pyramids = Above(p.waves(13, 18, 6), 0.35, 5)
        core = Grown(bean, -6)
        if p.contrast:
            p.paint(Common((core, pyramids)), "spleen", None)
        sinus = Ellipsoid((x - side * 11, y - 5, z), (10, 7, 24), axes)
        p.paint(sinus, "visceral_fat")
        p.paint(
            tube(
                [
                    (x - side * 8, y - 4, z + 14, 3),
                    (x - side * 14, y - 6, z - 4, 5),
                    (x - side * 26, y - 10, z - 22, 3.5),
                    (side * 36, -34, -200, 2.2),
                ]
            ),
            "urine",
        )


def draw_stomach(p: Patient) -> None:
    """A sac under the left dome, thick-walled, with fluid below and gas in front."""
    fill = float(p.rng.uniform(0.8, 1.12))
    sac = tube([(*p.near(q[:3], 3), q[3] * fill) for q in STOMACH], 4)
    free = Common((p.bumpy(sac, 1.5, 60), p.shapes["abdomen"]), (), 6)
    p.paint(Grown(free, 1.5), "visceral_fat")
    p.paint(free, "gut_wall", "stomach")
    lumen = Shared(Grown(free, -4))
    p.paint(lumen, "fluid", None, 12, 6)
    level = float(p.rng.uniform(-122, -104))
    p.paint(Common((lumen, Plane((0, level, 0), (0, 1, 0)))), "gas", None)


def draw_pancreas(p: Patient) -> None:
    """Head in the duodenum's loop, tail at the spleen; the splenic vein behind."""
    gland = p.bumpy(tube([(*p.near(q[:3], 2), q[3]) for q in PANCREAS], 4), 1.5, 18)
    p.paint(Grown(tube(DUODENUM), 1), "gut_wall")
    p.paint(Grown(tube(DUODENUM), -2.5), "fluid", texture_hu=15)
    p.paint(gland, "pancreas", "pancreas", texture_hu=8, grain_mm=5)
    p.paint(
        tube([(0, -80, -94, 5), (22, -80, -86, 4.5), (50, -60, -76, 4), (78, -36, -64, 4)]),
        "portal_blood",
    )
    p.paint(tube([(0, -80, -94, 5.5), (0, -84, -130, 5), (4, -86, -170, 4)]), "portal_blood")
    for side in (-1, 1):
        gland_axes = turned(side * 40)
        p.paint(Ellipsoid((side * 34 - 4, -36, -62), (3.5, 13, 12), gland_axes), "soft")


def draw_psoas(p: Patient) -> None:
    """Psoas, quadratus lumborum, crura of the diaphragm."""
    for side in (-1, 1):
        rows = [(z, side * x, y, a, b) for z, x, y, a, b in PSOAS]
        p.paint(column(rows), "muscle", texture_hu=4)
        flat = [(z, side * x, y, a, b) for z, x, y, a, b in QUADRATUS]
        p.paint(column(flat), "muscle", texture_hu=4)
        p.paint(
            tube([(side * 9, -52, -28, 5), (side * 13, -48, -60, 5), (side * 12, -44, -110, 3)]),
            "muscle",
        )


def draw_colon(p: Patient) -> None:
    """Ascending, transverse and descending colon: wall, stool with bubbles, gas in front."""
    gut = p.bumpy(tube([(*p.near(q[:3], 4), q[3]) for q in COLON], 4), 2.5, 26)
    free = Common((gut, p.shapes["abdomen"]), (), 5)
    p.paint(free, "gut_wall")
    lumen = Shared(Grown(free, -2.5))
    p.paint(lumen, "stool", None, 25, 5)
    bubbles = Above(p.waves(9, 22, 8), 0.7, 4)
    p.paint(Common((lumen, bubbles)), "gas", None)
    p.paint(Common((lumen, Plane((0, -112, 0), (0, 1, 0)))), "gas", None)


def draw_small_bowel(p: Patient) -> None:
    """Wandering loops below the stomach with fluid and a little gas, and mesenteric vessels."""
    room = Common((p.shapes["abdomen"],))
    for n in range(12):
        at = np.array([p.rng.uniform(-60, 90), p.rng.uniform(-105, -65), -140 - 13 * n])
        path = []
        for _ in range(14):
            at = at + p.rng.normal(size=3) * (26, 15, 13)
            at = np.clip(at, (-76, -114, -290), (92, -56, -132))
            path.append((float(at[0]), float(at[1]), float(at[2]), float(p.rng.uniform(9, 14.5))))
        loop = Common((p.bumpy(tube(path, 4), 1.0, 20), room), (), 4)
        p.paint(Grown(loop, 1.5), "visceral_fat")
        p.paint(loop, "gut_wall", texture_hu=6)
        p.paint(Grown(loop, -3), "fluid", texture_hu=14, grain_mm=6)
        p.paint(Common((Grown(loop, -3), Above(p.waves(30, 60, 5), 1.2, 6))), "gas")
    for _ in range(3):
        p.paint(tree(p, p.near((6, -84, -130), 6), (0.2, -0.2, -1), 3.2, 26, 3), "venous_blood")
