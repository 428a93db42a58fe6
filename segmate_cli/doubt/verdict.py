"""Gates applied: findings, the verdict, and organs' statuses after them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from segmate_cli.doubt.case import Case, ScoreEvidence
from segmate_cli.doubt.rules import RULES, UNSURE, Limits, Rule
from segmate_cli.doubt.scan_evidence import ScanEvidence
from segmate_cli.doubt.status import OrganEvidence, gather, height_mm, regions, statuses
from segmate_cli.doubt.survey import Survey
from segmate_cli.doubt.words import Certainty, Finding, OrganStatus, Verdict
from segmate_cli.organs import Organ

# Findings of these rules are about the scan, whatever organ they name.
_OF_SCANS = ("order", "found")
# A number that is told from its limit by no fewer digits is told by so many.
_MOST_DIGITS = 4
# Notes that change an organ's status all the same.
_COUNTED = ("stray", *UNSURE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """All that is said of a scan and its labels.

    Attributes:
        evidence: By organ key.
        status: By organ key, gates included.
        verdict: Of the whole.
        regions: Parts of the body in view.
        phase: Guess of the contrast phase, one phrase; None without a scan or an aorta.
        circle: Whether the scan shows nothing outside its circle; None where nobody knows.
        gates: Ids of the gates that counted.
        certainty: What the network tells of each organ's volume, by key, as far as it is known.
    """

    evidence: Mapping[str, OrganEvidence]
    status: Mapping[str, OrganStatus]
    verdict: Verdict
    regions: tuple[str, ...]
    phase: str | None
    circle: bool | None
    gates: tuple[str, ...]
    certainty: Mapping[str, Certainty]


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier look at the scan said, for where the scan, or its scores, are not at hand.

    Attributes:
        circle: As in ``Judgement``.
        findings: Of all gates; those that need what is not at hand are taken over.
        gates: Ids of the gates that counted then.
        certainty: By organ key.
    """

    circle: bool | None = None
    findings: tuple[Finding, ...] = ()
    gates: tuple[str, ...] = ()
    certainty: Mapping[str, Certainty] = field(default_factory=dict)


_NOTHING_EARLIER = Earlier()


def judge(
    survey: Survey,
    organs: Mapping[int, Organ],
    scan: ScanEvidence | None = None,
    rules: Iterable[Rule] = RULES,
    earlier: Earlier = _NOTHING_EARLIER,
    scores: Mapping[str, ScoreEvidence] | None = None,
) -> Judgement:
    """Apply the gates.

    Args:
        survey: Of the labels.
        organs: Label value to organ.
        scan: Of the scan; without it gates that need one do not count.
        rules: The gates.
        earlier: What is known of the scan and its scores where they are not at hand.
        scores: What the network's scores say, by organ key.
    """
    rules = tuple(rules)
    circle = earlier.circle if scan is None else scan.circle
    evidence = gather(survey, organs, circle)
    status = statuses(evidence, height_mm(survey))
    values = {
        key: tuple(value for value, each in organs.items() if each.key == key) for key in evidence
    }
    certainty = earlier.certainty if scores is None else _certainty(scores, evidence)
    case = Case(survey, evidence, status, values, scan, scores, certainty)
    findings = [finding for rule in rules for finding in _apply(rule, case)]
    lacking = {"scan": scan is None, "scores": scores is None}
    # What UNSURE is about has been told in numbers, so that it is judged anew.
    taken = {rule.id for rule in rules if lacking.get(rule.needs, False)} - {*UNSURE}
    findings += [each for each in earlier.findings if each.rule in taken]
    verdict = Verdict(tuple(findings))
    return Judgement(
        evidence,
        {key: _doubted(key, each, verdict) for key, each in status.items()},
        verdict,
        regions(evidence, height_mm(survey)),
        _phase(case),
        circle,
        tuple(rule.id for rule in rules),
        certainty,
    )


def _certainty(
    scores: Mapping[str, ScoreEvidence], evidence: Mapping[str, OrganEvidence]
) -> dict[str, Certainty]:
    """What is told of the organs that have a voxel."""
    return {
        key: Certainty(
            confidence=each.seen.confidence,
            volume_pv_ml=each.seen.volume_pv_ml * each.kept,
            agreement=each.agreement,
            interval_ml=each.interval_ml,
        )
        for key, each in scores.items()
        if key in evidence and evidence[key].voxels
    }


def _apply(rule: Rule, case: Case) -> Iterable[Finding]:
    for name, value in rule.measure(case).items():
        low, high = rule.limits.get(name, rule.limits.get("*", (None, None)))
        if (low is None or value >= low) and (high is None or value <= high):
            continue
        organ = name if name in case.organs else None
        yield Finding(rule.id, rule.severity, organ, _text(rule, case, name, value), value)


def _text(rule: Rule, case: Case, name: str, value: float) -> str:
    if rule.id == "found":
        return f"{case.organs[name].organ.title} was not found, though its place is in view."
    about = ""
    if name in case.organs:
        about = f"{case.organs[name].organ.title}: "
    elif " over " in name:
        high, low = name.split(" over ")
        about = f"{case.organs[high].organ.title} over {case.organs[low].organ.title.lower()}: "
    unit = f" {rule.unit}" if rule.unit else ""
    limits = rule.limits.get(name, rule.limits.get("*", (None, None)))
    digits = _digits(value, limits)
    seen, usual = _number(value, digits), _between(limits, digits)
    said = f"{about}{rule.what} is {seen}{unit}, not {usual}. {rule.why}"
    return said[0].upper() + said[1:]


def _between(limits: Limits, digits: int) -> str:
    low, high = (_limit(each, digits) for each in limits)
    if low is None:
        return f"{high} or less"
    if high is None:
        return f"{low} or more"
    return f"{low} to {high}"


def _limit(end: float | None, digits: int) -> str | None:
    """A limit, without digits that are all 0."""
    if end is None:
        return None
    short = _number(end)
    return short if float(short) == end else _number(end, digits)


def _digits(value: float, limits: Limits) -> int:
    """How many more digits than usual tell a number from the limit that it is beyond."""
    ends = [end for end in limits if end is not None]
    beside = (
        more
        for more in range(_MOST_DIGITS)
        if all(float(_number(value, more)) != float(_number(end, more)) for end in ends)
    )
    return next(beside, _MOST_DIGITS)


def _number(value: float, more: int = 0) -> str:
    if 0 < abs(value) < 0.1:
        return f"{value:.{2 + more}g}"
    return f"{value:.{2 + more}f}" if abs(value) < 10 else f"{value:.{more}f}"


def _doubted(key: str, status: OrganStatus, verdict: Verdict) -> OrganStatus:
    """An organ's status after the gates: implausible where one about it did not pass.

    Where all of these are about the network's own doubt, its confidence is low.
    """
    own = [each for each in verdict.findings if each.organ == key and each.rule not in _OF_SCANS]
    counted = [each for each in own if each.severity == "review" or each.rule in _COUNTED]
    if not counted or status.kind in ("absent", "not_found"):
        return status
    unsure = all(each.rule in UNSURE for each in counted)
    return replace(
        status,
        kind="low_confidence" if unsure else "implausible",
        reasons=(*status.reasons, *(each.text for each in counted)),
    )


def _phase(case: Case) -> str | None:
    """The contrast phase that the mean HU of a few organs suggest.

    Blood has 30 to 50 HU without contrast; a first pass fills the aorta before liver and spleen.
    """
    mean = {key: float(hu.mean()) for key, hu in case.hu.items()}
    if "aorta" not in mean:
        return None
    aorta, liver, spleen = mean["aorta"], mean.get("liver"), mean.get("spleen")
    if aorta < 80:
        return "no contrast"
    if aorta > 200 and (liver is None or liver < 90):
        return "arterial"
    if liver is not None and liver >= 80 and (spleen is None or spleen >= 80):
        return "portal venous or later"
    return "with contrast"
