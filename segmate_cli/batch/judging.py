"""Results that are judged again by other gates: the network does not run, no voxel changes."""

from __future__ import annotations

import json

import numpy as np

from segmate_cli import files, memory, scans, sidecar
from segmate_cli.batch import records
from segmate_cli.batch.jobs import Job
from segmate_cli.batch.making import (
    outcome,
    predict_options,
    read_back,
    write_page,
    write_report,
    write_sr,
)
from segmate_cli.batch.peak import peak_bytes
from segmate_cli.batch.records import Record
from segmate_cli.batch.settings import Settings
from segmate_cli.doubt.record import judgement_record
from segmate_cli.engines import LoadedModel
from segmate_cli.guard import MemoryGuard
from segmate_cli.judging import rules_for
from segmate_cli.measurement import Measured, Tally
from segmate_cli.placement import placed_on
from segmate_cli.upright import on_slices
from segmate_cli.volume import LabelMap, Scan


def can_judge(own: Record, settings: Settings) -> bool:
    """Whether a case's label map tells all that gates need.

    Where organs were left out of it, those that gates compare them with may be missing.
    """
    return settings.organs is None and own.notes is not None


def judge_again(
    job: Job, settings: Settings, model: LoadedModel, own: Record, scan: Scan
) -> Record | None:
    """Judge a case's label map by this batch's gates, and write what tells of that.

    Args:
        job: The case.
        settings: Of the batch, and of this case.
        model: That made the label map.
        own: The record of that, whose outputs are whole.
        scan: What it was made of.

    Returns:
        The record, which is not written yet; None where the case has to be segmented again.

    Raises:
        SegmateError: The files cannot be read or written, or the memory cap is too small.
    """
    if own.notes is None or not can_judge(own, settings):
        return None
    with MemoryGuard(memory.resolve_cap(settings.memory_cap_bytes)):
        measured = _measure(job, settings, model, scan)
    known = {row["organ"]: row["voxels"] for row in own.organs}
    if known != {each.organ.key: each.voxels for each in measured.stats}:
        return None
    _tell_sidecar(job, measured)
    write_report(job, settings, measured)
    write_page(job, settings, scan)
    if "sr.dcm" in own.outputs:
        write_sr(job, settings, measured.stats)
    return own.model_copy(
        update={
            "config_sha256": job.config_sha256,
            "making_sha256": job.making_sha256,
            "path": files.storable(job.case.path),
            "series": job.case.series,
            "attempts": job.attempt,
            "outputs": read_back(job.folder),
            "peak_memory_bytes": peak_bytes(),
            "finished": records.now(),
            **outcome(job, measured, own.notes),
        }
    )


def _measure(job: Job, settings: Settings, model: LoadedModel, scan: Scan) -> Measured:
    """The label map and its scan, looked at once more, slice by slice."""
    path = job.folder / "labels.nii.gz"
    labels: LabelMap = scans.open_labels(path)
    if scan.geometry.places_mm is not None:
        labels = on_slices(scans.load_labels(path), scan.geometry)
    if not labels.geometry.same_as(scan.geometry):
        labels = placed_on(scans.load_labels(path), scan.geometry)
    tally = Tally(scan.geometry, int(np.iinfo(labels.dtype).max))
    for plane, hu in zip(labels.planes(), scan.planes(), strict=True):
        tally.add(plane, hu)
    wanted = [organ for _, organ in sorted(labels.organs.items())]
    rules = rules_for(model.manifest, predict_options(settings).rules)
    return tally.measured(labels.organs, wanted, rules, sidecar.earlier_of(path))


def _tell_sidecar(job: Job, measured: Measured) -> None:
    """Put the judgement in the place of the one that the sidecar has."""
    if measured.judgement is None:
        return
    path = sidecar.path_for(job.folder / "labels.nii.gz")
    content = json.loads(path.read_text(encoding="utf-8"))
    organs = {each.organ.key for each in measured.stats}
    content["doubt"] = judgement_record(measured.judgement, organs)
    files.write_text(path, json.dumps(content, indent=2) + "\n")
