//! `quorate-e2e`: one program for everything that looks at the system from outside. This file only wires.

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "quorate-e2e", version, about = "Measures and tests a whole Quorate system")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures replicated writes and linearizable reads against Valkey and etcd, interleaved in one run.
    Bench(quorate_e2e::bench::Args),
    /// Measures what the failure detector trades: time against false suspicions.
    Detection(quorate_e2e::detection::Args),
    /// Shows a failover on the cluster that is up.
    Demo,
    /// Visits every state of a model of the view change, and shows that it notices rules that are taken away.
    Model(quorate_e2e::model::Args),
    /// Runs faults against a store on a real cluster, under a checked workload.
    Scenarios(quorate_e2e::scenario::Args),
    /// Simulates replication groups and whole systems under faults, checks every history, and shows that the checks notice
    /// mistakes.
    Sim(quorate_e2e::sim::Args),
    /// Has a simulated operator die after each single step of what it does, and checks that everything ends as without.
    Sweep(quorate_e2e::system::sweep::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Bench(args) => quorate_e2e::bench::run(args),
        Command::Detection(args) => quorate_e2e::detection::run(&args),
        Command::Demo => quorate_e2e::demo::run(),
        Command::Model(args) => quorate_e2e::model::run(&args),
        Command::Scenarios(args) => quorate_e2e::scenario::run(args),
        Command::Sim(args) => quorate_e2e::sim::run(&args),
        Command::Sweep(args) => quorate_e2e::system::sweep::run(&args),
    }
}
