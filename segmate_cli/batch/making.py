"""A case's outputs: segmented, written, read back, and the record of that."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segmate_cli import __version__, files, memory, pipeline, report, saving, scans, sidecar
from segmate_cli.batch import records
from segmate_cli.batch.jobs import Job
from segmate_cli.batch.peak import peak_bytes
from segmate_cli.batch.records import Content, Output, Record
from segmate_cli.batch.settings import Settings
from segmate_cli.doubt.gates_file import parse_gates
from segmate_cli.engines import LoadedModel
from segmate_cli.errors import InputError, NothingFoundError, OutputError, UsageError
from segmate_cli.flow import Stopwatch
from segmate_cli.guard import MemoryGuard
from segmate_cli.measurement import HuSums, Measured, OrganStats, measured_by
from segmate_cli.volume import DicomSource, LabelMap, LabelValues, Scan


def predict_options(settings: Settings) -> pipeline.PredictOptions:
    """What a batch's settings ask of the pipeline."""
    return pipeline.PredictOptions(
        organs=settings.organs,
        engine=settings.engine,
        device=settings.device,
        batch_size=settings.batch_size,
        threads=settings.threads,
        memory_cap_bytes=settings.memory_cap_bytes,
        check_hu=settings.check_hu,
        keep_month=settings.keep_month,
        rules=None if settings.gates is None else parse_gates(settings.gates, "--gates"),
    )


def segment_case(
    job: Job,
    settings: Settings,
    model: LoadedModel,
    scan: Scan,
    content: Content,
    watch: Stopwatch,
) -> Record:
    """Segment a scan and write its outputs; gives the record, which is not written yet.

    Raises:
        SegmateError: Any that ``predict`` raises; there is no record then.
    """
    options = dataclasses.replace(
        predict_options(settings), temporary_folder=files.folder_for_large_ones(job.folder)
    )
    if job.halvings:
        size = pipeline.plan_for(scan, model, options).batch_size >> job.halvings
        options = dataclasses.replace(options, batch_size=max(1, size))
    records.clear(job.folder)
    with MemoryGuard(memory.resolve_cap(options.memory_cap_bytes)) as guard:
        labels = pipeline.segment(scan, model, options, guard=guard)
        measured, notes = _write(job, settings, scan, labels, watch)
    outputs = read_back(job.folder)
    seconds = {**labels.run["seconds"], **watch.seconds}
    return Record(
        case=job.case.case_id,
        attempts=job.attempt,
        path=job.case.path,
        series=job.case.series,
        content=content.model_copy(update={"pixels_sha256": labels.run["pixels_sha256"]}),
        config_sha256=job.config_sha256,
        making_sha256=job.making_sha256,
        options=job.case.options,
        outputs=outputs,
        warnings=tuple(labels.run["warnings"]),
        seconds={name: round(value, 4) for name, value in seconds.items()},
        peak_memory_bytes=peak_bytes(),
        batch_size=labels.run["options"]["batch_size"],
        finished=records.now(),
        segmate_version=__version__,
        scanner=(
            scan.source.scanner.told(keep_month=settings.keep_month)
            if isinstance(scan.source, DicomSource)
            else {}
        ),
        **outcome(job, measured, notes),
    )


def outcome(job: Job, measured: Measured, notes: Sequence[str]) -> dict[str, Any]:
    """What a record says of the organs, and whether somebody should look.

    Args:
        job: The case.
        measured: Of its labels.
        notes: What could not be written, and why.
    """
    verdict = measured.verdict
    nothing = not any(each.voxels for each in measured.stats)
    reasons = [*(["no organ was found"] if nothing else []), *notes]
    reasons += verdict.reasons if verdict else ()
    rows = report.rows(job.case.case_id, measured.stats, verdict)
    return {
        "state": "review" if reasons else "done",
        "exit_code": 3 if reasons else 0,
        "cause": "review" if reasons else "",
        "message": "; ".join(reasons),
        "notes": tuple(notes),
        "organs": tuple(_row(job, row) for row in rows),
    }


def _row(job: Job, row: dict[str, Any]) -> dict[str, Any]:
    """A row of the cohort table: as ``segmate report`` has it, with the case for the scan."""
    return {"case": job.case.case_id, **{k: v for k, v in row.items() if k != "scan"}}


class _Counted:
    """A label map whose voxels, with their HU, are counted as it is written."""

    def __init__(self, labels: LabelMap, scan: Scan) -> None:
        self.geometry, self.organs = labels.geometry, labels.organs
        self.source, self.run, self.dtype = labels.source, labels.run, labels.dtype
        self._labels = labels
        self._scan = scan
        self.sums = HuSums(int(np.iinfo(labels.dtype).max))

    def planes(self) -> Iterator[LabelValues]:
        """The label map's slices."""
        for plane, hu in zip(self._labels.planes(), self._scan.planes(), strict=True):
            self.sums.add(plane, hu)
            yield plane


def _write(
    job: Job, settings: Settings, scan: Scan, labels: pipeline.GridLabels, watch: Stopwatch
) -> tuple[Measured, list[str]]:
    """Write all outputs; gives the measurements, and what could not be written and why."""
    counted = _Counted(labels, scan)
    saving.save(counted, job.folder / "labels.nii.gz", overwrite=True, seconds=watch.seconds)
    measured = _measured(labels, counted.sums)
    notes: list[str] = []
    with watch.stage("write_others"):
        if {"seg", "rtstruct"} & set(settings.formats):
            notes += _write_dicom(job, settings, scan, labels, measured.stats)
        write_report(job, settings, measured)
        write_page(job, settings, scan)
    return measured, notes


def _measured(labels: pipeline.GridLabels, sums: HuSums) -> Measured:
    """The organs as the pipeline has judged them, with the HU of the voxels that were written."""
    for value, organ in labels.organs.items():
        judged, (written, _, _) = labels.judgement.evidence[organ.key].voxels, sums.of([value])
        if judged != written:
            raise RuntimeError(f"{organ.key}: {judged} voxels were judged, {written} written")
    wanted = [organ for _, organ in sorted(labels.organs.items())]
    return measured_by(labels.judgement, labels.organs, wanted, sums)


def write_report(job: Job, settings: Settings, measured: Measured) -> None:
    """Write ``report.json``, where it is asked for; OutputError where that fails."""
    if settings.report:
        table = report.rows(job.case.case_id, measured.stats, measured.verdict)
        files.write_text(job.folder / "report.json", report.render(table, "json"))


def write_page(job: Job, settings: Settings, scan: Scan) -> None:
    """Write ``report.html`` of what lies in a case's folder, where it is asked for.

    Raises:
        InputError: The scan cannot be read again.
        OutputError: The page cannot be written.
    """
    if "html" in settings.formats:
        from segmate_cli.look.content import Source, gather
        from segmate_cli.look.page import render_page

        source = Source(
            labels=job.folder / "labels.nii.gz",
            ct=Path(job.case.path),
            scan=scan,
            rules=predict_options(settings).rules,
        )
        files.write_text(job.folder / "report.html", render_page(gather(source)))


def _write_dicom(
    job: Job,
    settings: Settings,
    scan: Scan,
    labels: pipeline.GridLabels,
    stats: Sequence[OrganStats],
) -> list[str]:
    """Write the DICOM objects asked for; gives why one cannot be of this scan."""
    from segmate_cli.dicom.reference import SegOptions

    if not isinstance(scan.source, DicomSource):
        return ["no DICOM objects, since the scan is no DICOM series"]
    seg = SegOptions(
        seg_type=settings.seg_type,
        compress=settings.seg_compress,
        uid_root=settings.uid_root,
        series=job.case.series,
    )
    try:
        saving.seg_reference(scan, seg, settings.memory_cap_bytes)
        for kind in ("seg", "rtstruct"):
            if kind in settings.formats:
                place = job.folder / f"{kind}.dcm"
                saving.save(labels, place, overwrite=True, seg=seg, with_sidecar=False)
        write_sr(job, settings, stats)
    except (NothingFoundError, UsageError, InputError) as error:
        return [f"not all DICOM objects were written: {error}"]
    return []


def write_sr(job: Job, settings: Settings, stats: Sequence[OrganStats]) -> None:
    """Write the DICOM SR of a case's SEG, where it is asked for; errors as ``sr.write_sr``."""
    if "sr" in settings.formats:
        from segmate_cli.dicom import sr
        from segmate_cli.dicom.subject import of_seg

        path = job.folder / "seg.dcm"
        subject = of_seg(path, scans.load_labels(path).organs, settings.uid_root)
        sr.write_sr(stats, subject, job.folder / "sr.dcm")


def read_back(folder: Path) -> dict[str, Output]:
    """Hash what was written.

    Raises:
        OutputError: The label map is not what its sidecar says.
    """
    there = [name for name in records.OUTPUTS if (folder / name).is_file()]
    outputs = {name: records.read_back(folder / name) for name in there}
    path = folder / "labels.nii.gz"
    said = json.loads(sidecar.path_for(path).read_text(encoding="utf-8"))["output"]
    if path.name not in outputs or outputs[path.name].sha256 != said["file_sha256"]:
        raise OutputError(f"{path}: what was read back is not what was written; check the disk.")
    return outputs
