#!/usr/bin/env bash
# Puts wkg (which pushes components as the Bytecode Alliance's tools do) into a cache folder outside the source tree, and
# prints that folder's path, alone, on standard output. Progress goes to standard error. A build happens once per version.
set -euo pipefail

version=0.16.1
cache=${KUBEWASM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubewasm}
out=$cache/wkg/$version

say() { printf 'wkg: %s\n' "$*" >&2; }

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

if [ ! -x "$out/bin/wkg" ]; then
  say "building wkg $version (once; it takes some minutes) ..."
  start=$SECONDS
  # Not optimized: it runs for moments. Elsewhere than the project's own build, whose settings are not for it.
  (cd / && CARGO_TARGET_DIR=$out/build cargo install --quiet --debug --locked --root "$out" "wkg@$version" >&2)
  rm -rf "$out/build"
  say "built wkg in $((SECONDS - start)) s"
fi
printf '%s\n' "$out/bin"
