#!/usr/bin/env bash
# Installs moto (a server that speaks S3, for tests of the module store) into a cache folder, and prints the folder of its
# programs, alone. All versions are pinned.
. "$(dirname "${BASH_SOURCE[0]}")/../python-tool.sh"

python_programs
printf '%s\n' "$out/venv/bin"
