# Sourced by tools/quickstart and tools/check: finds what is missing to build moeplan and installs it, asking first.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
jobs=$(nproc 2>/dev/null || echo 2)
assume_yes=false
[ "${CI:-}" = true ] && assume_yes=true

say() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# One line per need: the Debian package, then a command that succeeds when it is there.
needs_to_build='build-essential|command -v cc && command -v make
meson|command -v meson
ninja-build|command -v ninja
pkg-config|command -v pkg-config
python3|command -v python3
libyaml-dev|pkg-config --exists yaml-0.1
libjansson-dev|pkg-config --exists jansson
zlib1g-dev|pkg-config --exists zlib
libzstd-dev|pkg-config --exists libzstd
libexpat1-dev|pkg-config --exists expat
nettle-dev|pkg-config --exists nettle
libxxhash-dev|pkg-config --exists libxxhash
libglpk-dev|echo "#include <glpk.h>" | cc -E -x c -o /dev/null -
libmetis-dev|echo "#include <metis.h>" | cc -E -x c -o /dev/null -
libcmocka-dev|pkg-config --exists cmocka'
needs_to_check='iproute2|command -v ip && command -v tc || [ -x /usr/sbin/tc ]
iperf3|command -v iperf3
openmpi-bin|command -v mpirun || ! pkg-config --exists ompi-c
python3-yaml|python3 -c "import yaml"
chromium|command -v chromium
debhelper|command -v dh
lintian|command -v lintian
fakeroot|command -v fakeroot
man-db|command -v man
clang|command -v clang
libclang-rt-14-dev|printf "int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d == 0 && n > 0; }" | clang -x c -fsanitize=fuzzer,address -o /dev/null -'

# missing NEEDS: prints the packages that are not there.
missing() {
    local package test
    while IFS='|' read -r package test; do
        [ -n "$package" ] || continue
        sh -c "$test" >/dev/null 2>&1 || printf '%s ' "$package"
    done <<<"$1"
}

# install_needs NEEDS: after it, everything is there, or the script has ended and said what to do.
install_needs() {
    local wanted command answer
    wanted=$(missing "$1")
    [ -n "$wanted" ] || return 0
    say "Not here yet: $wanted"
    command -v apt-get >/dev/null || die "This is no Debian: install the counterparts of these packages and run again."
    command="apt-get install -y --no-install-recommends $wanted"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "Run as root: $command"
        command="sudo $command"
        if ! $assume_yes; then
            [ -t 0 ] || die "Run: $command   (or this script with --yes)"
            read -r -p "Run '$command'? [y/N] " answer
            [[ $answer == [yY]* ]] || die "Nothing was installed."
        fi
        sudo apt-get update -q
    else
        printf 'Installing as root: %s\n' "$command"
        apt-get update -q
    fi
    DEBIAN_FRONTEND=noninteractive $command
    wanted=$(missing "$1")
    [ -z "$wanted" ] || die "Still missing after the installation: $wanted"
}

# set_up FOLDER [meson options]: configures once, or again with new options.
set_up() {
    local folder=$1
    shift
    if [ -f "$folder/build.ninja" ]; then
        meson configure "$folder" "$@" >/dev/null
    else
        meson setup "$folder" "$root" "$@" >"$folder.log" 2>&1 || {
            tail -30 "$folder.log" >&2
            die "Configuring $folder failed."
        }
    fi
}
