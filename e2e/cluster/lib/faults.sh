# Faults. Each has its undoing, and doing either twice does no harm.
# shellcheck shell=bash

fault() {
    local name=${1:-}
    shift || true
    case $name in
        kill-pod) signal_pod KILL "$@" ;;
        freeze-pod) signal_pod STOP "$@" ;;
        thaw-pod) signal_pod CONT "$@" ;;
        pause-node) node_container "$1" >/dev/null && docker_ pause "$1" >/dev/null ;;
        unpause-node) docker_ unpause "$1" >/dev/null ;;
        power-off) node_container "$1" >/dev/null && docker_ kill -s KILL "$1" >/dev/null ;;
        power-on) docker_ start "$1" >/dev/null ;;
        cut) cut_link -A "$@" ;;
        mend) cut_link -D "$@" ;;
        isolate) isolate -A "$@" ;;
        rejoin) isolate -D "$@" ;;
        cut-node) cut_node -A "$1" ;;
        mend-node) cut_node -D "$1" ;;
        # The volume of class `small` on that node; what fits no more is the fault.
        fill-volume) on_node "$1" sh -c 'dd if=/dev/zero of=/var/quorate-volumes/small/filler bs=64k 2>/dev/null; test -s /var/quorate-volumes/small/filler' ;;
        empty-volume) on_node "$1" rm -f /var/quorate-volumes/small/filler ;;
        control-plane-down) node_container "$NAME-control-plane" >/dev/null && docker_ pause "$NAME-control-plane" >/dev/null ;;
        control-plane-up) docker_ unpause "$NAME-control-plane" >/dev/null ;;
        *)
            cat >&2 <<'TEXT'
fault kill-pod NS POD | freeze-pod NS POD | thaw-pod NS POD     SIGKILL, SIGSTOP, SIGCONT to its processes
fault pause-node NODE | unpause-node NODE                       freeze everything on a node
fault power-off NODE | power-on NODE                            as if the plug was pulled
fault cut NODE ADDRESS ADDRESS | mend ...                       drop what goes between two pods, on the node of one of them
fault isolate NODE ADDRESS | rejoin NODE ADDRESS                drop all that goes to and from a pod
fault cut-node NODE | mend-node NODE                            drop all that goes to and from a node and its pods
fault fill-volume NODE | empty-volume NODE                      leave no room on the node's volume of class `small`
fault control-plane-down | control-plane-up                     freeze the API server and all that is beside it
TEXT
            return 2
            ;;
    esac
}

# The processes of a pod's containers but its pause, as this machine sees them: their cgroup names the pod.
pids() {
    local uid file pid
    node_container "$(node_of "$1" "$2")" >/dev/null
    uid=$(kubectl_ -n "$1" get pod "$2" -o jsonpath='{.metadata.uid}')
    [ -n "$uid" ] || fail "there is no pod $1/$2"
    for file in $(grep -l -e "$uid" -e "${uid//-/_}" /proc/[0-9]*/cgroup 2>/dev/null); do
        pid=${file//[^0-9]/}
        [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = pause ] || echo "$pid"
    done
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

# drop_in -A|-D NODE CHAIN MATCH...: adds or removes a rule, once.
drop_in() {
    local action=$1 node=$2
    shift 2
    if [ "$action" = -A ]; then
        on_node "$node" iptables -C "$@" -j DROP 2>/dev/null || on_node "$node" iptables -I "$@" -j DROP
    else
        on_node "$node" iptables -D "$@" -j DROP 2>/dev/null || true
    fi
}

cut_node() {
    drop_in "$1" "$2" INPUT -i eth0
    drop_in "$1" "$2" OUTPUT -o eth0
    drop_in "$1" "$2" FORWARD -i eth0
    drop_in "$1" "$2" FORWARD -o eth0
}

cut_link() {
    drop_in "$1" "$2" FORWARD -s "$3" -d "$4"
    drop_in "$1" "$2" FORWARD -s "$4" -d "$3"
}

isolate() {
    drop_in "$1" "$2" FORWARD -s "$3"
    drop_in "$1" "$2" FORWARD -d "$3"
}
