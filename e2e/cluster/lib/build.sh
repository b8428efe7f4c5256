# Builds what the cluster is made of: an engine, the programs of Kubernetes, the node image.
# shellcheck shell=bash

PACKAGES="containerd runc iptables iproute2 debootstrap busybox-static jq gcc libc6-dev"
NODE_PACKAGES=systemd,systemd-sysv,dbus,conntrack,iptables,nftables,iproute2,ethtool,kmod,e2fsprogs,ca-certificates,curl,jq,procps,socat,containerd,runc,containernetworking-plugins,iputils-ping

# Builds what is missing. Safe to run twice, also at the same time.
built() {
    # Kubernetes' own tools are enough for a cluster that is not made from these parts.
    [ "$MODE" = own ] || ! command -v kubectl helm kind >/dev/null || return 0
    [ -f "$PROGRAMS/complete" ] && [ -f "$NODE_ARCHIVE" ] && packages_present && return
    mkdir -p "$CACHE_ROOT"
    exec 9>"$CACHE_ROOT/kind.lock"
    flock -n 9 || { say "another build is under way: waiting for it" && flock 9; }
    packages
    if [ ! -f "$PROGRAMS/complete" ]; then
        programs_ "$PROGRAMS"
        touch "$PROGRAMS/complete"
    fi
    if [ ! -f "$NODE_ARCHIVE" ]; then
        say "node image (about 2 minutes, once)"
        node_image_ "$PROGRAMS" "$NODE_ARCHIVE"
    fi
    exec 9>&-
}

programs_() {
    local bin=$1
    mkdir -p "$bin"
    engine_ "$bin"
    say "Kubernetes $KUBERNETES from Go modules (about 6 minutes, once)"
    kubernetes_ "$bin"
    say "kind, helm, CoreDNS (about 4 minutes, once)"
    [ -x "$bin/kind" ] || GOBIN=$bin go install "sigs.k8s.io/kind@$KIND"
    [ -x "$bin/helm" ] || GOBIN=$bin go install "helm.sh/helm/v4/cmd/helm@$HELM"
    [ -x "$bin/coredns" ] || (cd "$HERE/coredns" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$bin/coredns" .)
    pause_ "$bin"
}

packages_present() {
    local package
    for package in $PACKAGES; do
        dpkg -s "$package" >/dev/null 2>&1 || return 1
    done
}

packages() {
    local missing=() package
    for package in $PACKAGES; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "Debian packages: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Debian's engine, unpacked and not installed: it must not start by itself.
engine_() {
    local bin=$1 scratch
    [ -x "$bin/dockerd" ] && return
    say "Docker engine"
    scratch=$(mktemp -d)
    (
        cd "$scratch"
        # apt drops its privileges where it may write.
        chmod 777 .
        apt-get download -qq docker.io 2>/dev/null || { apt-get update -qq && apt-get download -qq docker.io; }
        dpkg -x docker.io_*.deb engine
        cp engine/usr/sbin/docker-proxy engine/usr/bin/docker "$bin/"
        cp engine/usr/sbin/dockerd "$bin/dockerd.part"
        mv "$bin/dockerd.part" "$bin/dockerd"
    )
    rm -rf "$scratch"
    cp "$HERE/node/runc-less" "$bin/"
}

kubernetes_() {
    local bin=$1 package=k8s.io/component-base/version
    if [ ! -x "$bin/kubernetes" ]; then
        (
            cd "$HERE/kubernetes"
            CGO_ENABLED=0 go build -trimpath -o "$bin/kubernetes" -ldflags "-s -w -X $package.gitVersion=$KUBERNETES -X $package.gitMajor=1 \
                -X $package.gitMinor=35 -X $package.gitTreeState=clean -X $package.gitCommit=$(printf '0%.0s' {1..40}) \
                -X $package.buildDate=2026-01-01T00:00:00Z" .
        )
    fi
    local name
    for name in kubectl kube-apiserver etcd; do ln -sf kubernetes "$bin/$name"; done
}

pause_() {
    local source
    [ -x "$1/pause" ] && return
    source=$(cd "$HERE/kubernetes" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)/build/pause/linux/pause.c
    gcc -Os -static -DVERSION=3.10.1 -o "$1/pause" "$source"
}

# A root file system from Debian, with kind's own files in it, and every image preloaded.
node_image_() {
    local bin=$1 archive=$2 scratch root files unit
    scratch=$archive.building
    root=$scratch/rootfs
    rm -rf "$scratch"
    mkdir -p "$scratch"
    debootstrap --variant=minbase --include=$NODE_PACKAGES bookworm "$root" >"$scratch/debootstrap.log"
    files=$(go mod download -json "sigs.k8s.io/kind@$KIND" | jq -r .Dir)/images/base/files
    cp -r --no-preserve=mode "$files/." "$root/"
    chmod 755 "$root/kind" "$root/kind/bin" "$root"/kind/bin/* "$root"/usr/local/bin/*
    # As kind's own image does: nothing starts but what is named here.
    rm -f "$root"/lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* "$root"/etc/systemd/system/*.wants/* \
        "$root"/lib/systemd/system/sockets.target.wants/*{udev,initctl}* \
        "$root"/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service
    echo ReadKMsg=no >>"$root/etc/systemd/journald.conf"
    for unit in kubelet containerd undo-mount-hacks; do chroot "$root" systemctl -q enable "$unit.service"; done
    chroot "$root" systemctl -q mask systemd-binfmt.service
    mkdir -p "$root"/etc/kubernetes/manifests "$root"/opt/cni/bin "$root"/kind/manifests "$root"/etc/cni/net.d
    ln -sf /usr/bin/containerd /usr/bin/ctr /usr/bin/containerd-shim-runc-v2 "$root/usr/local/bin/"
    for unit in host-local loopback ptp portmap; do ln -sf "/usr/lib/cni/$unit" "$root/opt/cni/bin/$unit"; done
    chroot "$root" ctr oci spec |
        jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' >"$root/etc/containerd/cri-base.json"
    sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/; s#pause:3.10"#pause:3.10.1"#' "$root/etc/containerd/config.toml"
    printf %s "$KUBERNETES" >"$root/kind/version"
    cp "$HERE/manifests/network.yaml" "$root/kind/manifests/default-cni.yaml"
    cp "$HERE/manifests/storage.yaml" "$root/kind/manifests/default-storage.yaml"
    cp "$bin/kubernetes" "$root/usr/bin/"
    for unit in kubelet kubeadm kubectl; do ln -sf kubernetes "$root/usr/bin/$unit"; done
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
    python3 "$HERE/node/archive.py" "$root" "$bin" "$KUBERNETES" "$scratch/images.tar"
    preload_ "$root" "$scratch/images.tar"
    tar -C "$root" --numeric-owner --exclude='./dev/*' -cf "$scratch/node.tar" .
    mv "$scratch/node.tar" "$archive"
    rm -rf "$scratch"
}

# Imports the images with the containerd that will run them.
preload_() {
    local root=$1 archive=$2 scratch pid
    scratch=$(mktemp -d)
    cat >"$scratch/config.toml" <<TOML
version = 2
root = "$root/var/lib/containerd"
state = "$scratch/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$scratch/socket"
TOML
    "$root/usr/bin/containerd" -c "$scratch/config.toml" >"$scratch/log" 2>&1 &
    pid=$!
    for _ in $(seq 100); do
        "$root/usr/bin/ctr" -a "$scratch/socket" version >/dev/null 2>&1 && break
        sleep 0.1
    done
    "$root/usr/bin/ctr" -a "$scratch/socket" -n k8s.io images import "$archive" >/dev/null
    kill "$pid"
    wait "$pid" || true
    rm -rf "$scratch"
}
