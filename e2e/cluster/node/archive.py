#!/usr/bin/env python3
"""Writes a docker archive with every image that kubeadm and kind expect to find on a node.

usage: archive.py ROOTFS BIN KUBERNETES_VERSION OUTPUT

One layer holds the programs of Kubernetes (one binary under many names), busybox, and the network tools of ROOTFS with
the libraries that they need; CoreDNS and pause have a layer each. Nothing is pulled.
"""

import glob
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

ROOTFS, BIN, VERSION, OUTPUT = sys.argv[1:]
APPLETS = """sh cat ls sleep grep sed mkdir mv rm echo date hostname httpd wget nc nslookup ping test awk cut mount df
    env ps id head tail tr touch chmod kill""".split()
KUBERNETES = "etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl".split()
IPTABLES = [v + t for v in ("iptables", "ip6tables") for t in ("", "-save", "-restore")]


def in_rootfs(*command):
    return subprocess.run(["chroot", ROOTFS, *command], capture_output=True, text=True).stdout


def resolved(path):
    return ROOTFS + in_rootfs("readlink", "-f", path).strip()


def with_libraries(path):
    """A program or library of the root file system and all that it links, by their places in the image."""
    found = {path: resolved(path)}
    for word in in_rootfs("ldd", path).split():
        if word.startswith("/"):
            found[word] = resolved(word)
    return found


def layer(files, links):
    buffer, made = io.BytesIO(), set()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def folder(path):
            if path and path not in made:
                folder(os.path.dirname(path))
                made.add(path)
                info = tarfile.TarInfo(path)
                info.type, info.mode = tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755
                tar.addfile(info)

        for path in ("tmp", "etc", "var", "run", "root"):
            folder(path)
        for path, target in links.items():
            folder(os.path.dirname(path))
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for path, source in sorted(files.items()):
            folder(os.path.dirname(path))
            info = tarfile.TarInfo(path)
            info.mode, info.size = 0o755, os.path.getsize(source)
            with open(source, "rb") as data:
                tar.addfile(info, data)
    return buffer.getvalue()


def main():
    tools = {}
    for program in ("/usr/sbin/nft", "/usr/sbin/xtables-nft-multi", "/usr/sbin/conntrack"):
        tools.update(with_libraries(program))
    ip = next(p for p in ("/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip") if os.path.exists(ROOTFS + p))
    tools.update(with_libraries(ip))
    tools["/usr/sbin/ip"] = tools.pop(ip)
    for extension in glob.glob(ROOTFS + "/usr/lib/x86_64-linux-gnu/xtables/*.so"):
        tools.update(with_libraries(extension[len(ROOTFS):]))
    files = {}
    for path, source in tools.items():
        path = path.lstrip("/")
        # The four top folders are links into /usr.
        files["usr/" + path if path.split("/")[0] in ("lib", "lib64", "bin", "sbin") else path] = source
    files["usr/bin/kubernetes"] = os.path.join(BIN, "kubernetes")
    files["usr/bin/busybox"] = "/usr/bin/busybox" if os.path.exists("/usr/bin/busybox") else "/bin/busybox"
    links = {name: "usr/" + name for name in ("bin", "sbin", "lib", "lib64")}
    links.update({"usr/local/bin/" + name: "/usr/bin/kubernetes" for name in KUBERNETES})
    links.update({"usr/bin/" + name: "busybox" for name in APPLETS})
    links.update({"usr/sbin/" + name: "xtables-nft-multi" for name in IPTABLES})

    registry = "registry.k8s.io/"
    control_plane = [f"{registry}{n}:{VERSION}" for n in KUBERNETES if n.startswith("kube-")]
    images = [
        (layer(files, links), control_plane + [registry + "etcd:3.6.6-0", "localhost/pod-network:1"], None),
        (layer({"coredns": os.path.join(BIN, "coredns")}, {}), [registry + "coredns/coredns:v1.13.1"], ["/coredns"]),
        (layer({"pause": os.path.join(BIN, "pause")}, {}), [registry + "pause:3.10.1"], ["/pause"]),
    ]
    manifest = []
    with tarfile.open(OUTPUT, "w") as archive:

        def add(name, data):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        for content, tags, entrypoint in images:
            digest = hashlib.sha256(content).hexdigest()
            config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
            if entrypoint:
                config["Entrypoint"] = entrypoint
            description = json.dumps({
                "architecture": "amd64",
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
                "history": [{"created_by": "archive.py"}],
            }).encode()
            name = hashlib.sha256(description).hexdigest() + ".json"
            add(digest + ".tar", content)
            add(name, description)
            manifest.append({"Config": name, "RepoTags": tags, "Layers": [digest + ".tar"]})
        add("manifest.json", json.dumps(manifest).encode())


main()
