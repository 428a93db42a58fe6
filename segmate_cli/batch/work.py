"""One case, from its path to its record; what a worker does, whoever has started it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segmate_cli import __version__, files, memory, pipeline, report, scans, sidecar
from segmate_cli.batch import records, sources
from segmate_cli.batch.cases import Case
from segmate_cli.batch.locks import locked
from segmate_cli.batch.peak import peak_bytes, restart_peak
from segmate_cli.batch.records import Content, ContentIndex, Output, Record
from segmate_cli.batch.series_index import stamp
from segmate_cli.batch.settings import Settings, digest_of
from segmate_cli.doubt.rules import Rule
from segmate_cli.engines import LoadedModel
from segmate_cli.errors import ChangedError, InputError, NothingFoundError, OutputError, UsageError
from segmate_cli.flow import Stopwatch
from segmate_cli.guard import MemoryGuard
from segmate_cli.measurement import Measured, OrganStats, Tally
from segmate_cli.volume import DicomSource, LabelMap, LabelValues, Scan

# An orphan of a killed run ends within a second of it.
_LOCK_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Job:
    """A case to be done, as it travels to a worker.

    Attributes:
        case: Which.
        out: The batch's output folder.
        config_sha256: Identity of the configuration.
        attempt: From 1.
        halvings: How often the batch of slices is halved: once an attempt that cost a worker.
        paranoid: Read known outputs instead of trusting size, time and inode.
    """

    case: Case
    out: str
    config_sha256: str
    attempt: int = 1
    halvings: int = 0
    paranoid: bool = False

    @property
    def folder(self) -> Path:
        """The case's folder."""
        return Path(self.out) / self.case.case_id

    def as_json(self) -> dict[str, Any]:
        """For the way to a worker."""
        return dataclasses.asdict(self)


How = Literal["segmented", "known", "taken"]


@dataclass(frozen=True, slots=True)
class Done:
    """A case's record, and whether the network ran for it.

    Attributes:
        record: What is on disk now.
        how: ``segmented``; ``known``, its results were there; ``taken``, another case's were.
    """

    record: Record
    how: How


def job_of(raw: dict[str, Any]) -> Job:
    """The inverse of ``Job.as_json``."""
    return Job(**{**raw, "case": Case(**raw["case"])})


def run_case(job: Job, settings: Settings, model: LoadedModel) -> Done:
    """Segment a case, or find that it has been done; either way its record is on disk then.

    Raises:
        SegmateError: Any that ``predict`` raises; the case's folder holds no record then.
    """
    restart_peak()
    settings = settings.for_case(job.case.options)
    watch = Stopwatch()
    records.make_folder(job.folder)
    with locked(job.folder / records.LOCK_NAME, _LOCK_SECONDS):
        path = Path(job.case.path)
        seen = stamp(job.case.path)
        with watch.stage("find"):
            series = job.case.series
            scan = scans.find_scan(path, series=series, assume_ras=settings.assume_ras)
        with watch.stage("hash_files"):
            content = sources.content_of(scan, path)
        done = _known(job, content, scan, seen)
        if done is None:
            record = _segment(job, settings, model, scan, content, watch)
            if stamp(job.case.path) != seen:
                records.clear(job.folder)
                raise ChangedError(f"{path} changed while it was read; is it still being copied?")
            done = Done(record.model_copy(update={"stamp": seen}), "segmented")
        index = ContentIndex(Path(job.out))
        index.add(content.sha256, _key(job), job.case.case_id)
        records.write(job.folder, done.record)
    return done


def _key(job: Job) -> str:
    return digest_of([job.config_sha256, job.case.options])


def _known(job: Job, content: Content, scan: Scan, seen: str) -> Done | None:
    """Results that are there already: under this name, or under another."""
    own = records.read(job.folder)
    if own is not None and _same_making(own, job, job.folder):
        same = own.content is not None and (
            own.content.sha256 == content.sha256 or _same_voxels(own, content, scan)
        )
        if same:
            now = {
                "stamp": seen,
                "path": records.printable(job.case.path),
                "series": job.case.series,
            }
            return Done(own.model_copy(update=now), "known")
    name = ContentIndex(Path(job.out)).find(content.sha256, _key(job))
    if name is None or name == job.case.case_id:
        return None
    folder = Path(job.out) / name
    other = records.read(folder)
    if other is None or other.case != name or not _same_making(other, job, folder):
        return None
    if other.content is None or other.content.sha256 != content.sha256:
        return None
    taken = _take_over(job, folder, other, seen)
    return None if taken is None else Done(taken, "taken")


def _same_making(record: Record, job: Job, folder: Path) -> bool:
    return (
        record.succeeded
        and record.config_sha256 == job.config_sha256
        and record.options == job.case.options
        and records.outputs_whole(folder, record, paranoid=job.paranoid)
    )


def _same_voxels(own: Record, content: Content, scan: Scan) -> bool:
    """Whether a file with other bytes holds the same voxels in the same places.

    DICOM objects repeat headers, so for them other bytes are another input.
    """
    old = own.content
    return (
        old is not None
        and not isinstance(scan.source, DicomSource)
        and old.geometry_sha256 == content.geometry_sha256
        and old.pixels_sha256 == sources.pixels_sha256(scan)
    )


def _take_over(job: Job, folder: Path, other: Record, seen: str) -> Record | None:
    """Copy another case's outputs; None where they vanish meanwhile."""
    records.clear(job.folder)
    outputs = {}
    for name, output in other.outputs.items():
        place = job.folder / name
        try:
            with (folder / name).open("rb") as source, files.write_atomically(place) as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except FileNotFoundError:
            return None
        if name == "labels.json":
            _say_new_path(place, job.case.path)
        outputs[name] = records.read_back(place)
        if name != "labels.json" and outputs[name].sha256 != output.sha256:
            return None
    return other.model_copy(
        update={
            "case": job.case.case_id,
            "path": records.printable(job.case.path),
            "series": job.case.series,
            "stamp": seen,
            "outputs": outputs,
            "organs": tuple({**row, "case": job.case.case_id} for row in other.organs),
            "taken_from": other.case,
            "finished": _now(),
        }
    )


def _say_new_path(path: Path, source: str) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["input"]["path"] = source
    files.write_text(path, json.dumps(content, indent=2) + "\n")


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
    )


def _segment(
    job: Job,
    settings: Settings,
    model: LoadedModel,
    scan: Scan,
    content: Content,
    watch: Stopwatch,
) -> Record:
    options = predict_options(settings)
    if job.halvings:
        size = pipeline.plan_for(scan, model, options).batch_size >> job.halvings
        options = dataclasses.replace(options, batch_size=max(1, size))
    records.clear(job.folder)
    with MemoryGuard(memory.resolve_cap(options.memory_cap_bytes)) as guard:
        labels = pipeline.segment(scan, model, options, guard=guard)
        rules = pipeline.rules_for(model.manifest, options.rules)
        measured, notes = _write(job, settings, scan, labels, watch, rules)
    stats, verdict = measured.stats, measured.verdict
    notes += verdict.reasons if verdict else ()
    if not any(each.voxels for each in stats):
        notes.insert(0, "no organ was found")
    outputs = _read_back(job.folder)
    rows = [_row(job, row) for row in report.rows(job.case.case_id, stats, verdict)]
    seconds = {**labels.run["seconds"], **watch.seconds}
    return Record(
        case=job.case.case_id,
        state="review" if notes else "done",
        exit_code=3 if notes else 0,
        cause="review" if notes else "",
        message="; ".join(notes),
        attempts=job.attempt,
        path=job.case.path,
        series=job.case.series,
        content=content.model_copy(update={"pixels_sha256": labels.run["pixels_sha256"]}),
        config_sha256=job.config_sha256,
        options=job.case.options,
        outputs=outputs,
        organs=tuple(rows),
        warnings=tuple(labels.run["warnings"]),
        seconds={name: round(value, 4) for name, value in seconds.items()},
        peak_memory_bytes=peak_bytes(),
        batch_size=labels.run["options"]["batch_size"],
        finished=_now(),
        segmate_version=__version__,
    )


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
        self.tally = Tally(labels.geometry, int(np.iinfo(labels.dtype).max))

    def planes(self) -> Iterator[LabelValues]:
        """The label map's slices."""
        for plane, hu in zip(self._labels.planes(), self._scan.planes(), strict=True):
            self.tally.add(plane, hu)
            yield plane


def _write(
    job: Job,
    settings: Settings,
    scan: Scan,
    labels: pipeline.GridLabels,
    watch: Stopwatch,
    rules: Sequence[Rule],
) -> tuple[Measured, list[str]]:
    """Write all outputs; gives the measurements, and what could not be written and why."""
    counted = _Counted(labels, scan)
    scans.save(counted, job.folder / "labels.nii.gz", overwrite=True, seconds=watch.seconds)
    wanted = [organ for _, organ in sorted(labels.organs.items())]
    measured = counted.tally.measured(labels.organs, wanted, rules)
    notes: list[str] = []
    with watch.stage("write_others"):
        if {"seg", "rtstruct"} & set(settings.formats):
            notes += _write_dicom(job, settings, scan, labels, measured.stats)
        if settings.report:
            table = report.rows(job.case.case_id, measured.stats, measured.verdict)
            files.write_text(job.folder / "report.json", report.render(table, "json"))
    return measured, notes


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
    path = job.folder / "seg.dcm"
    try:
        scans.seg_reference(scan, seg, settings.memory_cap_bytes)
        for kind in ("seg", "rtstruct"):
            if kind in settings.formats:
                place = job.folder / f"{kind}.dcm"
                scans.save(labels, place, overwrite=True, seg=seg, with_sidecar=False)
        if "sr" in settings.formats:
            from segmate_cli.dicom.sr import write_sr
            from segmate_cli.dicom.subject import of_seg

            subject = of_seg(path, scans.load_labels(path).organs, settings.uid_root)
            write_sr(stats, subject, job.folder / "sr.dcm")
    except (NothingFoundError, UsageError, InputError) as error:
        return [f"not all DICOM objects were written: {error}"]
    return []


def _read_back(folder: Path) -> dict[str, Output]:
    """Hash what was written; OutputError where the label map is not what its sidecar says."""
    there = [name for name in records.OUTPUTS if (folder / name).is_file()]
    outputs = {name: records.read_back(folder / name) for name in there}
    path = folder / "labels.nii.gz"
    said = json.loads(sidecar.path_for(path).read_text(encoding="utf-8"))["output"]
    if path.name not in outputs or outputs[path.name].sha256 != said["file_sha256"]:
        raise OutputError(f"{path}: what was read back is not what was written; check the disk.")
    return outputs


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
