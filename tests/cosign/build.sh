#!/usr/bin/env bash
# Puts cosign, with which the tests of signatures sign their images, into a cache folder outside the source tree, and
# prints the program's path, alone, on standard output. Progress goes to standard error.
#
# A program named by $KUBEWASM_COSIGN is used as it is; else the version pinned in go.mod is built, once per change of
# go.mod, go.sum or this script.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KUBEWASM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubewasm}
module=github.com/sigstore/cosign/v3
version=$(awk -v module="$module" '$1 == module {print $2}' "$here/go.mod")
key=$(cat "$here/go.mod" "$here/go.sum" "$here/build.sh" | sha256sum | cut -c1-12)
out=$cache/tools/cosign-$version-$key

say() { printf 'cosign: %s\n' "$*" >&2; }

if [ -n "${KUBEWASM_COSIGN:-}" ]; then
  printf '%s\n' "$KUBEWASM_COSIGN"
  exit 0
fi

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

if [ ! -x "$out/cosign" ]; then
  if ! command -v go >/dev/null; then
    say "error: cosign cannot be built, because Go is not installed."
    say "Install Go (version $(awk '$1 == "go" {print $2}' "$here/go.mod") or newer), or name a cosign of version 3 in KUBEWASM_COSIGN."
    exit 1
  fi
  say "building cosign $version (once; it takes some minutes) ..."
  start=$SECONDS
  # Built under another name, so that an interrupted build leaves no half program behind.
  (cd "$here" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$out/.cosign.part" "$module/cmd/cosign")
  mv "$out/.cosign.part" "$out/cosign"
  say "built cosign in $((SECONDS - start)) s"
fi
printf '%s\n' "$out/cosign"
