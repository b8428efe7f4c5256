//! The operator's program.

use clap::{Parser, ValueEnum};
use quorate_operator::run::{OperatorArgs, run};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// How logs are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Pretty,
    Json,
}

/// Runs replicated stores on Kubernetes.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// How to write logs; RUST_LOG filters them.
    #[arg(long, env = "QUORATE_LOG_FORMAT", value_enum, default_value = "pretty")]
    log_format: LogFormat,
    #[command(flatten)]
    operator: OperatorArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
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
    match runtime.block_on(run(cli.operator)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
