//! The kubectl plugin `kubectl-quorate`: what a store does on one screen, and what a person can ask of it.
//!
//! Every command reads the resource and its status, and asks by the annotations of [`quorate_crds::annotations`]; the operator
//! decides and carries out. What is printed is made by pure functions of the resource ([`mod@screen`], `loss`, `lines`);
//! the rest talks to the API server.
//!
//! A further command is a variant of [`Command`] and a module; a further part of the screen is a line of [`screen::SECTIONS`].

mod advice;
mod cli;
mod cluster;
mod completion;
mod error;
mod lines;
mod logs;
mod loss;
mod promote;
mod rebalance;
mod recover;
mod request;
pub mod screen;
mod slots;
mod status;
mod table;

pub use cli::{Cli, Command};
pub use error::PluginError;

use cluster::Cluster;

/// Carries out a command.
///
/// # Errors
/// See [`PluginError`].
pub async fn run(cli: Cli) -> Result<(), PluginError> {
    match cli.command {
        Command::Completion(args) => completion::print(&args),
        Command::Complete(words) => {
            completion::complete(&words).await;
            Ok(())
        }
        Command::Status(args) => status::run(&Cluster::connect(&cli.connection).await?, &args).await,
        Command::Promote(args) => promote::run(&Cluster::connect(&cli.connection).await?, &args).await,
        Command::Slots(args) => slots::run(&Cluster::connect(&cli.connection).await?, &args).await,
        Command::Rebalance(args) => rebalance::run(&Cluster::connect(&cli.connection).await?, &args).await,
        Command::Recover(args) => recover::run(&Cluster::connect(&cli.connection).await?, &args).await,
        Command::Logs(args) => logs::run(&Cluster::connect(&cli.connection).await?, &args).await,
    }
}
