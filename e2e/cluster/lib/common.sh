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

# Folders of what is built, named by what it is built from: the programs, which take minutes, and the node image.
places_of_builds() {
    PROGRAMS=$CACHE_ROOT/programs-$(digest kubernetes coredns node/runc-less -- programs_ engine_ kubernetes_ pause_)
    NODE_ARCHIVE=$CACHE_ROOT/node-$(digest kubernetes coredns node manifests -- programs_ kubernetes_ pause_ node_image_ preload_).tar
}

# A hash over files, the functions that build from them, and the versions.
digest() {
    local inputs=()
    while [ "$1" != -- ]; do
        inputs+=("$1")
        shift
    done
    shift
    {
        echo "$KIND $HELM $KUBERNETES $NODE_PACKAGES"
        declare -f "$@"
        cd "$HERE" && find "${inputs[@]}" -type f | LC_ALL=C sort | xargs cat
    } | sha256sum | cut -c1-16
}

# A command in the cluster's network namespace. Not `ip netns exec`: that would hide the cgroups.
in_network() {
    PATH=$PROGRAMS:$PATH nsenter --net="/run/netns/$NAME" "$@"
}
docker_() { "$PROGRAMS/docker" "$@"; }
kubectl_() { in_network kubectl "$@"; }
nodes() { docker_ ps -a --filter "label=io.x-k8s.kind.cluster=$NAME" --format '{{.Names}}' | sort; }
workers() { nodes | grep worker; }
in_node() {
    local node=$1 pid
    shift
    pid=$(docker_ inspect -f '{{.State.Pid}}' "$node")
    PATH=$PROGRAMS:$PATH nsenter --net="/proc/$pid/ns/net" "$@"
}
node_of() { kubectl_ -n "$1" get pod "$2" -o jsonpath='{.spec.nodeName}'; }
