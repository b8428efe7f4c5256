//! Large values, one after the other, to one node: what fills a disk.

use crate::local::resp::{Token, first_token, write_command};
use anyhow::{Result, bail};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Filled {
    /// Values that were acknowledged.
    pub acknowledged: u64,
    /// What the node said to the first that was not.
    pub refusal: Option<String>,
}

/// Overwrites one key with `count` values of `length` bytes, until the first is refused.
pub(super) async fn fill(node: SocketAddr, key: &str, count: u64, length: usize) -> Result<Filled> {
    let mut stream = TcpStream::connect(node).await?;
    let value = vec![b'v'; length];
    let mut command = Vec::new();
    write_command(&mut command, &[b"SET", key.as_bytes(), &value]);
    let (mut filled, mut unread) = (Filled::default(), Vec::new());
    for _ in 0..count {
        stream.write_all(&command).await?;
        let refusal = loop {
            if let Some((token, length)) = first_token(&unread)? {
                let refusal = match token {
                    Token::Error(text) => Some(String::from_utf8_lossy(text).into_owned()),
                    _ => None,
                };
                unread.drain(..length);
                break refusal;
            }
            if stream.read_buf(&mut unread).await? == 0 {
                bail!("{node} closed the connection");
            }
        };
        if refusal.is_some() {
            filled.refusal = refusal;
            break;
        }
        filled.acknowledged += 1;
    }
    Ok(filled)
}
