#!/usr/bin/env bash
# Installs what tests/tools/logind/logind.py needs (a D-Bus library for Python, with which it is the logind of tests) into a cache
# folder, and prints the Python of that. The version is pinned.
. "$(dirname "${BASH_SOURCE[0]}")/../python-tool.sh"

python_programs
printf '%s\n' "$out/venv/bin/python"
