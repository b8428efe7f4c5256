//! etcd and kube-apiserver, started once for all tests of this binary, with an audit log of every request.

use crate::process::{Process, eventually};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Starting and being ready, on a machine that is busy.
const START: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct ControlPlane {
    programs: PathBuf,
    dir: PathBuf,
    url: String,
    audit: PathBuf,
    server: Process,
    _etcd: Process,
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The folder of kubectl, helm, etcd and kube-apiserver.
pub(crate) fn programs() -> PathBuf {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let found = Command::new(root().join("e2e/cluster/cluster.sh"))
            .arg("bin")
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(found.status.success(), "the programs of Kubernetes cannot be built: see above");
        PathBuf::from(String::from_utf8(found.stdout).unwrap().trim())
    };
    PROGRAMS.get_or_init(find).clone()
}

/// A folder for this process; those of processes that are gone are removed.
pub(crate) fn scratch() -> PathBuf {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for old in std::fs::read_dir(all).unwrap().flatten() {
            let pid = old.file_name().to_string_lossy().strip_prefix("kubernetes-").map(str::to_owned);
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Another test process may be removing it too.
                let _ = std::fs::remove_dir_all(old.path());
            }
        }
        let own = all.join(format!("kubernetes-{}", std::process::id()));
        std::fs::create_dir_all(&own).unwrap();
        own
    };
    SCRATCH.get_or_init(make).clone()
}

/// The control plane of all tests; the first who asks waits for it.
pub(crate) fn control_plane() -> &'static ControlPlane {
    static PLANE: OnceLock<ControlPlane> = OnceLock::new();
    PLANE.get_or_init(|| {
        // A runtime of its own, in a thread of its own: the caller may be in one already.
        let start = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(ControlPlane::start(&scratch().join("control-plane")))
        };
        std::thread::spawn(start).join().unwrap()
    })
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl ControlPlane {
    /// Starts one of its own in `dir`, for tests that stop it.
    pub(crate) async fn start(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let programs = programs();
        let (clients, peers, secure) = (free_port(), free_port(), free_port());
        let etcd_url = format!("http://127.0.0.1:{clients}");
        let peer_url = format!("http://127.0.0.1:{peers}");
        let mut etcd = Command::new(programs.join("etcd"));
        etcd.arg("--data-dir").arg(dir.join("etcd")).args([
            "--unsafe-no-fsync",
            "--log-level=warn",
            &format!("--listen-client-urls={etcd_url}"),
            &format!("--advertise-client-urls={etcd_url}"),
            &format!("--listen-peer-urls={peer_url}"),
            &format!("--initial-advertise-peer-urls={peer_url}"),
            &format!("--initial-cluster=default={peer_url}"),
        ]);
        let etcd = Process::start(&etcd, &dir.join("etcd.log"));
        let made = Command::new(programs.join("kubernetes"))
            .arg0("kubeadm")
            .args(["init", "phase", "certs", "sa", "--cert-dir"])
            .arg(dir)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        std::fs::write(dir.join("tokens.csv"), "admin,admin,admin,\"system:masters\"\n").unwrap();
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"], "rules": [{"level": "Metadata"}],
        });
        std::fs::write(dir.join("audit-policy.yaml"), policy.to_string()).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        let mut server = Command::new(programs.join("kube-apiserver"));
        server.args([
            format!("--etcd-servers={etcd_url}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={secure}"),
            format!("--cert-dir={}", path("serving")),
            "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path("sa.pub")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            format!("--audit-policy-file={}", path("audit-policy.yaml")),
            format!("--audit-log-path={}", path("audit.log")),
            "--v=0".to_owned(),
        ]);
        let server = Process::start(&server, &dir.join("kube-apiserver.log"));
        let plane = Self {
            programs,
            dir: dir.to_owned(),
            url: format!("https://127.0.0.1:{secure}"),
            audit: dir.join("audit.log"),
            server,
            _etcd: etcd,
        };
        let ready = async || plane.try_kubectl(&["get", "--raw", "/readyz"]).ok();
        eventually("the API server is ready", START, ready).await;
        plane.apply(&std::fs::read_to_string(root().join("crds/quorate.io_replicatedstores.yaml")).unwrap());
        let established = [
            "wait",
            "--for=condition=Established",
            "crd/replicatedstores.quorate.io",
            "--timeout=60s",
        ];
        plane.kubectl(&established);
        plane
    }

    /// Stops the API server, as an outage does; etcd goes on.
    pub(crate) fn freeze(&self) {
        self.server.freeze();
    }

    /// Ends the outage.
    pub(crate) fn thaw(&self) {
        self.server.thaw();
    }

    /// Writes a kubeconfig of the administrator, or of a service account that the administrator acts as.
    pub(crate) fn kubeconfig(&self, service_account: Option<(&str, &str)>) -> PathBuf {
        let mut user = json!({"token": "admin"});
        let mut file = "kubeconfig-admin".to_owned();
        if let Some((namespace, name)) = service_account {
            user["as"] = json!(format!("system:serviceaccount:{namespace}:{name}"));
            user["as-groups"] = json!([
                "system:serviceaccounts",
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated"
            ]);
            file = format!("kubeconfig-{namespace}-{name}");
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        // Whole or not at all: other tests read it at any time.
        let (path, mut part) = (self.dir.join(file), tempfile::NamedTempFile::new_in(&self.dir).unwrap());
        part.write_all(config.to_string().as_bytes()).unwrap();
        part.persist(&path).unwrap();
        path
    }

    pub(crate) async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig(None)).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        Client::try_from(config).unwrap()
    }

    /// A namespace that nobody else uses, in which only restricted pods may run.
    pub(crate) async fn namespace(&self, purpose: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{purpose}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }))
        .unwrap();
        let api: Api<Namespace> = Api::all(self.client().await);
        api.create(&PostParams::default(), &namespace).await.unwrap();
        name
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig(None)).args(args);
        command
    }

    pub(crate) fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        said(&self.command(args).output().unwrap())
    }

    /// Runs kubectl, which must succeed, and gives what it prints.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
    }

    /// Applies a manifest; the error is what a user sees.
    pub(crate) fn try_apply(&self, manifest: &str) -> Result<String, String> {
        let mut child = self
            .command(&["apply", "--server-side", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
        said(&child.wait_with_output().unwrap())
    }

    pub(crate) fn apply(&self, manifest: &str) -> String {
        self.try_apply(manifest).unwrap_or_else(|error| panic!("{error}\n{manifest}"))
    }

    /// Every request so far that `user` made or that was made in its name.
    pub(crate) fn requests_of(&self, namespace: &str, service_account: &str) -> Vec<Value> {
        let user = format!("system:serviceaccount:{namespace}:{service_account}");
        let log = std::fs::read_to_string(&self.audit).unwrap_or_default();
        let requests = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        requests
            .filter(|request| request["impersonatedUser"]["username"] == user.as_str())
            .collect()
    }
}

fn said(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}
