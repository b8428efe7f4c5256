//! Reads acknowledged writes back from whoever serves, pipelined.

use crate::local::resp::{Token, first_token, write_command};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Keys asked for at once.
const BATCH: usize = 500;

pub(super) async fn lost(nodes: &[SocketAddr], keys: &[String], patience: Duration) -> Result<Vec<String>> {
    let deadline = Instant::now() + patience;
    loop {
        let mut last = None;
        for node in nodes {
            match tokio::time::timeout(Duration::from_secs(20), try_all(*node, keys)).await {
                Ok(Ok(lost)) => return Ok(lost),
                Ok(Err(error)) => last = Some(error.context(format!("read back from {node}"))),
                Err(_) => last = Some(anyhow::anyhow!("{node} does not answer")),
            }
        }
        if Instant::now() > deadline {
            return Err(last.context("there are no nodes")?);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn try_all(node: SocketAddr, keys: &[String]) -> Result<Vec<String>> {
    let mut stream = TcpStream::connect(node).await?;
    let mut unread = Vec::new();
    let mut lost = Vec::new();
    for batch in keys.chunks(BATCH) {
        let mut commands = Vec::new();
        for key in batch {
            write_command(&mut commands, &[b"GET", key.as_bytes()]);
        }
        stream.write_all(&commands).await?;
        for key in batch {
            loop {
                if let Some((token, length)) = first_token(&unread)? {
                    match token {
                        Token::Bulk(value) if value == Some(key.as_bytes()) => {}
                        Token::Bulk(_) => lost.push(key.clone()),
                        Token::Error(text) => bail!("{}", String::from_utf8_lossy(text)),
                        other => bail!("unexpected reply {other:?}"),
                    }
                    unread.drain(..length);
                    break;
                }
                if stream.read_buf(&mut unread).await? == 0 {
                    bail!("the connection was closed");
                }
            }
        }
    }
    Ok(lost)
}
