//! The store node's program.

use clap::{Parser, Subcommand};
use quorate_api::Consistency;
use quorate_protocol::ViewChanged;
use quorate_server::config::{LogFormat, NodeArgs, read_token};
use quorate_server::tools::{GroupArgs, QuorumArg, bootstrap, failover, print_tails, status_of};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A node of a replicated store that speaks the Redis protocol.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// How to write logs; RUST_LOG filters them.
    #[arg(long, env = "QUORATE_LOG_FORMAT", value_enum, default_value = "pretty", global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(Box<NodeArgs>),
    /// Make a group of blank nodes
    Bootstrap {
        /// Write and read quorum, as in 2/2; by default a majority for both.
        #[arg(long)]
        quorum: Option<QuorumArg>,
        /// Acknowledge writes before a majority has them: a failover may lose them. The quorum is 1/1 by default then.
        #[arg(long)]
        eventual: bool,
        #[command(flatten)]
        group: GroupArgs,
    },
    /// Choose a primary anew among the nodes that answer
    Failover {
        #[command(flatten)]
        group: GroupArgs,
    },
    /// Print what each node says of itself, as JSON
    Status {
        #[command(flatten)]
        group: GroupArgs,
    },
    /// Print what was cut off a log and kept aside, as JSON; reads files only
    Tail {
        /// Files of the folder `tails` of a data directory.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A broken invariant in one task must end the process, also where panics unwind: no other task may go on with it.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Pretty => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the system gives no event queue");
            return ExitCode::FAILURE;
        }
    };
    let local = tokio::task::LocalSet::new();
    match local.block_on(&runtime, run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => quorate_server::start::run(*args).await,
        Command::Bootstrap { quorum, eventual, group } => {
            let consistency = if eventual { Consistency::Eventual } else { Consistency::Strong };
            say(&bootstrap(&group, quorum, consistency).await?);
            Ok(())
        }
        Command::Failover { group } => {
            say(&failover(&group).await?);
            Ok(())
        }
        Command::Tail { files } => print_tails(&files, &mut std::io::stdout().lock()),
        Command::Status { group } => {
            let token = read_token(&group.token_file)?;
            for address in &group.nodes {
                println!("{}", serde_json::to_string(&status_of(address, &token).await?)?);
            }
            Ok(())
        }
    }
}

fn say(done: &ViewChanged) {
    println!(
        "{} ({}) serves epoch {}",
        done.primary.host, done.primary.incarnation, done.start.epoch
    );
}
