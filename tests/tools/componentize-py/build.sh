#!/usr/bin/env bash
# Installs componentize-py (which makes components of guests in Python) into a cache folder, and prints the folder of its
# programs, alone.
. "$(dirname "${BASH_SOURCE[0]}")/../python-tool.sh"

python_programs
printf '%s\n' "$out/venv/bin"
