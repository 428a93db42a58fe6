#!/usr/bin/env bash
# Run a command beside an Orthanc that nobody else can reach:
#   tests/interop/with_orthanc.sh COMMAND...
# Orthanc 1.10 listens on every interface whatever its configuration says, so it and the command
# get a network of their own that has nothing but loopback. Debian: orthanc, orthanc-dicomweb.
set -euo pipefail

if [ "${1:-}" != "--inside" ]; then
    # As root; or, where the kernel allows it, as anybody. Whatever ends this ends Orthanc, too.
    alone=(--net --pid --fork --kill-child)
    unshare -n true 2>/dev/null && exec unshare "${alone[@]}" "$0" --inside "$@"
    exec unshare --map-root-user "${alone[@]}" "$0" --inside "$@"
fi
shift
ip link set lo up
folder=$(mktemp -d)
cat >"$folder/orthanc.json" <<CONFIGURATION
{
  "StorageDirectory": "$folder/db", "IndexDirectory": "$folder/db",
  "HttpPort": 8042, "DicomPort": 4242, "AuthenticationEnabled": false,
  "UnknownSopClassAccepted": true, "StableAge": 1, "DicomCheckCalledAet": false,
  "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"]
}
CONFIGURATION
Orthanc "$folder/orthanc.json" >"$folder/log" 2>&1 &
orthanc=$!
trap 'kill $orthanc; wait $orthanc || true; rm -rf "$folder"' EXIT
for _ in $(seq 100); do
    curl -sf -o "$folder/system" http://localhost:8042/system && break
    kill -0 $orthanc || { cat "$folder/log" >&2; exit 1; }
    sleep 0.1
done
"$@"
