//! Why a command did not do what was asked for, and the exit code that says so to scripts.

/// See the module. Every message says what to do next, where there is something.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The kubeconfig cannot be used.
    #[error("{0}\nSee `kubectl config get-contexts`; --kubeconfig and --context choose another one.")]
    Config(String),
    /// The API server.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: String,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It was not done, and will not be.
    #[error("{0}")]
    Refused(String),
    /// It was asked for and is not done yet.
    #[error("{0}")]
    NotYet(String),
    /// Output could not be written.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

impl PluginError {
    /// The answer of the API server to `what`.
    pub(super) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api {
            what,
            source: Box::new(source),
        }
    }

    /// 1: it cannot be found out or done. 2, by the parser of arguments: it was not asked for in the right way. 3: refused, and
    /// nothing was changed. 4: asked for, and not done in time; the operator goes on with it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Api { .. } | Self::NotFound(_) | Self::Output(_) => 1,
            Self::Refused(_) => 3,
            Self::NotYet(_) => 4,
        }
    }
}
