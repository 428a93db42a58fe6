#!/usr/bin/env bash
# The entry point of a mercure module: a container with segmate[cpu,dicom] that runs this.
#   MERCURE_IN_DIR    <series UID>#<name>.dcm, of one series or of a study's, and task.json
#   MERCURE_OUT_DIR   gets the SEG and the SR, which mercure sends on
# The module's settings may hold {"predict": ["--series", "kernel=B30f", "--memory-cap", "1GB"]}.
# Any exit code but 0 makes mercure put the case among the errors, with the message in its log: also 3,
# a result that needs review; with "--no-gate-exit" among the options it is sent on all the same.
set -euo pipefail

settings() {
    python3 -c '
import json, sys
settings = (json.load(open(sys.argv[1])).get("process") or {}).get("settings") or {}
print(*settings.get("predict", []), sep="\n")' "$MERCURE_IN_DIR/task.json"
}
mapfile -t options < <(settings)
[ -n "${options[0]:-}" ] || options=()

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
segmate predict "$MERCURE_IN_DIR" -o "$work/seg.dcm" --progress none "${options[@]}"
segmate report "$work/seg.dcm" --format dicom-sr -o "$work/sr.dcm" --ct "$MERCURE_IN_DIR"

# mercure tells series apart by what stands before the "#".
for object in seg sr; do
    uid=$(python3 -c '
import sys, pydicom
print(pydicom.dcmread(sys.argv[1], specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID)' \
        "$work/$object.dcm")
    mv "$work/$object.dcm" "$MERCURE_OUT_DIR/$uid#$object.dcm"
done
