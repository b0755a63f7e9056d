#!/usr/bin/env bash
# kind-demo.sh [down]: a cluster of kind (Kubernetes in Docker) and a Wasm node in it: a container beside kind's own, on
# their network. Goes on from where it was interrupted. docs/kind.md explains each step.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cluster=kubewasm
node=kubewasm-node
control_plane=$cluster-control-plane
say() { printf 'kind-demo: %s\n' "$*" >&2; }

# What must be here, all of it in one go: nobody likes to be told one thing at a time.
missing=()
needs() { # COMMAND WHY
  command -v "$1" >/dev/null || missing+=("$1: $2")
}
needs docker "runs the nodes of the cluster; https://docs.docker.com/engine/install/"
needs kind "makes the cluster (0.30 or newer); https://kind.sigs.k8s.io/docs/user/quick-start/#installation"
needs kubectl "talks to the cluster; https://kubernetes.io/docs/tasks/tools/"
needs buildah "writes the image; scripts/setup.sh installs it"
if command -v docker >/dev/null && ! docker info >/dev/null 2>&1; then
  missing+=("a Docker that answers: \`docker info\` says why it does not")
fi
if [ ${#missing[@]} -gt 0 ]; then
  say "error: this machine lacks what the kind walk-through needs:"
  printf '  - %s\n' "${missing[@]}" >&2
  say "\`make demo\` needs none of it: it starts Kubernetes' own programs on this machine, and a Wasm node beside them."
  exit 1
fi

if [ "${1:-up}" = down ]; then
  docker rm --force --volumes "$node" >/dev/null 2>&1 || true
  exec kind delete cluster --name "$cluster"
fi

kubectl() { command kubectl --context "kind-$cluster" "$@"; }

if ! kind get clusters 2>/dev/null | grep -qx "$cluster"; then
  say "making the cluster ..."
  kind create cluster --config "$here/manifests/kind/cluster.yaml" --wait 3m
fi

say "building the image ..."
make -C "$here" image
docker load --input "$here/target/image/kubewasm.tar" >/dev/null

say "joining the Wasm node ..."
kubectl apply -k "$here/manifests/cluster"
if ! docker inspect "$node" >/dev/null 2>&1; then
  folder=$here/target/kind
  mkdir -p "$folder"
  # kind's clusters are kubeadm's: a node's first certificate is approved where it asks with such a token.
  docker exec "$control_plane" kubeadm token create --ttl 1h > "$folder/token"
  docker exec "$control_plane" cat /etc/kubernetes/pki/ca.crt > "$folder/ca.crt"
  cat > "$folder/bootstrap.conf" <<CONF
apiVersion: v1
kind: Config
clusters: [{name: kind, cluster: {server: "https://$control_plane:6443", certificate-authority: /etc/kubewasm/ca.crt}}]
users: [{name: bootstrap, user: {token: "$(cat "$folder/token")"}}]
contexts: [{name: kind, context: {cluster: kind, user: bootstrap}}]
current-context: kind
CONF
  chmod 0600 "$folder/bootstrap.conf" "$folder/token"
  cp "$here/manifests/kind/kubelet.yaml" "$folder/kubelet.yaml"
  # An address of its own on the network of kind's nodes: that is what kindnet lays its routes to.
  docker run --detach --name "$node" --hostname "$node" --network kind --privileged --init --restart unless-stopped \
    --label "io.x-k8s.kubewasm.cluster=$cluster" --volume "$folder:/etc/kubewasm:ro" --volume /var/lib/kubewasm \
    kubewasm:latest node --hostname-override="$node" --bootstrap-kubeconfig=/etc/kubewasm/bootstrap.conf \
    --kubeconfig=/var/lib/kubewasm/kubeconfig --config=/etc/kubewasm/kubelet.yaml --pod-logs-dir=/var/lib/kubewasm/logs \
    --network=pod >/dev/null
fi
kubectl wait --for=create "node/$node" --timeout=2m
kubectl wait --for=condition=Ready "node/$node" --timeout=2m
kubectl get nodes -o wide
say "the node is there. docs/kind.md goes on from here; \`scripts/kind-demo.sh down\` removes everything."
