#!/usr/bin/env bash
# Puts kube-proxy (which leads a client of the tests to Services, as on any other node) into a cache folder, and prints that
# folder's path, alone. It takes a minute.
. "$(dirname "${BASH_SOURCE[0]}")/../go-tool.sh"

go_module k8s.io/kubernetes
go_program kube-proxy cmd/kube-proxy "-X k8s.io/component-base/version.gitVersion=$version"
printf '%s\n' "$out"
