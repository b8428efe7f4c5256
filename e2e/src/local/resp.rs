//! Just enough of the Redis protocol to load a server: replies as tokens in a byte slice, and a blocking client
//! for a handful of commands.
//!
//! An array's header is a token of its own and its elements are the tokens that follow: the load generator knows
//! how many to expect, so nothing is ever built or allocated for a reply.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A reply, an array's header or an array's element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// `+OK`
    Simple(&'a [u8]),
    /// `-ERR …`
    Error(&'a [u8]),
    /// `:1`
    Integer(i64),
    /// `$3`; None is the null bulk string.
    Bulk(Option<&'a [u8]>),
    /// `*2`: so many tokens follow.
    Array(i64),
}

/// The first token of `bytes` and its length, or None if it is not complete yet.
///
/// # Errors
/// If the bytes are no RESP2.
pub fn first_token(bytes: &[u8]) -> Result<Option<(Token<'_>, usize)>> {
    let Some(end) = bytes.iter().position(|&b| b == b'\n') else {
        return Ok(None);
    };
    let (&kind, line) = bytes[..end].split_first().context("an empty line is no reply")?;
    let line = line.strip_suffix(b"\r").context("a reply's line ends in CR LF")?;
    let after = end + 1;
    let token = match kind {
        b'+' => Token::Simple(line),
        b'-' => Token::Error(line),
        b':' => Token::Integer(integer(line)?),
        b'*' => Token::Array(integer(line)?),
        b'$' => {
            let Ok(len) = usize::try_from(integer(line)?) else {
                return Ok(Some((Token::Bulk(None), after)));
            };
            if bytes.len() < after + len + 2 {
                return Ok(None);
            }
            return Ok(Some((Token::Bulk(Some(&bytes[after..after + len])), after + len + 2)));
        }
        other => bail!("{:?} starts no RESP2 reply", char::from(other)),
    };
    Ok(Some((token, after)))
}

fn integer(line: &[u8]) -> Result<i64> {
    let (negative, digits) = line.strip_prefix(b"-").map_or((false, line), |rest| (true, rest));
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        bail!("{:?} is no integer", String::from_utf8_lossy(line));
    }
    let value = digits.iter().fold(0, |value: i64, digit| value * 10 + i64::from(digit - b'0'));
    Ok(if negative { -value } else { value })
}

/// Appends one command.
pub fn write_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// A blocking connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    /// Connects; no call on this client takes longer than `timeout` without progress.
    ///
    /// # Errors
    /// If nothing accepts the connection.
    pub fn connect(address: SocketAddr, timeout: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self {
            stream,
            unread: Vec::new(),
        })
    }

    /// Sends raw commands.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send(&mut self, commands: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(commands)?)
    }

    /// Runs one command and returns the text of its reply; an integer as its digits.
    ///
    /// # Errors
    /// If the connection fails, the reply is an error, null or an array.
    pub fn run(&mut self, args: &[&str]) -> Result<String> {
        let mut command = Vec::new();
        write_command(&mut command, &args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>());
        self.send(&command)?;
        self.receive(|token| match token {
            Token::Simple(text) | Token::Bulk(Some(text)) => Ok(String::from_utf8_lossy(text).into_owned()),
            Token::Integer(value) => Ok(value.to_string()),
            Token::Error(text) => bail!("{}", String::from_utf8_lossy(text)),
            other @ (Token::Bulk(None) | Token::Array(_)) => bail!("unexpected reply {other:?}"),
        })
    }

    /// Hands the next token to `take`.
    ///
    /// # Errors
    /// If the connection fails, the reply is no RESP2, or `take` fails.
    pub fn receive<T>(&mut self, take: impl FnOnce(Token<'_>) -> Result<T>) -> Result<T> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some((token, len)) = first_token(&self.unread)? {
                let taken = take(token);
                self.unread.drain(..len);
                return taken;
            }
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                bail!("the server closed the connection");
            }
            self.unread.extend_from_slice(&chunk[..read]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_reply_is_a_token() {
        let cases: [(&[u8], Token<'_>); 7] = [
            (b"+OK\r\n", Token::Simple(b"OK")),
            (b"-ERR no\r\n", Token::Error(b"ERR no")),
            (b":-12\r\n", Token::Integer(-12)),
            (b"$3\r\na\nb\r\n", Token::Bulk(Some(b"a\nb"))),
            (b"$0\r\n\r\n", Token::Bulk(Some(b""))),
            (b"$-1\r\n", Token::Bulk(None)),
            (b"*2\r\n", Token::Array(2)),
        ];
        for (bytes, expected) in cases {
            let mut followed = bytes.to_vec();
            followed.extend_from_slice(b"+more\r\n");
            assert_eq!(first_token(&followed).unwrap(), Some((expected, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(first_token(&bytes[..cut]).unwrap(), None, "{:?}", &bytes[..cut]);
            }
        }
    }

    #[test]
    fn what_is_no_resp_is_refused() {
        for bytes in [
            &b"hello\r\n"[..],
            b":x\r\n",
            b":\r\n",
            b"\n",
            b"+OK\n",
            b":99999999999999999999\r\n",
        ] {
            assert!(first_token(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        write_command(&mut out, &[b"GET", b"k"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
