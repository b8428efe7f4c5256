//! Large values, one after the other, to one node: what fills a disk; and single questions.

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
pub(super) async fn overwrite(node: SocketAddr, key: &str, count: u64, length: usize) -> Result<Filled> {
    let mut stream = TcpStream::connect(node).await?;
    let value = vec![b'v'; length];
    let mut command = Vec::new();
    write_command(&mut command, &[b"SET", key.as_bytes(), &value]);
    let mut filled = Filled::default();
    for _ in 0..count {
        stream.write_all(&command).await?;
        if let Err(refusal) = answer(&mut stream).await? {
            filled.refusal = Some(refusal);
            break;
        }
        filled.acknowledged += 1;
    }
    Ok(filled)
}

/// What a node answers to each of these commands of one connection, one after the other: a simple value, or an error's text.
pub(super) async fn ask(node: SocketAddr, commands: &[Vec<Vec<u8>>]) -> Result<Vec<String>> {
    let mut stream = TcpStream::connect(node).await?;
    let mut answers = Vec::new();
    for command in commands {
        let mut bytes = Vec::new();
        let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        write_command(&mut bytes, &args);
        stream.write_all(&bytes).await?;
        answers.push(answer(&mut stream).await?.map_err(anyhow::Error::msg)?);
    }
    Ok(answers)
}

/// One reply; nothing may follow it.
async fn answer(stream: &mut TcpStream) -> Result<Result<String, String>> {
    let mut unread = Vec::new();
    loop {
        if let Some((token, _)) = first_token(&unread)? {
            return Ok(match token {
                Token::Error(text) => Err(String::from_utf8_lossy(text).into_owned()),
                Token::Simple(text) => Ok(String::from_utf8_lossy(text).into_owned()),
                Token::Integer(number) => Ok(number.to_string()),
                other => Ok(format!("{other:?}")),
            });
        }
        if stream.read_buf(&mut unread).await? == 0 {
            bail!("the node closed the connection");
        }
    }
}
