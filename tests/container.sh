#!/usr/bin/env bash
# A container as hospitals run them, of nothing but util-linux: a read-only root, a uid that nobody
# knows, no capabilities, no network, no /dev/shm, no /tmp, no HOME, and one writable folder.
#
#   unshare --mount --net --pid --ipc --fork --kill-child \
#       tests/container.sh UID WRITABLE READABLE... -- COMMAND...
set -euo pipefail
umask 022
uid=$1 writable=$2
shift 2

mount --make-rprivate /
root=$(mktemp -d)
mount -t tmpfs -o size=1m,mode=755 none "$root"

show() { # PATH ro|rw
    [ -d "$1" ] && mkdir -p "$root$1" || { mkdir -p "$root$(dirname "$1")" && touch "$root$1"; }
    mount --bind "$1" "$root$1"
    mount -o "remount,bind,$2" "$root$1"
}

for path in /usr /etc /bin /sbin /lib /lib64; do
    if [ -L "$path" ]; then cp -P "$path" "$root$path"; elif [ -e "$path" ]; then show "$path" ro; fi
done
while [ "$1" != -- ]; do
    show "$1" ro
    shift
done
shift
for path in /dev/null /dev/zero /dev/urandom; do show "$path" rw; done
show "$writable" rw
chown "$uid:$uid" "$root$writable"
mkdir "$root/proc"
mount -t proc proc "$root/proc"
mount -o remount,ro "$root"

exec chroot "$root" setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs \
    --inh-caps=-all --bounding-set=-all env -i PATH=/usr/bin:/bin "$@"
