#!/usr/bin/env bash
# Puts metrics-server (which asks nodes what pods use, and serves it to kubectl top and to autoscalers) into a cache folder, and
# prints that folder's path, alone. It takes a minute.
. "$(dirname "${BASH_SOURCE[0]}")/../go-tool.sh"

go_module sigs.k8s.io/metrics-server
go_program metrics-server cmd/metrics-server "-X k8s.io/client-go/pkg/version.gitVersion=$version"
printf '%s\n' "$out"
