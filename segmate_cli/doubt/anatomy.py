"""What is known of adults: where organs lie along the body, how large and how dense they are.

Numbers are from publications, named beside them; limits that ask for a review are wider than what
is normal, since patients are not.
"""

from __future__ import annotations

from dataclasses import dataclass

ICRP = "reference adults of ICRP Publication 110 (2009); both persons' label maps, measured"
KIM = "Kim et al., Radiology 2021: 95 % of 2989 healthy liver donors"
GERAGHTY = "Geraghty et al., Abdominal Imaging 2004: means of women and men, 149 adults"
CHENG = (
    "Cheng et al., Int J COPD 2019: 4468 +- 2 SD of 1271 ml for both lungs, 564 adults; shared "
    "46.4 to 53.6 between left and right (Yamada et al. 2020)"
)
BREATNACH = "Breatnach et al., AJR 1984: upper normal diameters 27 x 25 mm, over 150 mm"


@dataclass(frozen=True, slots=True)
class Span:
    """Where an organ lies along the body.

    Attributes:
        low_mm: Its lower end over the top of the liver, in a reference adult.
        high_mm: Its upper end.
        needed_mm: How much of it must be in view for its absence to be odd.
    """

    low_mm: float
    high_mm: float
    needed_mm: float


@dataclass(frozen=True, slots=True)
class VolumeRange:
    """Usual volumes of a whole organ.

    Attributes:
        low_ml: Lower end of the published range; None where none is known.
        high_ml: Upper end.
        source: Who says so.
    """

    low_ml: float | None
    high_ml: float
    source: str


# Means of the two reference adults of ICRP 110; the aorta's from the fourth lumbar vertebra on.
SPANS = {
    "lung_left": Span(-52, 165, 140),
    "lung_right": Span(-48, 163, 140),
    "trachea": Span(103, 206, 80),
    "esophagus": Span(-37, 223, 100),
    "spinal_cord": Span(-136, 288, 60),
    "heart": Span(-21, 103, 100),
    "aorta": Span(-180, 140, 60),
    "liver": Span(-150, 0, 110),
    "kidney_left": Span(-175, -74, 90),
    "kidney_right": Span(-175, -90, 80),
    "spleen": Span(-97, -18, 75),
}

# Over the top of the liver: base of the skull (the cord's upper end), collar bones, lower end of
# the lungs, iliac crests.
REGIONS = {
    "head": (288.0, 500.0),
    "neck": (200.0, 288.0),
    "chest": (-30.0, 200.0),
    "abdomen": (-220.0, 0.0),
    "pelvis": (-420.0, -220.0),
}

VOLUMES = {
    "lung_left": VolumeRange(890, 3250, CHENG),
    "lung_right": VolumeRange(1030, 3760, CHENG),
    "trachea": VolumeRange(None, 80, BREATNACH),
    "heart": VolumeRange(587, 795, ICRP),
    "liver": VolumeRange(824.5, 1700, KIM),
    "kidney_left": VolumeRange(156.5, 193.1, GERAGHTY),
    "kidney_right": VolumeRange(156.5, 193.1, GERAGHTY),
    "spleen": VolumeRange(81.1, 322, KIM),
}
