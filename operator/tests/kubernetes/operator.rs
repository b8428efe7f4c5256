//! The operator as the chart runs it: its permissions, its environment; as a process on this machine.

use crate::control_plane::{ControlPlane, programs, root, scratch};
use crate::process::Process;
use serde_json::Value;
use std::process::Command;

/// What the chart renders for a release in `namespace`, with further arguments of helm.
pub(crate) fn render(release: &str, namespace: &str, more: &[&str]) -> Result<Vec<Value>, String> {
    let output = Command::new(programs().join("helm"))
        .args(["template", release])
        .arg(root().join("charts/quorate"))
        .args(["--namespace", namespace])
        .args(more)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(documents(&String::from_utf8(output.stdout).unwrap()))
}

/// The documents of a YAML text.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let each = text
        .split("\n---")
        .map(str::trim)
        .filter(|text| text.lines().any(|line| !line.starts_with(['#', '-'])));
    each.map(|text| serde_saphyr::from_str(text.trim_start_matches("---")).unwrap_or_else(|error| panic!("{error}\n{text}")))
        .collect()
}

pub(crate) fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

/// A release of the chart that watches its own namespace: installed but for its Deployment, which [`Release::start`] runs.
#[derive(Debug)]
pub(crate) struct Release<'a> {
    plane: &'a ControlPlane,
    name: String,
    namespace: String,
    container: Value,
}

impl<'a> Release<'a> {
    pub(crate) fn install(plane: &'a ControlPlane, name: &str, namespace: &str) -> Self {
        let watch = format!("watchNamespace={namespace}");
        let documents = render(
            name,
            namespace,
            &["--set", &watch, "--set", "log.filter=info\\,quorate_operator=debug"],
        )
        .unwrap();
        for document in documents.iter().filter(|document| document["kind"] != "Deployment") {
            plane.apply(&document.to_string());
        }
        let deployment = of_kind(&documents, "Deployment")[0];
        Self {
            plane,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            container: deployment["spec"]["template"]["spec"]["containers"][0].clone(),
        }
    }

    /// The service account that it runs as.
    pub(crate) fn service_account(&self) -> String {
        format!("{}-operator", self.name)
    }

    /// Runs one replica of it.
    pub(crate) fn start(&self, identity: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-operator"));
        command
            .env(
                "KUBECONFIG",
                self.plane.kubeconfig(Some((&self.namespace, &self.service_account()))),
            )
            .env("QUORATE_HTTP_ADDRESS", "127.0.0.1:0");
        for variable in self.container["env"].as_array().unwrap() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.name") => identity,
                Some("metadata.namespace") => &self.namespace,
                Some(other) => panic!("the test knows no field {other}"),
                None => variable["value"].as_str().unwrap(),
            };
            command.env(variable["name"].as_str().unwrap(), value);
        }
        Process::start(&command, &scratch().join(format!("{}-{identity}.log", self.namespace)))
    }

    /// Requests of this release that the API server refused for want of permission.
    pub(crate) fn forbidden(&self) -> Vec<String> {
        self.requests()
            .iter()
            .filter(|request| request["responseStatus"]["code"] == 403)
            .map(|request| format!("{} {}", request["verb"], request["requestURI"]))
            .collect()
    }

    pub(crate) fn requests(&self) -> Vec<Value> {
        self.plane.requests_of(&self.namespace, &self.service_account())
    }
}
