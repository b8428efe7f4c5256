# Faults. Each has its undoing, and doing either twice does no harm.
# shellcheck shell=bash

fault() {
    local name=${1:-}
    shift || true
    case $name in
        kill-pod) signal_pod KILL "$@" ;;
        freeze-pod) signal_pod STOP "$@" ;;
        thaw-pod) signal_pod CONT "$@" ;;
        pause-node) docker_ pause "$1" >/dev/null ;;
        unpause-node) docker_ unpause "$1" >/dev/null ;;
        power-off) docker_ kill -s KILL "$1" >/dev/null ;;
        power-on) docker_ start "$1" >/dev/null ;;
        cut) cut_link -A "$@" ;;
        mend) cut_link -D "$@" ;;
        isolate) isolate -A "$@" ;;
        rejoin) isolate -D "$@" ;;
        control-plane-down) docker_ pause "$NAME-control-plane" >/dev/null ;;
        control-plane-up) docker_ unpause "$NAME-control-plane" >/dev/null ;;
        *)
            cat >&2 <<'TEXT'
fault kill-pod NS POD | freeze-pod NS POD | thaw-pod NS POD     SIGKILL, SIGSTOP, SIGCONT to its processes
fault pause-node NODE | unpause-node NODE                       freeze everything on a node
fault power-off NODE | power-on NODE                            as if the plug was pulled
fault cut NODE ADDRESS ADDRESS | mend ...                       drop what goes between two pods, on the node of one of them
fault isolate NODE ADDRESS | rejoin NODE ADDRESS                drop all that goes to and from a pod
fault control-plane-down | control-plane-up                     freeze the API server and all that is beside it
TEXT
            return 2
            ;;
    esac
}

# The processes of a pod's containers but its pause, by the cgroup that names the pod.
pids() {
    local uid node container
    uid=$(kubectl_ -n "$1" get pod "$2" -o jsonpath='{.metadata.uid}')
    node=$(node_of "$1" "$2")
    for container in $(docker_ exec "$node" crictl ps -q --label "io.kubernetes.pod.uid=$uid" 2>/dev/null); do
        local inner
        inner=$(docker_ exec "$node" crictl inspect -o go-template --template '{{.info.pid}}' "$container")
        outer_pid "$node" "$inner"
    done
}

# The process that a node knows as $2, as this machine knows it.
outer_pid() {
    local init status
    init=$(docker_ inspect -f '{{.State.Pid}}' "$1")
    for status in /proc/[0-9]*/status; do
        # NSpid: ids from this machine's namespace inwards.
        awk -v inner="$2" '/^NSpid:/ && NF >= 3 && $3 == inner {print $2}' "$status" 2>/dev/null
    done | while read -r pid; do
        [ "$(cgroup_of "$pid")" != "$(cgroup_of "$init")" ] && same_node "$pid" "$init" && echo "$pid"
    done
}

cgroup_of() { cat "/proc/$1/cgroup" 2>/dev/null; }

# A process belongs to a node if the node's init is among its ancestors.
same_node() {
    local pid=$1
    while [ "$pid" -gt 1 ]; do
        [ "$pid" = "$2" ] && return 0
        pid=$(awk '/^PPid:/ {print $2}' "/proc/$pid/status" 2>/dev/null || echo 0)
        [ -n "$pid" ] || return 1
    done
    return 1
}

signal_pod() {
    local signal=$1 pid found=
    shift
    for pid in $(pids "$@"); do
        kill "-$signal" "$pid"
        found=1
    done
    [ -n "$found" ] || fail "no process of pod $1/$2 was found"
}

drop() {
    local action=$1 node=$2
    shift 2
    if [ "$action" = -A ]; then
        docker_ exec "$node" iptables -C FORWARD "$@" -j DROP 2>/dev/null || docker_ exec "$node" iptables -I FORWARD "$@" -j DROP
    else
        docker_ exec "$node" iptables -D FORWARD "$@" -j DROP 2>/dev/null || true
    fi
}

cut_link() {
    drop "$1" "$2" -s "$3" -d "$4"
    drop "$1" "$2" -s "$4" -d "$3"
}

isolate() {
    drop "$1" "$2" -s "$3"
    drop "$1" "$2" -d "$3"
}
