//! Reads acknowledged writes back from whoever serves them, pipelined. Where a node says that another owns a slot, that one is asked.

use crate::local::resp::{Token, first_token, write_command};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Keys asked for at once.
const BATCH: usize = 500;
/// A node that did not answer everything in this time does not answer.
const ANSWERS: Duration = Duration::from_secs(20);
/// Before a node is asked again, or another one.
const PAUSE: Duration = Duration::from_millis(100);

/// What a node said of the keys that it was asked for.
#[derive(Default)]
struct Answers {
    /// Keys that are not as they were written.
    lost: Vec<String>,
    /// Keys that another node has.
    moved: BTreeMap<SocketAddr, Vec<String>>,
}

/// Gives the keys that are not as they were written. `patience`: how long nobody may answer for any key.
pub(super) async fn lost(nodes: &[SocketAddr], keys: &[String], patience: Duration) -> Result<Vec<String>> {
    let mut others = nodes.iter().copied().cycle();
    let first = others.next().context("there are no nodes")?;
    let mut to_ask: BTreeMap<SocketAddr, Vec<String>> = [(first, keys.to_vec())].into();
    let (mut lost, mut deadline) = (Vec::new(), Instant::now() + patience);
    while let Some((node, keys)) = to_ask.pop_first() {
        let asked = tokio::time::timeout(ANSWERS, ask(node, &keys)).await;
        let failure = match asked.with_context(|| format!("{node} does not answer")).flatten() {
            Ok(answers) => {
                let moved: usize = answers.moved.values().map(Vec::len).sum();
                if moved < keys.len() {
                    deadline = Instant::now() + patience;
                }
                lost.extend(answers.lost);
                for (owner, keys) in answers.moved {
                    to_ask.entry(owner).or_default().extend(keys);
                }
                anyhow::anyhow!("{node} sends to others, and they to it")
            }
            Err(failure) => {
                let next = others.next().context("the nodes are a cycle")?;
                to_ask.entry(next).or_default().extend(keys);
                tokio::time::sleep(PAUSE).await;
                failure
            }
        };
        if Instant::now() > deadline {
            return Err(failure.context(format!("read back from {node}")));
        }
    }
    Ok(lost)
}

async fn ask(node: SocketAddr, keys: &[String]) -> Result<Answers> {
    let mut stream = TcpStream::connect(node).await?;
    let (mut unread, mut answers) = (Vec::new(), Answers::default());
    for batch in keys.chunks(BATCH) {
        let mut commands = Vec::new();
        for key in batch {
            write_command(&mut commands, &[b"GET", key.as_bytes()]);
        }
        stream.write_all(&commands).await?;
        for key in batch {
            while !take_reply(&mut unread, key, &mut answers)? {
                if stream.read_buf(&mut unread).await? == 0 {
                    bail!("the connection was closed");
                }
            }
        }
    }
    Ok(answers)
}

/// Whether the reply for `key` was there.
fn take_reply(unread: &mut Vec<u8>, key: &str, answers: &mut Answers) -> Result<bool> {
    let Some((token, length)) = first_token(unread)? else {
        return Ok(false);
    };
    match token {
        Token::Bulk(value) if value == Some(key.as_bytes()) => {}
        Token::Bulk(_) => answers.lost.push(key.to_owned()),
        Token::Error(text) => {
            let text = String::from_utf8_lossy(text).into_owned();
            let owner = text.strip_prefix("MOVED ").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
            let Some(owner) = owner else { bail!("{text}") };
            answers.moved.entry(owner).or_default().push(key.to_owned());
        }
        other => bail!("unexpected reply {other:?}"),
    }
    unread.drain(..length);
    Ok(true)
}
