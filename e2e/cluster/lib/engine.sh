# Starts and stops the cluster, and the engine below it if that is ours; mends what a crash left.
# shellcheck shell=bash

engine_runs() { docker_ info >/dev/null 2>&1; }

# Whether there is a cluster that answers.
cluster_runs() {
    if [ "$MODE" = given ]; then
        kubectl_ get --raw /readyz --request-timeout=5s >/dev/null 2>&1
    else
        engine_runs && [ -n "$(nodes)" ]
    fi
}

# The engine runs in a network namespace without a way out, with everything of its own under $STATE.
start_engine() {
    engine_runs && return
    mkdir -p "$STATE"
    ip netns add "$NAME" 2>/dev/null || true
    ip -n "$NAME" link set lo up
    # What a killed engine left would stop the next one.
    rm -f "$STATE/docker.pid" "$STATE/docker.sock" "$STATE/run/containerd/containerd.pid"
    cat >"$STATE/daemon.json" <<JSON
{
  "data-root": "$STATE/root", "exec-root": "$STATE/run", "pidfile": "$STATE/docker.pid",
  "hosts": ["unix://$STATE/docker.sock"], "storage-driver": "overlay2", "oom-score-adjust": 0, "dns": ["127.0.0.1"],
  "runtimes": {"runc-less": {"path": "$PROGRAMS/runc-less"}}, "default-runtime": "runc-less"
}
JSON
    PATH=$PROGRAMS:$PATH setsid nsenter --net="/run/netns/$NAME" unshare -m --propagation private \
        dockerd --config-file "$STATE/daemon.json" >"$STATE/engine.log" 2>&1 9>&- &
    await 20 engine_runs || fail "the engine does not start: see $STATE/engine.log"
}

# Waits up to $1 seconds for a command to succeed.
await() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.3
    done
}

healthy() {
    [ "$(docker_ ps -q --filter "label=io.x-k8s.kind.cluster=$NAME" | wc -l)" = 4 ] || return 1
    [ "$(kubectl_ get nodes --no-headers --request-timeout=2s 2>/dev/null | grep -c ' Ready ')" = 4 ]
}

up() {
    case $MODE in
        given)
            cluster_runs || fail "the cluster of $QUORATE_KUBECONFIG does not answer"
            say "using the cluster of $QUORATE_KUBECONFIG"
            ;;
        host) up_host || { say "it cannot be made on this machine's engine: starting one of our own" && own_engine && up_own; } ;;
        own) up_own ;;
    esac
}

up_host() {
    built
    mkdir -p "$STATE"
    if healthy; then
        say "the cluster runs"
        return
    fi
    [ -z "$(nodes)" ] || in_network kind delete cluster --name "$NAME" >/dev/null 2>&1
    say "creating the cluster on this machine's Docker engine (a minute or two)"
    in_network kind create cluster --name "$NAME" --config "$HERE/kind.yaml" --wait 120s >"$STATE/kind.log" 2>&1 &&
        await 120 healthy && say "the cluster runs"
}

up_own() {
    built
    if engine_runs && healthy; then
        say "the cluster runs"
        return
    fi
    start_engine
    if [ -n "$(nodes)" ]; then
        say "starting the cluster that was there"
        # shellcheck disable=SC2046
        docker_ unpause $(nodes) >/dev/null 2>&1 || true
        # shellcheck disable=SC2046
        docker_ start $(nodes) >/dev/null 2>&1 || true
        if await 90 healthy; then
            say "the cluster runs"
            return
        fi
        say "it does not come back: making it anew"
        in_network kind delete cluster --name "$NAME" >/dev/null 2>&1 || true
    fi
    if ! docker_ image inspect "$NODE_IMAGE" >/dev/null 2>&1; then
        say "importing the node image"
        docker_ import --change 'ENV container=docker' --change 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]' \
            "$NODE_ARCHIVE" "$NODE_IMAGE" >/dev/null
    fi
    say "creating the cluster (under a minute)"
    in_network kind create cluster --name "$NAME" --config "$HERE/kind.yaml" --image "$NODE_IMAGE" --wait 120s >"$STATE/kind.log" 2>&1 ||
        fail "kind failed: see $STATE/kind.log"
    await 120 healthy || fail "not all nodes get Ready: cluster.sh run kubectl get nodes"
    volumes
    say "the cluster runs"
}

# Local volumes: a folder of a worker each. Those whose claim is gone are emptied and made anew.
volumes() {
    local node number name
    # Other clusters have a provisioner that makes volumes and removes them.
    [ "$MODE" = own ] || return 0
    for name in $(kubectl_ get pv --no-headers 2>/dev/null | awk '$5 == "Released" || $5 == "Failed" {print $1}'); do
        kubectl_ delete pv "$name" --wait=true >/dev/null
        docker_ exec "${name%-volume-*}" sh -c "rm -rf /var/quorate-volumes/${name##*-volume-}/* /var/quorate-volumes/${name##*-volume-}/.[!.]*"
    done
    for node in $(workers); do
        docker_ exec "$node" sh -c "for n in \$(seq $VOLUMES); do mkdir -p /var/quorate-volumes/\$n; done"
        for number in $(seq "$VOLUMES"); do
            cat <<YAML
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: $node-volume-$number}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: standard
  local: {path: /var/quorate-volumes/$number}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]}]}}
YAML
        done
    done | kubectl_ apply -f - >/dev/null
}

# One small volume on every worker, of class `small` and in memory, for those who want to see a disk fill up.
small_volumes() {
    local node mebibytes=${1:?size in MiB}
    [ "$MODE" = own ] || cannot "this cluster's volumes are not ours: a small one cannot be made"
    for node in $(workers); do
        kubectl_ delete pv "$node-volume-small" --ignore-not-found --wait=true >/dev/null
        docker_ exec "$node" sh -c "d=/var/quorate-volumes/small; umount \$d 2>/dev/null; mkdir -p \$d && mount -t tmpfs -o size=${mebibytes}m,mode=0777 tmpfs \$d"
        cat <<YAML
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: $node-volume-small}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: small
  local: {path: /var/quorate-volumes/small}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]}]}}
YAML
    done | kubectl_ apply -f - >/dev/null
}

down() {
    case $MODE in
        given) fail "the cluster of $QUORATE_KUBECONFIG is not ours to stop: cluster.sh uninstall" ;;
        host)
            in_network kind delete cluster --name "$NAME" >/dev/null 2>&1 || true
            rm -rf "$STATE"
            say "nothing is left"
            return
            ;;
    esac
    if engine_runs; then
        in_network kind delete cluster --name "$NAME" >/dev/null 2>&1 || true
        kill "$(cat "$STATE/docker.pid")" 2>/dev/null || true
        await 20 gone || true
    fi
    ip netns del "$NAME" 2>/dev/null || true
    rm -rf "$STATE"
    find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -name docker -type d -empty -exec rmdir {} + 2>/dev/null || true
    say "nothing is left"
}

gone() { [ ! -e "$STATE/docker.pid" ]; }
