#!/bin/sh
# Installs the Debian packages of programs that are not there. Arguments: program:package ...
# Says what it installs; says nothing when all is there. Needs root or sudo only if something is missing.
set -eu

PATH="$PATH:/usr/sbin:/sbin"
missing=
for pair in "$@"; do
    program=${pair%%:*}
    package=${pair#*:}
    command -v "$program" >/dev/null 2>&1 && continue
    case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "missing:$missing; install them with this system's package manager and run this again" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "missing:$missing; run 'apt-get install$missing' as root and run this again" >&2
    exit 1
fi

echo "installing:$missing"
# shellcheck disable=SC2086  # both are lists of words
{
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}
