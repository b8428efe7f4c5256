# Builds the project's images from this tree, loads them, and installs the charts with them.
# shellcheck shell=bash

ROOT=$(cd "$HERE/../.." && pwd)
TARGET=x86_64-unknown-linux-gnu
BINARIES=${CARGO_TARGET_DIR:-$ROOT/target}/$TARGET

# Static binaries on an empty image. The tag is a hash of the binary: what has not changed is not loaded again, and what
# has is not taken for the same.
images() {
    built
    binaries
    load node-image node
    load operator operator
}

# crt-static on the gnu target: a binary needs nothing of its image and still resolves service names. The node is optimized
# across crates, which pays there alone and takes minutes for whatever knows the types of Kubernetes.
binaries() {
    local quiet=--quiet
    [ -x "$BINARIES/tools/quorate-e2e" ] || quiet=
    say "building quorate-node, quorate-operator and quorate-e2e${quiet:+ if they changed}"
    static_build --release -p quorate-server $quiet
    static_build --profile tools -p quorate-operator -p quorate-e2e $quiet
}

static_build() { (cd "$ROOT" && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --target "$TARGET" "$@"); }

binary() { [ "$1" = node ] && echo "$BINARIES/release/quorate-node" || echo "$BINARIES/tools/quorate-$1"; }

tag() { sha256sum "$(binary "$1")" "$ROOT"/*/Dockerfile | sha256sum | cut -c1-12; }

# Where images go that are not loaded into nodes directly.
repository() { echo "${QUORATE_REGISTRY:-quorate}/$1"; }

load() {
    local folder=$1 name=$2 image context
    image=$(repository "$name"):$(tag "$name")
    [ -n "$(nodes)" ] || [ -n "${QUORATE_REGISTRY:-}" ] ||
        fail "this cluster's nodes take no images from here: set QUORATE_REGISTRY to a registry that both reach"
    docker_ image inspect "$image" >/dev/null 2>&1 && on_every_node "$image" && return
    say "loading $image"
    context=$(mktemp -d)
    cp "$ROOT/$folder/Dockerfile" "$context/"
    strip -o "$context/quorate-$name" "$(binary "$name")"
    DOCKER_BUILDKIT=0 docker_ build -q -t "$image" "$context" >/dev/null
    rm -rf "$context"
    if [ -n "$(nodes)" ]; then
        in_network kind load docker-image --name "$NAME" "$image" >/dev/null 2>&1 || fail "cannot load $image into the nodes"
    else
        docker_ push -q "$image" >/dev/null || fail "cannot push $image"
    fi
}

on_every_node() {
    local node
    [ -n "$(nodes)" ] || return 1
    for node in $(nodes); do
        docker_ exec "$node" ctr -n k8s.io images ls -q "name==docker.io/$1" 2>/dev/null | grep -q . || return 1
    done
}

install() {
    local release=${1:-quorate}
    in_network helm upgrade --install quorate-crds "$ROOT/charts/quorate-crds" --namespace quorate-system --create-namespace >/dev/null
    in_network helm upgrade --install "$release" "$ROOT/charts/quorate" --namespace quorate-system \
        --set image.repository="$(repository operator)" --set nodeImage.repository="$(repository node)" \
        --set image.tag="$(tag operator)" --set nodeImage.tag="$(tag node)" --set log.filter="${QUORATE_LOG:-info}" >/dev/null
    kubectl_ -n quorate-system rollout status "deployment/$release-operator" --timeout=120s >/dev/null ||
        fail "the operator does not get ready: cluster.sh run kubectl -n quorate-system get pods"
    say "the operator runs (release $release)"
}

uninstall() {
    in_network helm uninstall "${1:-quorate}" --namespace quorate-system --ignore-not-found --wait --timeout 60s >/dev/null 2>&1
}
