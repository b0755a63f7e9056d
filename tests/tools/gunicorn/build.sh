#!/usr/bin/env bash
# Puts the requests that gunicorn's tests hold its parser against (a corpus of HTTP/1.1 that nobody here wrote) into a cache
# folder, and prints that folder's path, alone: `valid` and `invalid` are in it.
. "$(dirname "${BASH_SOURCE[0]}")/../python-tool.sh"

python_source tests/requests
printf '%s\n' "$out/tests/requests"
