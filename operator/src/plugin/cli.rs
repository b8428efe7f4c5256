//! The arguments.

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use k8s_openapi::jiff::SignedDuration;
use std::path::PathBuf;
use std::time::Duration;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 not to be found out or done; 2 wrong arguments; 3 refused, nothing was changed; \
                          4 asked for, and not done in time: the operator goes on with it.";

/// See, promote, recover and read the logs of replicated stores.
#[derive(Clone, Debug, Parser)]
#[command(name = "kubectl-quorate", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Which cluster and namespace.
    #[command(flatten)]
    pub connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What kubectl's program for completion is called with before the words.
const COMPLETE: &str = "__complete";

impl Cli {
    /// Reads the arguments of this process; ends it with 2 if they are wrong, and with 0 after a help text.
    #[must_use]
    pub fn read() -> Self {
        let mut words = std::env::args().skip(1);
        if words.next().as_deref() == Some(COMPLETE) {
            return Self {
                connection: Connection::default(),
                command: Command::Complete(words.collect()),
            };
        }
        // People call it through kubectl.
        let matches = Self::command().bin_name("kubectl quorate").get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Which cluster and namespace; as kubectl has it.
#[derive(Clone, Debug, Default, Args)]
pub struct Connection {
    /// The namespace. Default: that of the context.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// The context of the kubeconfig. Default: the current one.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The kubeconfig. Default: $KUBECONFIG, or ~/.kube/config.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Shows a store on one screen: shards, primaries, replicas, what the quorums tolerate, what it waits for.
    Status(StatusArgs),
    /// Shows which shard owns which hash slots, or where a key belongs.
    Slots(SlotsArgs),
    /// Moves the slots to where they are to be, although spec.rebalance.mode is Manual, and waits for it.
    Rebalance(RebalanceArgs),
    /// Makes a pod the primary of its shard, and waits for it.
    Promote(PromoteArgs),
    /// Goes on without the replicas that do not answer, although writes may be lost. Without --accept-data-loss: says which.
    Recover(RecoverArgs),
    /// Prints the logs of all pods of a store, merged.
    Logs(LogsArgs),
    /// Prints a completion script for a shell.
    Completion(CompletionArgs),
    /// Completes the last of these words, for kubectl: no command for people.
    #[command(skip)]
    Complete(Vec<String>),
}

/// Formats of `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// More columns, and every condition.
    Wide,
    /// For programs: docs/plugin.md has the fields.
    Json,
}

/// Arguments of `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// The store. Default: all, one a line; or the only one there is.
    pub store: Option<String>,
    /// Stores of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "store")]
    pub all_namespaces: bool,
    /// Another format.
    #[arg(short, long, value_enum)]
    pub output: Option<Output>,
    /// Go on, and show every change.
    #[arg(short, long, requires = "store")]
    pub watch: bool,
}

/// Arguments of `slots`.
#[derive(Clone, Debug, Args)]
pub struct SlotsArgs {
    /// The store.
    pub store: String,
    /// Only where this key belongs.
    #[arg(long)]
    pub key: Option<String>,
}

/// Arguments of `rebalance`.
#[derive(Clone, Debug, Args)]
pub struct RebalanceArgs {
    /// The store.
    pub store: String,
    /// How long to wait, as in 90s or 30m.
    #[arg(long, default_value = "30m", value_parser = duration)]
    pub timeout: Duration,
}

/// Arguments of `promote`.
#[derive(Clone, Debug, Args)]
pub struct PromoteArgs {
    /// The store.
    pub store: String,
    /// The pod.
    pub pod: String,
    /// How long to wait, as in 90s or 5m.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub timeout: Duration,
}

/// Arguments of `recover`.
#[derive(Clone, Debug, Args)]
pub struct RecoverArgs {
    /// The store.
    pub store: String,
    /// The shard.
    #[arg(long)]
    pub shard: i32,
    /// Do it. What only the missing replicas hold is lost, acknowledged or not.
    #[arg(long)]
    pub accept_data_loss: bool,
    /// How long to wait, as in 90s or 5m.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub timeout: Duration,
}

/// Arguments of `logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsArgs {
    /// The store.
    pub store: String,
    /// This shard only.
    #[arg(long)]
    pub shard: Option<u32>,
    /// Go on, also with pods that restart or are made later.
    #[arg(short, long)]
    pub follow: bool,
    /// Not older than this, as in 30s, 10m or 2h.
    #[arg(long, value_parser = duration)]
    pub since: Option<Duration>,
    /// So many of the last lines of each pod.
    #[arg(long)]
    pub tail: Option<i64>,
    /// With the time at which the container wrote each line.
    #[arg(long)]
    pub timestamps: bool,
}

/// Arguments of `completion`.
#[derive(Clone, Debug, Args)]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Result<SignedDuration, _> = text.parse();
    let positive = parsed.ok().and_then(|duration| Duration::try_from(duration).ok());
    positive.ok_or_else(|| "a time is written as 30s, 10m or 1h30m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_contradict_nothing() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_time_is_read_as_people_write_it() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("soon").is_err());
        assert!(duration("-5s").is_err());
    }
}
