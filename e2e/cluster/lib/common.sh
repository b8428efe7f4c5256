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
export GOTOOLCHAIN=local

say() { printf '%5ss  %s\n' "$SECONDS" "$*" >&2; }
fail() {
    echo "cluster: $*" >&2
    exit 1
}

# Which cluster: the one of QUORATE_KUBECONFIG if that is set (given); kind on this machine's Docker engine (host); kind on
# an engine of our own (own), where there is none, where it could not pull, or where QUORATE_OWN_ENGINE is set.
choose_mode() {
    if [ -n "${QUORATE_KUBECONFIG:-}" ]; then
        MODE=given
        export KUBECONFIG=$QUORATE_KUBECONFIG
        return
    fi
    export KUBECONFIG=$STATE/kubeconfig
    if [ ! -e "/run/netns/$NAME" ] && [ -z "${QUORATE_OWN_ENGINE:-}" ] && docker info >/dev/null 2>&1; then
        MODE=host
    else
        own_engine
    fi
}
own_engine() {
    MODE=own
    export DOCKER_HOST=unix://$STATE/docker.sock
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

# A command where the cluster is reached. Not `ip netns exec`: that would hide the cgroups.
in_network() {
    if [ "$MODE" = own ]; then
        PATH=$PROGRAMS:$PATH nsenter --net="/run/netns/$NAME" "$@"
    else
        PATH=$PATH:$PROGRAMS "$@"
    fi
}
docker_() {
    if [ "$MODE" = own ]; then
        "$PROGRAMS/docker" "$@"
    else
        docker "$@"
    fi
}

# The exit status of what this cluster cannot do.
CANNOT=3
cannot() {
    echo "cluster: not on this cluster: $*" >&2
    exit $CANNOT
}

# A cluster whose nodes are not containers of an engine that we reach gives no shell on them.
node_container() {
    docker_ inspect -f '{{.State.Pid}}' "$1" 2>/dev/null || cannot "no shell on node $1"
}
on_node() {
    node_container "$1" >/dev/null
    docker_ exec -i "$@"
}

kubectl_() { in_network kubectl "$@"; }
nodes() { docker_ ps -a --filter "label=io.x-k8s.kind.cluster=$NAME" --format '{{.Names}}' | sort; }
workers() { nodes | grep worker; }
control_plane() { kubectl_ get nodes -l node-role.kubernetes.io/control-plane -o jsonpath='{.items[0].metadata.name}'; }
in_node() {
    local node=$1 pid
    shift
    pid=$(node_container "$node")
    PATH=$PROGRAMS:$PATH nsenter --net="/proc/$pid/ns/net" "$@"
}
node_of() { kubectl_ -n "$1" get pod "$2" -o jsonpath='{.spec.nodeName}'; }
