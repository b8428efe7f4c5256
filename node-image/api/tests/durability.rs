//! The table of docs/durability.md is what [`Quorum`] computes.

#![allow(clippy::unwrap_used, reason = "a test")]

use quorate_api::{Consistency, Quorum};
use std::path::Path;

const BEGIN: &str = "QUORATE_UPDATE_GOLDEN=1 writes it -->\n";
const END: &str = "<!-- end -->";

/// What people ask about, each with its name.
fn settings() -> Vec<(&'static str, Quorum)> {
    let (strong, eventual) = (Quorum::strong, Quorum::eventual);
    vec![
        ("one replica", Quorum::majority(1)),
        ("majority (default)", Quorum::majority(3)),
        ("majority (default)", Quorum::majority(5)),
        ("even number", Quorum::majority(4)),
        ("synchronous to all, reads of one", strong(3, 3, 1)),
        ("all for both", strong(3, 3, 3)),
        ("fewer readers", strong(5, 4, 2)),
        ("Eventual (its default)", eventual(3)),
        ("Eventual (its default)", eventual(5)),
        ("Eventual, two hold it", Quorum { write: 2, ..eventual(5) }),
        ("Eventual, reads of a majority", Quorum { read: 2, ..eventual(3) }),
    ]
}

fn table() -> String {
    let mut text = "| setting | V | V_w | V_r | commit | fence | writes go on with so many failed | reads | failover | a failover loses | a replaced primary may answer |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for (name, quorum) in settings() {
        let quorum = quorum.validate().unwrap();
        let Quorum {
            replicas,
            write,
            read,
            consistency,
        } = quorum;
        let bounded = match (consistency, quorum.failover_loses()) {
            (Consistency::Eventual, true) => ", for 64 MiB",
            _ => "",
        };
        let loses = match quorum.failover_loses() {
            true => format!("what fewer than {} hold", quorum.commit()),
            false => "nothing".to_owned(),
        };
        let deposed = match (quorum.failover_loses(), quorum.deposed_may_answer()) {
            (true, true) => "writes and reads",
            (true, false) => "writes",
            (false, true) => "reads",
            (false, false) => "no",
        };
        text.push_str(&format!(
            "| {name} | {replicas} | {write} | {read} | {} | {} | {}{bounded} | {} | {} | {loses} | {deposed} |\n",
            quorum.commit(),
            quorum.fence(),
            quorum.writes_tolerate(),
            quorum.reads_tolerate(),
            quorum.failover_tolerates(),
        ));
    }
    text
}

#[test]
fn the_documented_table_is_what_the_code_computes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/durability.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (documented, after) = rest.split_once(END).unwrap();
    let computed = table();
    if std::env::var_os("QUORATE_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{computed}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(documented, computed, "QUORATE_UPDATE_GOLDEN=1 writes what is computed");
}
