#!/usr/bin/env bash
# Installs moto, a server that speaks S3, for tests of the module store: once, into a Python virtual environment in the
# cache folder (KUBEWASM_CACHE, else XDG_CACHE_HOME/kubewasm, else ~/.cache/kubewasm). All versions are pinned.
set -euo pipefail

say() { printf 'moto: %s\n' "$*" >&2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KUBEWASM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubewasm}
place=$cache/moto
# Another list of versions is another installation.
stamp=$place/installed-$(sha256sum <"$here/moto.txt" | cut -c1-16)

mkdir -p "$cache"
# Tests may come here at the same time.
exec 9>"$cache/moto.lock"
flock 9
if [ -e "$stamp" ]; then
  exit 0
fi
if [ -n "${KUBEWASM_NO_INSTALL:-}" ]; then
  say "error: moto is not installed in $place. Unset KUBEWASM_NO_INSTALL to have it done here."
  exit 1
fi
say "installing it into $place ..."
rm -rf "$place"
python3 -m venv "$place" || { say "error: Python has no venv; on Debian: apt-get install python3-venv"; exit 1; }
"$place/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$here/moto.txt" >&2
touch "$stamp"
say "done."
