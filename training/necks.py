"""What necks hold and what they cannot: ``python -m training.necks CACHE CHECKPOINT ROUND``.

OpenKBP's hands labelled cord and esophagus alone, and a network that is never told otherwise finds
lung in the air of a pharynx and a heart beside it. Above the apices of the lungs that an earlier
network finds, lungs, heart and aorta are absent; below them its lungs, aorta and trachea become
labels of a round of ``training.pseudo``, where they are large enough to be believed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from training.cases import ORGANS, Case, Known, load_cases, save_round
from training.inference import decide, load_network, model_slices, slice_logits, to_case_grid
from training.masks import largest_part

_SOURCE = "kbp"
_LUNGS_MM2, _AORTA_MM2, _TRACHEA_MM2 = 150.0, 120.0, (60.0, 600.0)
_ABOVE_APEX_MM = 12.0
#: Of fewer voxels in a whole neck, a heart is a mistake.
_LEAST_HEART = 300
_LUNGS, _HEART = (0, 1), ORGANS.index("heart")
_TRACHEA, _AORTA = ORGANS.index("trachea"), ORGANS.index("aorta")


def label_neck(case: Case, found: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Predicted labels and the completed table of a neck, from an earlier network's labels."""
    known, labels = np.array(case.known), np.zeros_like(found)
    pixel_mm2 = case.info.pixel_mm**2
    lungs_mm2 = np.isin(found, [channel + 1 for channel in _LUNGS]).sum((1, 2)) * pixel_mm2
    rows = np.flatnonzero((lungs_mm2 > _LUNGS_MM2) & case.usable)
    apex = int(rows[-1]) + round(_ABOVE_APEX_MM / case.info.slice_mm) if rows.size else -1
    above = (np.arange(len(found)) > apex) & case.usable

    def rule_out(channel: int, where: NDArray[np.bool_]) -> None:
        known[where & (known[:, channel] == Known.NO), channel] = Known.ABSENT

    def take(channel: int, mask: NDArray[np.bool_], where: NDArray[np.bool_]) -> None:
        where = where & (known[:, channel] == Known.NO)
        known[where, channel] = Known.PSEUDO
        labels[mask & where[:, None, None]] = channel + 1

    for channel in (*_LUNGS, _HEART, _AORTA):
        rule_out(channel, above)
    trachea = largest_part(found == _TRACHEA + 1)
    area_mm2 = trachea.sum((1, 2)) * pixel_mm2
    likely = (area_mm2 > _TRACHEA_MM2[0]) & (area_mm2 < _TRACHEA_MM2[1]) & case.usable
    take(_TRACHEA, trachea, likely)
    below = case.usable & ~above
    for channel in _LUNGS:
        take(channel, found == channel + 1, below & (lungs_mm2 > _LUNGS_MM2))
    aorta = found == _AORTA + 1
    take(_AORTA, aorta, below & (aorta.sum((1, 2)) * pixel_mm2 > _AORTA_MM2))
    if (found == _HEART + 1).sum() < _LEAST_HEART:
        rule_out(_HEART, case.usable)
    return labels, known


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and complete a round's labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="folder of prepared cases")
    parser.add_argument("checkpoint", type=Path, help="network that labels")
    parser.add_argument("round", help="round of labels to complete")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    network = load_network(options.checkpoint)
    for case in load_cases(options.cache):
        if not case.info.case_id.startswith(_SOURCE):
            continue
        found = to_case_grid(decide(slice_logits(network, model_slices(case))), case)
        labels, known = label_neck(case, found)
        nothing = np.zeros(labels.shape, dtype=np.uint16)
        folder = options.cache / case.info.case_id
        save_round(folder, options.round, labels, known, nothing)
        print(case.info.case_id, flush=True)


if __name__ == "__main__":
    main()
