#!/usr/bin/env bash
# A Kubernetes cluster for tests, on a machine that may have nothing for it: no Docker engine, no registry, no kubectl.
# See `cluster.sh help` and README.md. Everything built is cached by a hash of what it is built from.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib/common.sh
. "$HERE/lib/common.sh"
# shellcheck source=lib/build.sh
. "$HERE/lib/build.sh"
# shellcheck source=lib/engine.sh
. "$HERE/lib/engine.sh"
# shellcheck source=lib/faults.sh
. "$HERE/lib/faults.sh"
# shellcheck source=lib/install.sh
. "$HERE/lib/install.sh"
places_of_builds
choose_mode

help() {
    cat <<'TEXT'
cluster.sh COMMAND
  build                 build what is missing (minutes, once); the others do it by themselves
  up                    start the cluster, or use the one that runs
  down                  stop it and leave nothing behind
  status                what runs, and how to reach it
  bin                   print the folder of kubectl, helm, kube-apiserver and etcd, built if missing
  env                   print what a shell needs: eval "$(cluster.sh env)"
  run CMD...            run a command in the cluster's network, with kubectl, helm, kind and docker on the PATH
  e2e ARGS...           run quorate-e2e of this tree
  images                build the operator's and the node's image from this tree and load them
  install [RELEASE]     install both charts with these images, or upgrade them (release: quorate)
  uninstall [RELEASE]   remove the operator; stores and their definition stay
  node NODE CMD...      run a command on a node
  in-node NODE CMD...   run a command of this machine in the network of a node: pods have no way to here
  pids NS POD           the process ids of a pod's containers, as this machine sees them
  node-of NS POD        the node that a pod runs on
  places                where the networks and the kubeconfig are, for programs
  volumes               make the volumes of deleted claims free again
  small-volumes MIB     make a volume of that size on every worker, of class `small`: a disk that can be filled
  dump DIR [NS]         resources, events and logs into a folder
  fault NAME ARGS...    see `cluster.sh fault`
TEXT
}

status() {
    if ! cluster_runs; then
        echo "no cluster runs: cluster.sh up"
        return 1
    fi
    kubectl_ get nodes
    cat <<TEXT
state:      $STATE
kubeconfig: $KUBECONFIG
reach it:   $HERE/cluster.sh run kubectl get rstore
stop it:    $HERE/cluster.sh down
TEXT
}

env_() {
    printf 'export KUBECONFIG=%q DOCKER_HOST=%q PATH=%q:"$PATH"\n' "$KUBECONFIG" "${DOCKER_HOST:-}" "$PROGRAMS"
}

places() {
    local network=/proc/self/ns/net clients node pid
    cluster_runs || fail "no cluster runs: cluster.sh up"
    node=$(control_plane)
    [ "$MODE" != own ] || network=/run/netns/$NAME
    clients=$network
    if pid=$(docker_ inspect -f '{{.State.Pid}}' "$node" 2>/dev/null); then
        clients=/proc/$pid/ns/net
    fi
    cat <<TEXT
network=$network
clients=$clients
kubeconfig=$KUBECONFIG
control-plane=$node
TEXT
}

dump() {
    local folder=$1 namespaces=${2:-}
    mkdir -p "$folder"
    kubectl_ get all,pvc,pv,pdb,lease,replicatedstores,events -A -o wide >"$folder/resources.txt" 2>&1 || true
    kubectl_ get replicatedstores -A -o yaml >"$folder/stores.yaml" 2>&1 || true
    kubectl_ get events -A --sort-by=.lastTimestamp >"$folder/events.txt" 2>&1 || true
    local namespace pod
    kubectl_ get pods -A --no-headers -o custom-columns=N:.metadata.namespace,P:.metadata.name 2>/dev/null |
        while read -r namespace pod; do
            [ -z "$namespaces" ] || [ "$namespace" = "$namespaces" ] || [ "$namespace" = kube-system ] || continue
            kubectl_ -n "$namespace" logs "$pod" --all-containers >"$folder/$namespace.$pod.log" 2>&1 </dev/null || true
            kubectl_ -n "$namespace" logs "$pod" --all-containers --previous >"$folder/$namespace.$pod.previous.log" 2>/dev/null </dev/null ||
                rm -f "$folder/$namespace.$pod.previous.log"
        done
    local node
    for node in $(nodes); do
        docker_ exec "$node" journalctl -u kubelet --no-pager -n 2000 >"$folder/$node.kubelet.log" 2>&1 || true
    done
    echo "$folder"
}

command=${1:-help}
shift || true
case $command in
    help | status | places | images | install | uninstall | dump | fault | volumes) "$command" "$@" ;;
    small-volumes) small_volumes "$@" ;;
    build) built ;;
    up) up ;;
    down) down ;;
    env) env_ ;;
    bin) built && echo "$PROGRAMS" ;;
    run) in_network "$@" ;;
    e2e) binaries && exec "$BINARIES/tools/quorate-e2e" "$@" ;;
    node) on_node "$@" ;;
    in-node) in_node "$@" ;;
    pids) pids "$@" ;;
    node-of) node_of "$@" ;;
    *)
        help >&2
        exit 2
        ;;
esac
