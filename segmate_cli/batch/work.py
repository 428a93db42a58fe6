"""One case, from its path to its record; what a worker does, whoever has started it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from segmate_cli import files, scans
from segmate_cli.batch import records, sources
from segmate_cli.batch.jobs import Done, Job
from segmate_cli.batch.judging import judge_again
from segmate_cli.batch.locks import locked
from segmate_cli.batch.making import segment_case
from segmate_cli.batch.peak import restart_peak
from segmate_cli.batch.records import Content, ContentIndex, Record
from segmate_cli.batch.series_index import stamp
from segmate_cli.batch.settings import Settings, digest_of
from segmate_cli.engines import LoadedModel
from segmate_cli.errors import ChangedError
from segmate_cli.flow import Stopwatch
from segmate_cli.volume import DicomSource, Scan

# An orphan of a killed run ends within a second of it.
_LOCK_SECONDS = 20.0


def run_case(job: Job, settings: Settings, model: LoadedModel) -> Done:
    """Segment a case, or find that it has been done; either way its record is on disk then.

    Raises:
        SegmateError: Any that ``predict`` raises; the case's folder holds no record then.
    """
    restart_peak()
    settings = settings.for_case(job.case.options)
    watch = Stopwatch()
    records.make_folder(job.folder)
    files.ensure_temporary_folder(Path(job.out) / records.STATE_FOLDER)
    with locked(job.folder / records.LOCK_NAME, _LOCK_SECONDS):
        path = Path(job.case.path)
        seen = stamp(job.case.path)
        with watch.stage("find"):
            series = job.case.series
            scan = scans.find_scan(path, series=series, assume_ras=settings.assume_ras)
        with watch.stage("hash_files"):
            content = sources.content_of(scan, path)
        done = _known(job, content, scan, seen) or _judged(job, settings, model, content, scan)
        if done is None:
            record = segment_case(job, settings, model, scan, content, watch)
            done = Done(record, "segmented")
        if done.how in ("segmented", "judged"):
            if stamp(job.case.path) != seen:
                records.clear(job.folder)
                raise ChangedError(f"{path} changed while it was read; is it still being copied?")
            done = Done(done.record.model_copy(update={"stamp": seen}), done.how)
        index = ContentIndex(Path(job.out))
        index.add(content.sha256, _key(job), job.case.case_id)
        records.write(job.folder, done.record)
    return done


def _key(job: Job) -> str:
    return digest_of([job.config_sha256, job.case.options])


def _known(job: Job, content: Content, scan: Scan, seen: str) -> Done | None:
    """Results that are there already: under this name, or under another."""
    own = records.read(job.folder)
    if own is not None and _same_making(own, job, job.folder) and _same(own, content, scan):
        now = {
            "stamp": seen,
            "path": files.storable(job.case.path),
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


def _judged(
    job: Job, settings: Settings, model: LoadedModel, content: Content, scan: Scan
) -> Done | None:
    """Results that differ by nothing but the gates that they were judged by, judged again."""
    own = records.read(job.folder)
    if (
        own is None
        or records.making_of(own) != records.making_of(job)
        or own.options != job.case.options
    ):
        return None
    if not (own.succeeded and _same(own, content, scan)):
        return None
    if not records.outputs_whole(job.folder, own, paranoid=job.paranoid):
        return None
    record = judge_again(job, settings, model, own, scan)
    return None if record is None else Done(record, "judged")


def _same(own: Record, content: Content, scan: Scan) -> bool:
    """Whether a record is of this content."""
    return own.content is not None and (
        own.content.sha256 == content.sha256 or _same_voxels(own, content, scan)
    )


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
            "path": files.storable(job.case.path),
            "series": job.case.series,
            "stamp": seen,
            "outputs": outputs,
            "organs": tuple({**row, "case": job.case.case_id} for row in other.organs),
            "taken_from": other.case,
            "finished": records.now(),
        }
    )


def _say_new_path(path: Path, source: str) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["input"]["path"] = source
    files.write_text(path, json.dumps(content, indent=2) + "\n")
