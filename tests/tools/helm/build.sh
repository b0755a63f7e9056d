#!/usr/bin/env bash
# Puts helm (which the chart in manifests/ is for) into a cache folder, and prints that folder's path, alone.
. "$(dirname "${BASH_SOURCE[0]}")/../go-tool.sh"

go_module helm.sh/helm/v4
go_program helm cmd/helm
printf '%s\n' "$out"
