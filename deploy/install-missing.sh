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

# The packages of qemu replace one another's files from version to version, so a qemu-system beside a qemu-utils of
# another version does not unpack. Called when the package lists are fresh; prints what to install in addition.
same_qemu() {
    case " $missing " in *" qemu-system-x86 "*) ;; *) return 0 ;; esac
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Version}' qemu-utils 2>/dev/null) || return 0
    offered=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: //p')
    case $installed in
        "installed $offered") ;;
        installed*) echo "qemu-utils=$offered" ;;
    esac
}

echo "installing:$missing"
$as_root apt-get update -qq
also=$(same_qemu)
[ -z "$also" ] || echo "installing with it: $also"
# shellcheck disable=SC2086  # all are lists of words
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends ${also:+--allow-downgrades} $missing $also
