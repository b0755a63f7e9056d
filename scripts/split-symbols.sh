#!/usr/bin/env bash
# split-symbols.sh PROGRAM FOLDER: puts PROGRAM without its symbols into FOLDER, and the symbols beside it as NAME.debug, which
# debuggers find by the link in the program, and perf by its build ID.
set -euo pipefail
program=$1 folder=$2
name=$(basename "$program")
mkdir -p "$folder"
objcopy --only-keep-debug --compress-debug-sections=zlib "$program" "$folder/$name.debug"
objcopy --strip-unneeded --add-gnu-debuglink="$folder/$name.debug" "$program" "$folder/$name"
chmod 0644 "$folder/$name.debug"
chmod 0755 "$folder/$name"
