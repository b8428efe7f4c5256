//! Consistency choices on real processes: reads on followers, what an eventual group loses and keeps aside, and machines that
//! lose what was in their page cache.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{PATIENCE, await_synced, client_addresses, eventually, group, options};
use quorate_api::wire::{ClientKind, Request};
use quorate_api::{Configuration, Member, NodeRole};
use quorate_client::{Live, dial, drive, epoch_above, write_frame};
use quorate_e2e::local::LocalCluster;
use quorate_e2e::local::resp::Client;
use quorate_e2e::local::writers::Writers;
use quorate_protocol::Driver;
use std::collections::BTreeSet;
use std::process::Command;

fn connect(cluster: &LocalCluster, ordinal: usize) -> Client {
    Client::connect(cluster.nodes()[ordinal].client, PATIENCE).unwrap()
}

fn refusal(client: &mut Client, args: &[&str]) -> String {
    client.run(args).unwrap_err().to_string()
}

#[test]
fn a_follower_that_is_asked_for_linearizable_reads_sees_every_write_that_was_acknowledged_before() {
    let mut cluster = group(&[]);
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let follower = (primary + 1) % 3;
    let (mut writer, mut reader) = (connect(&cluster, primary), connect(&cluster, follower));
    writer.run(&["SET", "k", "0"]).unwrap();
    assert!(
        refusal(&mut reader, &["GET", "k"]).starts_with("MOVED "),
        "nothing was asked for yet"
    );
    // What follows in the same batch waits for the primary's answer too.
    reader.send(b"QR.READ LINEARIZABLE\r\nGET k\r\n").unwrap();
    let mut replies = Vec::new();
    for _ in 0..2 {
        let reply = reader.receive(|token| Ok(format!("{token:?}"))).unwrap();
        replies.push(reply);
    }
    assert!(replies.iter().all(|reply| !reply.starts_with("Error")), "{replies:?}");
    for number in 1..500 {
        let value = number.to_string();
        writer.run(&["SET", "k", &value]).unwrap();
        assert_eq!(reader.run(&["GET", "k"]).unwrap(), value);
    }
    assert!(refusal(&mut reader, &["SET", "k", "x"]).starts_with("MOVED "));

    cluster.node_mut(primary).unwrap().process.pause().unwrap();
    let cut_off = refusal(&mut reader, &["GET", "k"]);
    assert!(cut_off.starts_with("CLUSTERDOWN "), "{cut_off}");
    reader.run(&["QR.READ", "STALE", "1"]).unwrap();
    let stale = refusal(&mut reader, &["GET", "k"]);
    assert!(stale.contains("ms old and the connection asked for 1 ms"), "{stale}");
    reader.run(&["QR.READ", "STALE", "ANY"]).unwrap();
    assert_eq!(reader.run(&["GET", "k"]).unwrap(), "499");

    reader.run(&["QR.READ", "LINEARIZABLE"]).unwrap();
    cluster.failover().unwrap();
    let next = cluster.await_primary(PATIENCE).unwrap();
    connect(&cluster, next).run(&["SET", "k", "after"]).unwrap();
    assert_eq!(reader.run(&["GET", "k"]).unwrap(), "after", "of the next primary, or as it");
    cluster.node_mut(primary).unwrap().process.resume().unwrap();
    await_synced(&cluster);
}

#[test]
fn readonly_is_answered_by_a_follower_that_was_just_restarted() {
    let mut cluster = group(&[]);
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let follower = (primary + 1) % 3;
    connect(&cluster, primary).run(&["SET", "k", "v"]).unwrap();
    cluster.node_mut(follower).unwrap().process.restart().unwrap();
    await_synced(&cluster);
    eventually("it hears its primary", || {
        let mut client = Client::connect(cluster.nodes()[follower].client, PATIENCE)?;
        client.run(&["READONLY"])?;
        Ok(client.run(&["GET", "k"])? == "v")
    });
}

/// Keys of the tails that a node kept, as its own tool prints them.
fn kept_aside(cluster: &LocalCluster, ordinal: usize) -> BTreeSet<String> {
    let folder = cluster.nodes()[ordinal].data_dir.join("tails");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    let output = Command::new(common::program()).arg("tail").args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let effects = lines.flat_map(|line| line["says"]["effects"].as_array().cloned().unwrap_or_default());
    effects.map(|effect| effect["put"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_an_eventual_group_loses_is_exactly_what_its_old_primary_reports_and_keeps_aside() {
    let mut cluster = LocalCluster::start_blank(options(&[])).unwrap();
    cluster.bootstrap_eventual().unwrap();
    let old = cluster.await_primary(PATIENCE).unwrap();
    let followers: Vec<usize> = (0..3).filter(|ordinal| *ordinal != old).collect();
    let mut client = connect(&cluster, old);
    client.run(&["SET", "before", "safe"]).unwrap();
    await_synced(&cluster);
    for follower in &followers {
        cluster.node_mut(*follower).unwrap().process.pause().unwrap();
    }
    // More than the sockets of the paused followers hold, less than what a primary acknowledges ahead of its members.
    let value = "x".repeat(100_000);
    let acknowledged: Vec<String> = (0..300).map(|number| format!("key{number}")).collect();
    for key in &acknowledged {
        assert_eq!(client.run(&["SET", key, &value]).unwrap(), "OK", "the primary alone suffices");
    }
    let status = cluster.status(old).unwrap();
    assert!(status.acknowledged > status.commit, "{status:?}");
    cluster.node_mut(old).unwrap().process.kill().unwrap();
    for follower in &followers {
        cluster.node_mut(*follower).unwrap().process.resume().unwrap();
    }
    eventually("the others fail over", || Ok(cluster.failover().is_ok()));
    let next = cluster.await_primary(PATIENCE).unwrap();
    let mut client = connect(&cluster, next);
    assert_eq!(client.run(&["GET", "before"]).unwrap(), "safe");
    let gone = |key: &&String| client.run(&["EXISTS", key]).unwrap() == "0";
    let missing: BTreeSet<String> = acknowledged.iter().filter(gone).cloned().collect();
    assert!(!missing.is_empty(), "the followers had everything");
    cluster.node_mut(old).unwrap().process.restart().unwrap();
    await_synced(&cluster);
    let status = cluster.status(old).unwrap();
    let [tail] = &status.tails[..] else { panic!("{status:?}") };
    println!("{} of {} acknowledged writes lost: {tail:?}", missing.len(), acknowledged.len());
    assert_eq!((tail.writes, tail.exact), (missing.len() as u64, true));
    assert_eq!(kept_aside(&cluster, old), missing);
    assert_eq!(cluster.metric(old, "tails_kept").unwrap(), 1);
    // Kept aside means that it is in nobody's state.
    let mut client = connect(&cluster, old);
    client.run(&["QR.READ", "STALE", "ANY"]).unwrap();
    assert!(missing.iter().all(|key| client.run(&["EXISTS", key]).unwrap() == "0"));
}

/// Has the primary admit a replica and change to a configuration in which it takes the place of the member of its ordinal.
async fn replace(cluster: &LocalCluster, ordinal: usize) -> anyhow::Result<()> {
    let token = std::fs::read(cluster.token_file())?;
    let statuses = (0..3).map(|ordinal| cluster.status(ordinal)).collect::<anyhow::Result<Vec<_>>>()?;
    let primary = statuses.iter().find(|status| status.role == NodeRole::Primary).expect("one serves");
    let (_, current) = primary.configuration.clone().expect("it is a group");
    let address = |ordinal: usize| cluster.nodes()[ordinal].replica.to_string();
    let new = Member {
        incarnation: statuses[ordinal].id.incarnation,
        ordinal: u32::try_from(ordinal)?,
        host: address(ordinal),
    };
    let mut link = dial(&address(primary.id.ordinal as usize), &token, ClientKind::Operator).await?;
    write_frame(&mut link.write, &Request::Admit(vec![new.clone()])).await?;
    eventually("the new replica holds the log", || {
        let status = cluster.status(primary.id.ordinal as usize)?;
        let peer = status.peers.iter().find(|peer| peer.incarnation == new.incarnation);
        Ok(peer.is_some_and(|peer| peer.learner && peer.matched + 1000 > status.last.index))
    });
    let members = current.members().iter().map(|member| {
        if member.ordinal == new.ordinal {
            new.clone()
        } else {
            member.clone()
        }
    });
    let target = Configuration::of(members.collect(), current.quorum())?;
    let live: Live = statuses
        .iter()
        .map(|status| (status.id.incarnation, address(status.id.ordinal as usize)))
        .collect();
    let driver = Driver::change(epoch_above(primary.promised.number), vec![current], target).preferring(Some(primary.id.incarnation));
    drive(driver, &token, &live, PATIENCE).await?;
    Ok(())
}

/// What a power cut does to a log that was not synced: from some place on there is nothing.
fn lose_page_cache(cluster: &LocalCluster, ordinal: usize) {
    let mut files: Vec<_> = std::fs::read_dir(cluster.nodes()[ordinal].data_dir.join("log"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    let path = files.last().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end / 2..].fill(0);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_machine_that_loses_its_page_cache_comes_back_as_another_replica_and_nothing_is_lost_while_the_others_stand() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let boot = folder.path().join("boot_id");
    std::fs::write(&boot, "first").unwrap();
    let env = [
        ("QUORATE_DURABILITY", "page-cache"),
        ("QUORATE_BOOT_ID_FILE", boot.to_str().unwrap()),
    ];
    let mut cluster = group(&env);
    let writers = Writers::start(client_addresses(&cluster), 4, 50, 100);
    writers.await_more(500, PATIENCE).unwrap();
    let victim = (cluster.await_primary(PATIENCE).unwrap() + 1) % 3;
    let before = cluster.status(victim).unwrap();
    assert!(before.page_cache);

    // Its process alone: nothing is lost, and it is the same replica.
    cluster.node_mut(victim).unwrap().process.restart().unwrap();
    eventually("it is back", || Ok(cluster.status(victim)?.role == NodeRole::Follower));
    assert_eq!(cluster.status(victim).unwrap().id, before.id);
    writers.await_more(500, PATIENCE).unwrap();

    cluster.node_mut(victim).unwrap().process.kill().unwrap();
    lose_page_cache(&cluster, victim);
    std::fs::write(&boot, "second").unwrap();
    cluster.node_mut(victim).unwrap().process.restart().unwrap();
    eventually("it is back", || Ok(cluster.status(victim)?.role == NodeRole::Learner));
    let after = cluster.status(victim).unwrap();
    assert_ne!(after.id.incarnation, before.id.incarnation, "the old one is never counted again");
    assert!(after.last.index > 0, "it keeps what the disk holds");
    writers.await_more(500, PATIENCE).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(replace(&cluster, victim)).unwrap();
    writers.await_more(500, PATIENCE).unwrap();
    let written = writers.stop();
    await_synced(&cluster);
    assert_eq!(cluster.status(victim).unwrap().role, NodeRole::Follower);
    written.check().unwrap();
}

#[test]
fn where_no_write_is_synced_wait_says_who_holds_it_and_waitaof_is_refused() {
    let cluster = group(&[("QUORATE_DURABILITY", "page-cache")]);
    let mut client = connect(&cluster, cluster.primary().unwrap());
    client.run(&["SET", "key", "value"]).unwrap();
    assert_eq!(client.run(&["WAIT", "2", "0"]).unwrap(), "2");
    for disks in [["1", "0"], ["0", "1"], ["1", "2"]] {
        let refused = refusal(&mut client, &["WAITAOF", disks[0], disks[1], "0"]);
        assert!(refused.contains("the durability of this store is PageCache"), "{refused}");
    }
}
