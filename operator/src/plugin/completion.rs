//! Completion: a script for a shell, and the words that kubectl asks for by its program `kubectl_complete-quorate`.
//!
//! The second way answers in the form that kubectl reads: a word a line, with a description after a tab, and a last line with
//! a colon and what the shell may do beside (4: offer no files).

use super::cli::{Cli, CompletionArgs, Connection};
use super::cluster::Cluster;
use super::error::PluginError;
use super::screen::status_of;
use clap::{Command, CommandFactory, FromArgMatches};
use clap_complete::Shell;
use quorate_crds::ReplicatedStore;
use std::io::Write;
use std::time::Duration;

/// Nobody waits longer for a word.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn print(args: &CompletionArgs) -> Result<(), PluginError> {
    std::io::stdout().write_all(script(args.shell).as_bytes())?;
    Ok(())
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kubectl-quorate", &mut script);
    let script = String::from_utf8_lossy(&script);
    // For bash, the library writes the hyphen of a program's name in two ways, and finds no command then.
    script.replace("kubectl__subcmd__quorate", "kubectl__quorate")
}

/// Prints what the last of `words` may be. A cluster that does not answer offers nothing.
pub(super) async fn complete(words: &[String]) {
    let place = place(words);
    let names = match place.wants {
        Wants::Words => Vec::new(),
        Wants::Store => {
            let stores = tokio::time::timeout(PATIENCE, stores(&connection_of(words))).await;
            stores
                .unwrap_or_default()
                .into_iter()
                .filter_map(|store| store.metadata.name)
                .collect()
        }
        Wants::Pod(store) | Wants::Shard(store) if store.is_empty() => Vec::new(),
        Wants::Pod(ref store) | Wants::Shard(ref store) => {
            let stores = tokio::time::timeout(PATIENCE, stores(&connection_of(words))).await;
            let found = stores
                .unwrap_or_default()
                .into_iter()
                .find(|known| known.metadata.name.as_ref() == Some(store));
            found.map_or_else(Vec::new, |found| of_store(&found, matches!(place.wants, Wants::Pod(_))))
        }
    };
    print!("{}", answer(&place.prefix, place.words.into_iter().chain(names)));
}

fn answer(prefix: &str, words: impl Iterator<Item = String>) -> String {
    let fitting = words.filter(|word| word.starts_with(prefix)).map(|word| format!("{word}\n"));
    format!("{}:4\n", fitting.collect::<String>())
}

async fn stores(connection: &Connection) -> Vec<ReplicatedStore> {
    match Cluster::connect(connection).await {
        Ok(cluster) => cluster.list(false).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

fn of_store(store: &ReplicatedStore, pods: bool) -> Vec<String> {
    let status = status_of(store);
    if pods {
        let replicas = status.shards.into_iter().flat_map(|shard| shard.replicas);
        replicas.map(|replica| replica.name).collect()
    } else {
        status.shards.iter().map(|shard| shard.index.to_string()).collect()
    }
}

/// What is being completed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    prefix: String,
    /// Words that need no cluster.
    words: Vec<String>,
    wants: Wants,
}

/// Words that a cluster knows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wants {
    Words,
    Store,
    /// Of that store.
    Pod(String),
    /// Of that store.
    Shard(String),
}

fn place(words: &[String]) -> Place {
    let (prefix, before) = words
        .split_last()
        .map_or((String::new(), &[][..]), |(last, before)| (last.clone(), before));
    let root = Cli::command();
    let mut command: &Command = &root;
    let mut positional: Vec<&str> = Vec::new();
    let mut before = before.iter().peekable();
    let mut value_of: Option<String> = None;
    while let Some(word) = before.next() {
        if let Some(option) = option(&root, command, word) {
            if option.get_action().takes_values() && !word.contains('=') && before.next().is_none() {
                value_of = Some(option.get_id().to_string());
            }
        } else if let Some(found) = command.find_subcommand(word) {
            command = found;
        } else {
            positional.push(word);
        }
    }
    let store = positional.first().map_or(String::new(), |store| (*store).to_owned());
    if let Some(option) = value_of {
        let wants = if option == "shard" { Wants::Shard(store) } else { Wants::Words };
        let words = values(&root, command, &option);
        return Place { prefix, words, wants };
    }
    if prefix.starts_with('-') {
        let all = command
            .get_arguments()
            .chain(root.get_arguments().filter(|argument| argument.is_global_set()));
        let words = all.filter_map(|argument| Some(format!("--{}", argument.get_long()?)));
        let mut words: Vec<String> = words.chain(["--help".to_owned()]).collect();
        words.sort();
        words.dedup();
        return Place {
            prefix,
            words,
            wants: Wants::Words,
        };
    }
    let next = command
        .get_positionals()
        .nth(positional.len())
        .map(|argument| argument.get_id().as_str());
    let wants = match next {
        Some("store") => Wants::Store,
        Some("pod") => Wants::Pod(store),
        _ => Wants::Words,
    };
    let words = match next {
        Some(name) => values(&root, command, name),
        None => {
            let visible = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
            visible.map(|subcommand| subcommand.get_name().to_owned()).collect()
        }
    };
    Place { prefix, words, wants }
}

fn option<'a>(root: &'a Command, command: &'a Command, word: &str) -> Option<&'a clap::Arg> {
    let all = || command.get_arguments().chain(root.get_arguments());
    if let Some(long) = word.strip_prefix("--") {
        let long = long.split('=').next()?;
        return all().find(|argument| argument.get_long() == Some(long));
    }
    let short = word.strip_prefix('-')?.chars().next()?;
    all().find(|argument| argument.get_short() == Some(short))
}

/// The values that an argument can have, where these are known.
fn values(root: &Command, command: &Command, argument: &str) -> Vec<String> {
    let found = command
        .get_arguments()
        .chain(root.get_arguments())
        .find(|known| known.get_id() == argument);
    let values = found.map(clap::Arg::get_possible_values).unwrap_or_default();
    values.iter().map(|value| value.get_name().to_owned()).collect()
}

/// The cluster that the words before ask for, as far as they can be read.
fn connection_of(words: &[String]) -> Connection {
    let command = Cli::command().ignore_errors(true).subcommand_required(false);
    let before = words.split_last().map_or(&[][..], |(_, before)| before);
    let matches = command.try_get_matches_from(std::iter::once("kubectl-quorate").chain(before.iter().map(String::as_str)));
    matches
        .ok()
        .and_then(|matches| Connection::from_arg_matches(&matches).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(words: &[&str]) -> Place {
        place(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_word_is_a_command() {
        let place = at(&[""]);
        assert_eq!(
            place.words,
            ["status", "slots", "rebalance", "promote", "recover", "logs", "completion"]
        );
        assert_eq!(
            answer("rec", place.words.into_iter()),
            "recover\n:4\n",
            "and kubectl is told to offer no files"
        );
    }

    #[test]
    fn a_store_a_pod_and_a_shard_are_asked_of_the_cluster() {
        assert_eq!(at(&["status", "o"]).wants, Wants::Store);
        assert_eq!(at(&["-n", "shop", "promote", ""]).wants, Wants::Store);
        assert_eq!(
            at(&["promote", "orders", "--timeout", "5m", ""]).wants,
            Wants::Pod("orders".to_owned())
        );
        assert_eq!(at(&["recover", "orders", "--shard", ""]).wants, Wants::Shard("orders".to_owned()));
        assert_eq!(at(&["promote", "orders", "orders-0-1", ""]).wants, Wants::Words);
    }

    #[test]
    fn options_and_their_values_are_known_without_a_cluster() {
        let options = at(&["recover", "orders", "--"]).words;
        for option in [
            "--accept-data-loss",
            "--shard",
            "--timeout",
            "--namespace",
            "--kubeconfig",
            "--context",
        ] {
            assert!(options.contains(&option.to_owned()), "{option}: {options:?}");
        }
        assert_eq!(at(&["status", "orders", "-o", ""]).words, ["wide", "json"]);
        assert_eq!(at(&["completion", "b"]).words, ["bash", "elvish", "fish", "powershell", "zsh"]);
    }

    #[test]
    fn the_script_of_a_shell_knows_the_options_of_every_command() {
        let script = script(Shell::Bash);
        // Each command is found by a name that the script itself gives it.
        let named = script
            .lines()
            .filter_map(|line| line.trim().strip_prefix("cmd=\"")?.strip_suffix('"'));
        let named: Vec<&str> = named.filter(|name| !name.is_empty()).collect();
        assert!(named.len() > 5, "{script}");
        for name in named {
            assert!(script.contains(&format!("        {name})\n")), "{name} has no options in\n{script}");
        }
    }

    #[test]
    fn the_cluster_is_that_of_the_words_before() {
        let words = ["-n", "shop", "--context=blue", "promote", "x"].map(str::to_owned);
        let connection = connection_of(&words);
        assert_eq!(connection.namespace.as_deref(), Some("shop"));
        assert_eq!(connection.context.as_deref(), Some("blue"));
    }
}
