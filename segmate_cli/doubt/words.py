"""What is said of an organ and of a scan: the values that reports, sidecars and tables carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

StatusKind = Literal[
    "complete", "truncated", "absent", "not_found", "implausible", "low_confidence"
]
STATUS_KINDS: tuple[str, ...] = get_args(StatusKind)
Severity = Literal["review", "note"]
FACES = ("superior", "inferior", "left", "right", "anterior", "posterior")
CIRCLE = "circle"


@dataclass(frozen=True, slots=True)
class OrganStatus:
    """How far an organ's numbers can be believed.

    Attributes:
        kind: ``complete``; ``truncated``, cut by the edge of what was scanned; ``absent``, not in
            view, as far as the organs that are tell; ``not_found``, in view or nobody can tell,
            but without a voxel; ``implausible``, a rule that a site wants reviewed is broken;
            ``low_confidence``, the network was unsure where it ends.
        faces: Where the mask meets the edge: of FACES, and ``circle`` for the reconstruction's.
        edge_share: Part of the mask's surface that lies on the edge, 0 to 1; None without a mask.
        is_lower_bound: Whether the volume is at least what was measured, since the organ goes on
            beyond the edge. An implausible organ may be one as well.
        reasons: Why it is not complete, one phrase each.
    """

    kind: StatusKind
    faces: tuple[str, ...] = ()
    edge_share: float | None = None
    is_lower_bound: bool = False
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Certainty:
    """What the network itself tells of an organ's volume.

    Attributes:
        confidence: Dice that it expects of its mask, by its own probabilities, 0 to 1.
        volume_pv_ml: Volume with voxels at the organ's ends counted in part.
        interval_ml: Lower and upper end between which the volume lies, by variants of the input.
        agreement: Least Dice between the mask and those of the variants.
    """

    confidence: float | None = None
    volume_pv_ml: float | None = None
    interval_ml: tuple[float, float] | None = None
    agreement: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """For tables and JSON."""
        low, high = self.interval_ml or (None, None)
        return {
            "volume_pv_ml": None if self.volume_pv_ml is None else round(self.volume_pv_ml, 3),
            "volume_low_ml": None if low is None else round(low, 3),
            "volume_high_ml": None if high is None else round(high, 3),
            "confidence": None if self.confidence is None else round(self.confidence, 4),
            "agreement": None if self.agreement is None else round(self.agreement, 4),
        }


NOT_TOLD = Certainty()


@dataclass(frozen=True, slots=True)
class Finding:
    """A gate that did not pass.

    Attributes:
        rule: Its id.
        severity: ``review`` or ``note``.
        organ: Key of the organ that it is about; None for the scan as a whole.
        text: What was seen and what is usual, one sentence.
        value: What was measured, where that is a number.
    """

    rule: str
    severity: Severity
    organ: str | None
    text: str
    value: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "organ": self.organ,
            "text": self.text,
            "value": None if self.value is None else round(self.value, 4),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gates say of a scan and its labels.

    Attributes:
        findings: Gates that did not pass, in the order of the table.
    """

    findings: tuple[Finding, ...] = ()

    @property
    def word(self) -> Literal["ok", "review"]:
        """``review`` where a gate of that severity did not pass."""
        return "review" if self.reasons else "ok"

    @property
    def reasons(self) -> tuple[str, ...]:
        """What asks for a review, one sentence each."""
        return tuple(each.text for each in self.findings if each.severity == "review")

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd, but asks for no review."""
        return tuple(each.text for each in self.findings if each.severity == "note")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": self.word,
            "reasons": list(self.reasons),
            "findings": [each.as_dict() for each in self.findings],
        }
