# Shared by the build.sh of programs and data of others that come from Python's package index. Progress goes to standard error, so
# that a script can print where they are. KUBEWASM_NO_INSTALL=1 makes it only say what is missing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)
tool=$(basename "$here")
# The packages, their versions, and options of pip.
pins=$here/requirements.txt

say() { printf '%s: %s\n' "$tool" "$*" >&2; }

# Sets `out`, the folder for what is pinned, which is this script's alone until it ends.
pinned() {
  local cache=${KUBEWASM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubewasm}
  out=$cache/$tool/$(cat "$pins" "$here/build.sh" "${BASH_SOURCE[0]}" | sha256sum | cut -c1-12)
  mkdir -p "$out"
  exec 9>"$out/.lock"
  flock 9
}

# environment FOLDER: makes a virtual environment, for this session of the script or for good.
environment() {
  if [ -n "${KUBEWASM_NO_INSTALL:-}" ]; then
    say "error: it is not installed in $out. Unset KUBEWASM_NO_INSTALL to have it done here."
    exit 1
  fi
  python3 -m venv --clear "$1" || { say "error: Python has no venv; on Debian: apt-get install python3-venv"; exit 1; }
}

# python_programs: installs what is pinned into a virtual environment, `out/venv`, unless it is there.
python_programs() {
  pinned
  [ ! -e "$out/installed" ] || return 0
  say "installing it into $out (once) ..."
  environment "$out/venv"
  "$out/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$pins" >&2
  touch "$out/installed"
  say "done."
}

# python_source FOLDER: unpacks a folder of the source of the one package that is pinned to `out/FOLDER`, unless it is there.
python_source() {
  pinned
  [ ! -d "$out/$1" ] || return 0
  say "fetching its source into $out (once) ..."
  local part=$out/.part
  rm -rf "$part"
  environment "$part/venv"
  "$part/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary :all: --requirement "$pins" \
    --dest "$part" >&2
  tar -xzf "$part"/*.tar.gz -C "$part" --strip-components=1
  mkdir -p "$(dirname "$out/$1")"
  mv "$part/$1" "$out/$1"
  rm -rf "$part"
  say "done."
}
