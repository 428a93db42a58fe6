#!/usr/bin/env bash
# Segment every NIfTI scan of a folder and report all volumes in one table.
#   examples/folder.sh [SCANS [RESULTS]]      without arguments: on two phantoms it makes
set -euo pipefail

scans=${1:-}
results=${2:-$(mktemp -d)}
if [ -z "$scans" ]; then
    scans=$(mktemp -d)
    for seed in 1 2; do
        python "$(dirname "$0")/phantom.py" --seed "$seed" -o "$scans/phantom$seed.nii.gz"
    done
fi

for scan in "$scans"/*.nii.gz; do
    name=$(basename "$scan" .nii.gz)
    # One bad scan must not end the night: its exit code is told and the loop goes on.
    segmate predict "$scan" -o "$results/$name.nii.gz" --quiet ||
        echo "$scan: exit code $?" >&2
done | segmate report --organs lungs,liver,heart --format csv
