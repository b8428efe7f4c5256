//! A closed-loop load on a server of the Redis protocol: one thread, one epoll, many connections.
//!
//! Every connection sends a batch of `pipeline` commands in one write, waits for all replies, and sends the next.
//! The bytes of a batch are built once; for the next batch only the key's digits are overwritten, so that nothing is
//! allocated or formatted while the load runs. Every reply is checked: an error, a missing key or a confirmation
//! by too few replicas ends the run.
//!
//! It follows no redirection: the address is that of a primary that owns every slot.

use super::keys::{KEY_DIGITS, KeySource, key_name, value, write_digits};
use super::measure::{Measurement, Recorder};
use crate::local::resp::{Client, Token, first_token, write_command};
use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A load run without any reply for so long has failed.
const STALL: Duration = Duration::from_secs(10);
/// Of each connection's receive buffer: several times the replies of a batch of 16 GETs.
const RECEIVE_BYTES: usize = 32 * 1024;
/// Commands that [`fill`] has in flight.
const FILL_BATCH: u64 = 500;

/// What each command of a batch does, and what ends the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// SET.
    Set,
    /// GET.
    Get,
    /// SETs, then one `WAITAOF 1 1 0`: they are in the log files of the primary and of one replica.
    SetWaitAof,
    /// SETs, then one `WAIT 1 0`: one replica has them.
    SetWait,
}

impl Command {
    /// The command that ends a batch.
    fn confirmation(self) -> Option<&'static [&'static [u8]]> {
        match self {
            Self::Set | Self::Get => None,
            Self::SetWaitAof => Some(&[b"WAITAOF", b"1", b"1", b"0"]),
            Self::SetWait => Some(&[b"WAIT", b"1", b"0"]),
        }
    }

    /// Tokens of the reply to [`Self::confirmation`].
    fn confirmation_tokens(self) -> usize {
        match self {
            Self::Set | Self::Get => 0,
            Self::SetWaitAof => 3,
            Self::SetWait => 1,
        }
    }
}

/// A load.
#[derive(Clone, Debug)]
pub struct Load {
    /// The server.
    pub address: SocketAddr,
    /// What is sent.
    pub command: Command,
    /// Connections.
    pub clients: usize,
    /// Commands of a batch, at least 1.
    pub pipeline: usize,
    /// Keys are drawn uniformly from so many, at least 1.
    pub keys: u64,
    /// Length of every value.
    pub value_bytes: usize,
    /// Load before the measurement.
    pub warm_up: Duration,
    /// The measurement.
    pub duration: Duration,
}

/// Sets every key once, so that every GET finds a value.
///
/// # Errors
/// If the server fails or refuses a write.
pub fn fill(address: SocketAddr, keys: u64, value_bytes: usize) -> Result<()> {
    let mut client = Client::connect(address, STALL)?;
    let value = value(value_bytes);
    let mut batch = Vec::new();
    for first in (0..keys).step_by(usize::try_from(FILL_BATCH)?) {
        let end = keys.min(first + FILL_BATCH);
        batch.clear();
        for key in first..end {
            write_command(&mut batch, &[b"SET", key_name(key).as_bytes(), &value]);
        }
        client.send(&batch)?;
        for _ in first..end {
            client.receive(|token| expect_token(token, matches!(token, Token::Simple(b"OK"))))?;
        }
    }
    Ok(())
}

/// Runs a load on the calling thread.
///
/// # Errors
/// If a connection fails, a reply is not the expected one, or no reply comes for 10 s.
pub fn run(load: &Load) -> Result<Measurement> {
    ensure!(
        load.clients > 0 && load.pipeline > 0 && load.keys > 0,
        "a load has clients, commands and keys"
    );
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(load.clients);
    let mut keys = KeySource::new(load.keys);
    let mut connections = Vec::with_capacity(load.clients);
    for token in 0..load.clients {
        let mut connection = Connection::open(load)?;
        poll.registry()
            .register(&mut connection.stream, mio::Token(token), Interest::READABLE | Interest::WRITABLE)?;
        connections.push(connection);
    }
    let mut recorder = Recorder::new(load.warm_up, load.duration);
    let start = Instant::now();
    for connection in &mut connections {
        connection.send_batch(start, &mut keys)?;
    }
    let mut progress = start;
    loop {
        if let Err(error) = poll.poll(&mut events, Some(Duration::from_millis(100)))
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        let now = Instant::now();
        if !recorder.advance(now) {
            return recorder.finish(now).context("the run ended within its warm-up");
        }
        for event in &events {
            let connection = &mut connections[event.token().0];
            if event.is_writable() {
                connection.flush()?;
            }
            if event.is_readable() && connection.read(now, &mut recorder, &mut keys)? {
                progress = now;
            }
        }
        ensure!(now.duration_since(progress) < STALL, "no reply for {STALL:?}");
    }
}

struct Connection {
    stream: TcpStream,
    command: Command,
    pipeline: usize,
    value_bytes: usize,
    /// The bytes of a batch, of which `sent` are written.
    batch: Vec<u8>,
    sent: usize,
    /// Where each command's key digits are in `batch`.
    key_offsets: Vec<usize>,
    batch_sent_at: Instant,
    /// Tokens of this batch's replies seen so far.
    tokens: usize,
    received: Vec<u8>,
    filled: usize,
}

impl Connection {
    fn open(load: &Load) -> Result<Self> {
        let stream = std::net::TcpStream::connect_timeout(&load.address, STALL)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let (batch, key_offsets) = batch(load);
        Ok(Self {
            stream: TcpStream::from_std(stream),
            command: load.command,
            pipeline: load.pipeline,
            value_bytes: load.value_bytes,
            sent: batch.len(),
            batch,
            key_offsets,
            batch_sent_at: Instant::now(),
            tokens: 0,
            received: vec![0; RECEIVE_BYTES.max(4 * load.value_bytes)],
            filled: 0,
        })
    }

    fn send_batch(&mut self, now: Instant, keys: &mut KeySource) -> Result<()> {
        for &offset in &self.key_offsets {
            write_digits(&mut self.batch[offset..offset + KEY_DIGITS], keys.draw());
        }
        self.sent = 0;
        self.tokens = 0;
        self.batch_sent_at = now;
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        while self.sent < self.batch.len() {
            match self.stream.write(&self.batch[self.sent..]) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads all there is; returns whether there was anything.
    fn read(&mut self, now: Instant, recorder: &mut Recorder, keys: &mut KeySource) -> Result<bool> {
        let mut any = false;
        loop {
            let room = self.received.len() - self.filled;
            ensure!(room > 0, "a reply is longer than {} bytes", self.received.len());
            match self.stream.read(&mut self.received[self.filled..]) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(read) => {
                    any = true;
                    self.filled += read;
                    self.take_replies(now, recorder, keys)?;
                    // The notification is edge-triggered; a short read has emptied the socket (epoll(7)).
                    if read < room {
                        return Ok(any);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take_replies(&mut self, now: Instant, recorder: &mut Recorder, keys: &mut KeySource) -> Result<()> {
        let confirmation_tokens = self.command.confirmation_tokens();
        let expected = self.pipeline + confirmation_tokens;
        let mut taken = 0;
        let mut acknowledged = 0;
        while let Some((token, len)) = first_token(&self.received[taken..self.filled])? {
            ensure!(self.tokens < expected, "a reply to nothing: {token:?}");
            self.check(token)?;
            taken += len;
            self.tokens += 1;
            // With a confirmation, no command of the batch is acknowledged before it.
            if confirmation_tokens == 0 {
                acknowledged += 1;
            } else if self.tokens == expected {
                acknowledged = self.pipeline as u64;
            }
        }
        self.received.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        if acknowledged > 0 {
            recorder.record(now.duration_since(self.batch_sent_at), acknowledged);
        }
        if self.tokens == expected {
            self.send_batch(now, keys)
        } else {
            Ok(())
        }
    }

    fn check(&self, token: Token<'_>) -> Result<()> {
        let right = match (self.tokens.checked_sub(self.pipeline), self.command) {
            (None, Command::Get) => matches!(token, Token::Bulk(Some(value)) if value.len() == self.value_bytes),
            (None, _) => token == Token::Simple(b"OK"),
            (Some(0), Command::SetWaitAof) => token == Token::Array(2),
            (Some(_), _) => matches!(token, Token::Integer(copies) if copies >= 1),
        };
        expect_token(token, right)
    }
}

fn expect_token(token: Token<'_>, right: bool) -> Result<()> {
    match token {
        _ if right => Ok(()),
        Token::Error(text) => bail!("the server answered {}", String::from_utf8_lossy(text)),
        other => bail!("unexpected reply {other:?}"),
    }
}

/// The bytes of a batch and the offsets of the key digits in them.
fn batch(load: &Load) -> (Vec<u8>, Vec<usize>) {
    let key = key_name(0);
    let value = value(load.value_bytes);
    let mut bytes = Vec::new();
    let mut offsets = Vec::with_capacity(load.pipeline);
    for _ in 0..load.pipeline {
        let start = bytes.len();
        match load.command {
            Command::Get => write_command(&mut bytes, &[b"GET", key.as_bytes()]),
            Command::Set | Command::SetWaitAof | Command::SetWait => write_command(&mut bytes, &[b"SET", key.as_bytes(), &value]),
        }
        let digits = &key.as_bytes()[key.len() - KEY_DIGITS..];
        let offset = bytes[start..]
            .windows(KEY_DIGITS)
            .position(|window| window == digits)
            .expect("the command contains its key");
        offsets.push(start + offset);
    }
    if let Some(confirmation) = load.command.confirmation() {
        write_command(&mut bytes, confirmation);
    }
    (bytes, offsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    fn load(address: SocketAddr, command: Command) -> Load {
        Load {
            address,
            command,
            clients: 1,
            pipeline: 3,
            keys: 7,
            value_bytes: 5,
            warm_up: Duration::from_millis(5),
            duration: Duration::from_millis(50),
        }
    }

    /// Answers every complete batch with `reply`, cut into single bytes' writes at its start.
    fn server(batch_bytes: usize, reply: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut batch = vec![0; batch_bytes];
            while stream.read_exact(&mut batch).is_ok() {
                let (first, rest) = reply.split_at(3);
                if stream.write_all(first).is_err() || stream.write_all(rest).is_err() {
                    return;
                }
            }
        });
        address
    }

    fn run_against(command: Command, reply: &'static [u8]) -> Result<Measurement> {
        let bytes = batch(&load(SocketAddr::from(([127, 0, 0, 1], 1)), command)).0.len();
        run(&load(server(bytes, reply), command))
    }

    #[test]
    fn only_right_replies_count() {
        let right: [(Command, &[u8]); 4] = [
            (Command::Set, b"+OK\r\n+OK\r\n+OK\r\n"),
            (Command::Get, b"$5\r\naaaaa\r\n$5\r\nbbbbb\r\n$5\r\nccccc\r\n"),
            (Command::SetWaitAof, b"+OK\r\n+OK\r\n+OK\r\n*2\r\n:1\r\n:2\r\n"),
            (Command::SetWait, b"+OK\r\n+OK\r\n+OK\r\n:1\r\n"),
        ];
        for (command, reply) in right {
            let measured = run_against(command, reply).unwrap();
            assert!(measured.per_second > 0.0, "{command:?}");
            assert_eq!(measured.latency.len() % if command == Command::SetWait { 3 } else { 1 }, 0);
        }
        let wrong: [(Command, &[u8]); 5] = [
            (Command::Set, b"+OK\r\n-ERR full\r\n+OK\r\n"),
            (Command::Get, b"$5\r\naaaaa\r\n$-1\r\n$5\r\nccccc\r\n"),
            (Command::SetWaitAof, b"+OK\r\n+OK\r\n+OK\r\n*2\r\n:1\r\n:0\r\n"),
            (Command::SetWait, b"+OK\r\n+OK\r\n+OK\r\n:0\r\n"),
            (Command::Set, b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n"),
        ];
        for (command, reply) in wrong {
            assert!(
                run_against(command, reply).is_err(),
                "{command:?} {}",
                String::from_utf8_lossy(reply)
            );
        }
    }

    #[test]
    fn a_batch_holds_its_keys_where_the_offsets_say() {
        let load = load(SocketAddr::from(([127, 0, 0, 1], 1)), Command::SetWaitAof);
        let (mut bytes, offsets) = batch(&load);
        for (number, &offset) in (41..).zip(&offsets) {
            write_digits(&mut bytes[offset..offset + KEY_DIGITS], number);
        }
        let mut expected = Vec::new();
        for key in 41..44 {
            write_command(&mut expected, &[b"SET", key_name(key).as_bytes(), &value(5)]);
        }
        write_command(&mut expected, &[b"WAITAOF", b"1", b"1", b"0"]);
        assert_eq!(bytes, expected);
    }
}
