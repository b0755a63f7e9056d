#!/usr/bin/env bash
# Puts oras (a client of registries, which the tests of `kubewasm module` hold ours against) into a cache folder
# outside the source tree, and prints that folder's path, alone, on standard output. Progress goes to standard error.
# A build happens once per change of go.mod, go.sum or this script.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KUBEWASM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubewasm}
module=oras.land/oras
version=$(awk -v module="$module" '$1 == module {print $2}' "$here/go.mod")
key=$(cat "$here/go.mod" "$here/go.sum" "$here/build.sh" | sha256sum | cut -c1-12)
out=$cache/oras/$version-$key

say() { printf 'oras: %s\n' "$*" >&2; }

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

if [ ! -x "$out/oras" ]; then
  if ! command -v go >/dev/null; then
    say "error: oras cannot be built, because Go is not installed."
    say "Install Go (version $(awk '$1 == "go" {print $2}' "$here/go.mod") or newer)."
    exit 1
  fi
  say "building oras $version (once; it takes half a minute) ..."
  start=$SECONDS
  cd "$here"
  # Built under another name, so that an interrupted build leaves no half program behind.
  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$out/.oras.part" "$module/cmd/oras"
  mv "$out/.oras.part" "$out/oras"
  say "built oras in $((SECONDS - start)) s"
fi
printf '%s\n' "$out"
