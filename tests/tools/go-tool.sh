# Shared by the build.sh of programs of others that are written in Go. Builds what is pinned in the go.mod beside the script that
# sources this into a cache folder outside the source tree, once per change of go.mod, go.sum or the scripts. Progress goes to
# standard error, so that a script can print where its programs are.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)
tool=$(basename "$here")
# Added to the advice where Go is not installed: another way to get the program.
otherwise=

say() { printf '%s: %s\n' "$tool" "$*" >&2; }

# go_module MODULE: the Go module that the programs are in. Sets `module`, `version` and `out`, their folder, which is this
# script's alone until it ends.
go_module() {
  local cache=${KUBEWASM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubewasm} key
  module=$1
  version=$(awk -v module="$module" '$1 == module {print $2}' "$here/go.mod")
  key=$(cat "$here/go.mod" "$here/go.sum" "$here/build.sh" "${BASH_SOURCE[0]}" | sha256sum | cut -c1-12)
  out=$cache/$tool/$version-$key
  mkdir -p "$out"
  exec 9>"$out/.lock"
  flock 9
}

# go_program NAME PACKAGE [LDFLAGS]: builds a program, unless it is there. The package is a path in the module.
go_program() {
  local name=$1 package=$2 flags=${3:-} start=$SECONDS
  [ ! -x "$out/$name" ] || return 0
  if ! command -v go >/dev/null; then
    say "error: $name cannot be built, because Go is not installed."
    say "Install Go (version $(awk '$1 == "go" {print $2}' "$here/go.mod") or newer)${otherwise:+, or $otherwise}."
    exit 1
  fi
  say "building $name $version (once) ..."
  # Built under another name, so that an interrupted build leaves no half program behind.
  (cd "$here" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $flags" -o "$out/.$name.part" "$module/$package")
  mv "$out/.$name.part" "$out/$name"
  say "built $name in $((SECONDS - start)) s"
}
