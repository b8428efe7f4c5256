# Names, places and small helpers of the cluster script.
# shellcheck shell=bash

KIND=v0.33.0
HELM=v4.3.1
KUBERNETES=v1.35.4
NAME=${QUORATE_CLUSTER:-quorate}
STATE=${QUORATE_STATE:-/var/tmp/quorate-cluster}
CACHE_ROOT=${QUORATE_CACHE:-/var/cache/quorate}
NODE_IMAGE=quorate/kind-node:$KUBERNETES
# Volumes on every worker.
VOLUMES=12
export DOCKER_HOST=unix://$STATE/docker.sock KUBECONFIG=$STATE/kubeconfig GOTOOLCHAIN=local

say() { printf '%5ss  %s\n' "$SECONDS" "$*" >&2; }
fail() {
    echo "cluster: $*" >&2
    exit 1
}

# The folder of what is built, named by what it is built from.
cache() {
    if [ -z "${CACHE:-}" ]; then
        local inputs
        inputs=$(cd "$HERE" && cat kubernetes/* coredns/* node/* manifests/* lib/build.sh lib/common.sh | sha256sum | cut -c1-16)
        CACHE=$CACHE_ROOT/kind-$inputs
    fi
    echo "$CACHE"
}

# A command in the cluster's network namespace. Not `ip netns exec`: that would hide the cgroups.
in_network() {
    PATH=$(cache)/bin:$PATH nsenter --net="/run/netns/$NAME" "$@"
}
docker_() { "$(cache)/bin/docker" "$@"; }
kubectl_() { in_network kubectl "$@"; }
nodes() { docker_ ps -a --filter "label=io.x-k8s.kind.cluster=$NAME" --format '{{.Names}}' | sort; }
workers() { nodes | grep worker; }
in_node() {
    local node=$1 pid
    shift
    pid=$(docker_ inspect -f '{{.State.Pid}}' "$node")
    PATH=$(cache)/bin:$PATH nsenter --net="/proc/$pid/ns/net" "$@"
}
node_of() { kubectl_ -n "$1" get pod "$2" -o jsonpath='{.spec.nodeName}'; }
