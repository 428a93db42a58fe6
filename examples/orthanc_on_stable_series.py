"""Segment each CT series that arrives in an Orthanc, and put SEG and SR beside it.

    python examples/orthanc_on_stable_series.py --url http://localhost:8042 --state seen.txt

follows Orthanc's list of changes, so that it needs no plugin, and may run on another machine; it
wants segmate[cpu,dicom] beside this Python. A series is taken once no file of it has come for
Orthanc's StableAge. What is taken twice is stored once: the objects' UIDs follow from their input.
With ORTHANC_USER and ORTHANC_PASSWORD it logs in; --once ends when all that is there is done. What
stands after -- goes to segmate predict: ... -- --memory-cap 1GB --seg-type labelmap. A result that
needs review (exit code 3) is not stored, unless --no-gate-exit is among these.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WAIT_S = 5.0


class Orthanc:
    """As much of Orthanc's REST interface as is needed here."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {}
        if user := os.environ.get("ORTHANC_USER"):
            pair = f"{user}:{os.environ.get('ORTHANC_PASSWORD', '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"

    def get(self, path: str) -> bytes:
        return self._send(path, None)

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, content: bytes) -> Any:
        return json.loads(self._send(path, content))

    def _send(self, path: str, content: bytes | None) -> bytes:
        request = urllib.request.Request(self._url + path, content, self._headers)
        with urllib.request.urlopen(request) as answer:
            return bytes(answer.read())


def segment(orthanc: Orthanc, series: str, options: Sequence[str]) -> None:
    """One CT series: fetch it, segment it, store what was made of it."""
    with tempfile.TemporaryDirectory() as name:
        folder, seg, sr = (Path(name) / part for part in ("dicom", "seg.dcm", "sr.dcm"))
        folder.mkdir()
        # Numbers, since the names in Orthanc's own archives are those of patients.
        for n, instance in enumerate(orthanc.json(f"/series/{series}")["Instances"]):
            (folder / f"{n}.dcm").write_bytes(orthanc.get(f"/instances/{instance}/file"))
        predict = ("predict", folder, "-o", seg, "--progress", "none", *options)
        report = ("report", seg, "--format", "dicom-sr", "-o", sr, "--ct", folder)
        for command in (predict, report):
            done = subprocess.run(["segmate", *map(str, command)], stdout=subprocess.DEVNULL)
            if done.returncode:  # segmate has said why
                print(f"series {series}: exit code {done.returncode}", file=sys.stderr)
                return
        for path in (seg, sr):
            stored = orthanc.post("/instances", path.read_bytes())
            print(f"series {series}: {path.stem} {stored['ID']} {stored['Status']}", flush=True)


def follow(orthanc: Orthanc, state: Path | None, options: Sequence[str], *, once: bool) -> None:
    """Take each series that became stable, from where the last run ended."""
    last = int(state.read_text()) if state and state.exists() else 0
    while True:
        try:
            page = orthanc.json(f"/changes?since={last}&limit=100")
        except urllib.error.URLError as error:
            if once:
                raise
            print(f"Orthanc does not answer ({error}); trying again", file=sys.stderr)
            page = {"Changes": [], "Done": True}
        for change in page["Changes"]:
            if change["ChangeType"] == "StableSeries":
                take(orthanc, change["ID"], options)
            last = change["Seq"]
            if state:
                state.write_text(str(last))
        if page["Done"]:
            if once:
                return
            time.sleep(_WAIT_S)


def take(orthanc: Orthanc, series: str, options: Sequence[str]) -> None:
    """Segment a series if it is CT; the objects made here are series as well."""
    try:
        if orthanc.json(f"/series/{series}")["MainDicomTags"].get("Modality") == "CT":
            segment(orthanc, series, options)
    except urllib.error.HTTPError as error:  # deleted since, for instance
        print(f"series {series}: {error}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://localhost:8042")
    parser.add_argument("--state", type=Path, help="file that holds how far it came")
    parser.add_argument("--once", action="store_true", help="end when all is done")
    parser.add_argument("options", nargs="*", help="after --: options of segmate predict")
    args = parser.parse_args()
    follow(Orthanc(args.url), args.state, args.options, once=args.once)


if __name__ == "__main__":
    main()
