"""What the gates say of labels just made: what was seen on the way, weighed by the rules.

Imported while the network runs: all of this has time until the last slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.ma  # the first np.median would import it, in its own time
import numpy.typing as npt

from segmate_cli.bundle import Manifest
from segmate_cli.doubt.record import judgement_record as judgement_record
from segmate_cli.doubt.rules import RULES, Rule
from segmate_cli.doubt.scan_evidence import ScanEvidence
from segmate_cli.doubt.score_evidence import OrganScores
from segmate_cli.doubt.survey import Survey
from segmate_cli.doubt.verdict import Judgement, judge
from segmate_cli.variants import Overlap, score_evidence


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen beside the labels.

    Attributes:
        scan: Of its slices.
        scores: Of the network's, by label value from 1 on.
        kept: Voxels after the clean-up over those before, by label value from 0 on.
        overlaps: Of the variants; none without ``--uncertainty``.
    """

    scan: ScanEvidence
    scores: tuple[OrganScores, ...]
    kept: npt.NDArray[np.float64]
    overlaps: tuple[Overlap, ...]


def rules_for(manifest: Manifest, rules: tuple[Rule, ...] | None) -> tuple[Rule, ...]:
    """The gates that count for a model: those given, else the built-in ones where they hold."""
    if rules is not None:
        return rules
    return RULES if manifest.gates == "adult_ct" else ()


def judge_labels(
    survey: Survey, manifest: Manifest, seen: Evidence, rules: tuple[Rule, ...] | None
) -> Judgement:
    """The judgement on all organs that a model knows; ``rules`` as for ``rules_for``."""
    table = manifest.organ_table()
    keys = [each.key for each in table]
    scores = score_evidence(
        seen.scores, seen.kept, keys, seen.overlaps, survey.volume_ml, manifest.intervals
    )
    counted = rules_for(manifest, rules)
    return judge(survey, dict(enumerate(table, 1)), seen.scan, counted, scores=scores)
