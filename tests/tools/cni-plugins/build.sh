#!/usr/bin/env bash
# Puts the reference plugins of CNI, which the tests of --network=cni give pods their networks by, into a cache folder, and
# prints that folder's path, alone.
. "$(dirname "${BASH_SOURCE[0]}")/../go-tool.sh"

go_module github.com/containernetworking/plugins
for plugin in main/bridge ipam/host-local meta/portmap meta/bandwidth meta/firewall; do
  go_program "${plugin##*/}" "plugins/$plugin" "-X $module/pkg/utils/buildversion.BuildVersion=$version"
done
printf '%s\n' "$out"
