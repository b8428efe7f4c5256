//! A closed-loop load of writes on a store of many shards: one thread, one epoll, clients that follow MOVED and ASK.
//!
//! A client has a connection to every node that it was ever sent to, and one write under way: its latency is the time from the
//! first send to the acknowledgement, redirections and waits included. Where slots are is learnt by MOVED, and shared by all
//! clients. Every write is remembered with its slot: what became of writes to a slot that moved is looked up afterwards.

use crate::bench::keys::{KeySource, key_name, value};
use crate::local::resp::{Token, first_token, write_command};
use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll};
use quorate_api::slot::{SLOTS, slot_of};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A load without any acknowledgement for so long has failed.
const STALL: Duration = Duration::from_secs(20);
/// After "try again".
const RETRY: Duration = Duration::from_millis(1);
/// Of each connection's receive buffer: replies to one write are a few dozen bytes.
const RECEIVE_BYTES: usize = 1024;

/// A load.
#[derive(Clone, Debug)]
pub struct Load {
    /// The first node to ask.
    pub seed: SocketAddr,
    /// Every SET is followed by `WAITAOF 1 1 0`, and acknowledged by its reply.
    pub confirm: bool,
    /// Writes under way.
    pub clients: usize,
    /// Keys are drawn uniformly from so many, at least 1.
    pub keys: u64,
    /// Length of every value.
    pub value_bytes: usize,
}

/// An acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was acknowledged, since the load began.
    pub ended: Duration,
    /// How long that took.
    pub latency: Duration,
    /// Of its key.
    pub slot: u16,
}

/// What a load has seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it began.
    pub began: Instant,
    /// In the order in which they were acknowledged.
    pub operations: Vec<Operation>,
    /// MOVED and ASK.
    pub redirections: u64,
}

/// Sets every key once.
///
/// # Errors
/// As [`run`].
pub fn fill(load: &Load) -> Result<()> {
    let mut next = 0..load.keys;
    let mut generator = Generator::new(load)?;
    generator.run(&mut || next.next(), &AtomicBool::new(false))
}

/// Writes until `stop`.
///
/// # Errors
/// If a connection fails, a node answers something unexpected, or nothing is acknowledged for 20 s.
pub fn run(load: &Load, stop: &AtomicBool) -> Result<Seen> {
    let mut keys = KeySource::new(load.keys);
    let mut generator = Generator::new(load)?;
    generator.run(&mut || Some(keys.draw()), stop)?;
    Ok(generator.seen)
}

/// What the replies to a write say, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Acknowledged,
    Moved(SocketAddr),
    Ask(SocketAddr),
    TryAgain,
}

#[derive(Debug)]
struct Client {
    connections: HashMap<SocketAddr, usize>,
    command: Vec<u8>,
    slot: u16,
    sent_first: Instant,
    /// Tokens of the reply that are still to come, the last of them included.
    awaited: usize,
    /// The next token answers the SET itself only when so many are left.
    set_at: usize,
    verdict: Verdict,
}

struct Connection {
    stream: TcpStream,
    client: usize,
    unsent: Vec<u8>,
    received: Vec<u8>,
    filled: usize,
}

struct Generator<'a> {
    load: &'a Load,
    poll: Poll,
    value: Vec<u8>,
    clients: Vec<Client>,
    connections: Vec<Connection>,
    owners: Vec<SocketAddr>,
    /// Clients that were told to try again.
    later: Vec<usize>,
    idle: usize,
    seen: Seen,
}

impl<'a> Generator<'a> {
    fn new(load: &'a Load) -> Result<Self> {
        ensure!(load.clients > 0 && load.keys > 0, "a load has clients and keys");
        let began = Instant::now();
        let client = || Client {
            connections: HashMap::new(),
            command: Vec::new(),
            slot: 0,
            sent_first: began,
            awaited: 0,
            set_at: 0,
            verdict: Verdict::Acknowledged,
        };
        Ok(Self {
            load,
            poll: Poll::new()?,
            value: value(load.value_bytes),
            clients: (0..load.clients).map(|_| client()).collect(),
            connections: Vec::new(),
            owners: vec![load.seed; usize::from(SLOTS)],
            later: Vec::new(),
            idle: 0,
            seen: Seen {
                began,
                operations: Vec::new(),
                redirections: 0,
            },
        })
    }

    /// Until there are no more keys, or `stop`.
    fn run(&mut self, keys: &mut impl FnMut() -> Option<u64>, stop: &AtomicBool) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut progress = (0, Instant::now());
        for client in 0..self.clients.len() {
            self.begin(client, keys, Instant::now())?;
        }
        while self.idle < self.clients.len() && !stop.load(Ordering::Relaxed) {
            let patience = if self.later.is_empty() { Duration::from_millis(100) } else { RETRY };
            match self.poll.poll(&mut events, Some(patience)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            let now = Instant::now();
            for event in &events {
                let number = event.token().0;
                if event.is_writable() {
                    self.connections[number].flush()?;
                }
                if event.is_readable() {
                    self.read(number, keys, now)?;
                }
            }
            for client in std::mem::take(&mut self.later) {
                self.send(client, None)?;
            }
            let done = self.seen.operations.len();
            if done > progress.0 {
                progress = (done, now);
            }
            ensure!(now.duration_since(progress.1) < STALL, "no acknowledgement for {STALL:?}");
        }
        Ok(())
    }

    /// The next write of a client.
    fn begin(&mut self, number: usize, keys: &mut impl FnMut() -> Option<u64>, now: Instant) -> Result<()> {
        let Some(key) = keys() else {
            self.idle += 1;
            return Ok(());
        };
        let key = key_name(key);
        let client = &mut self.clients[number];
        client.slot = slot_of(key.as_bytes());
        client.sent_first = now;
        client.command.clear();
        write_command(&mut client.command, &[b"SET", key.as_bytes(), &self.value]);
        if self.load.confirm {
            write_command(&mut client.command, &[b"WAITAOF", b"1", b"1", b"0"]);
        }
        self.send(number, None)
    }

    /// Sends a client's write to the owner of its slot, or to the node that says to ask there.
    fn send(&mut self, number: usize, ask: Option<SocketAddr>) -> Result<()> {
        let address = ask.unwrap_or(self.owners[usize::from(self.clients[number].slot)]);
        let connection = match self.clients[number].connections.get(&address) {
            Some(connection) => *connection,
            None => self.connect(number, address)?,
        };
        let client = &mut self.clients[number];
        client.set_at = if self.load.confirm { 4 } else { 1 };
        client.awaited = client.set_at;
        let connection = &mut self.connections[connection];
        if ask.is_some() {
            client.awaited += 1;
            write_command(&mut connection.unsent, &[b"ASKING"]);
        }
        connection.unsent.extend_from_slice(&client.command);
        connection.flush()
    }

    fn connect(&mut self, client: usize, address: SocketAddr) -> Result<usize> {
        let stream = std::net::TcpStream::connect_timeout(&address, STALL)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let number = self.connections.len();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, mio::Token(number), interest)?;
        self.connections.push(Connection {
            stream,
            client,
            unsent: Vec::new(),
            received: vec![0; RECEIVE_BYTES],
            filled: 0,
        });
        self.clients[client].connections.insert(address, number);
        Ok(number)
    }

    /// Reads all there is: the notification is edge-triggered.
    fn read(&mut self, number: usize, keys: &mut impl FnMut() -> Option<u64>, now: Instant) -> Result<()> {
        while self.connections[number].receive()? {
            let client = self.connections[number].client;
            if self.connections[number].take_replies(&mut self.clients[client])? {
                self.on_replies(client, keys, now)?;
            }
        }
        Ok(())
    }

    /// All replies to a client's write are there.
    fn on_replies(&mut self, number: usize, keys: &mut impl FnMut() -> Option<u64>, now: Instant) -> Result<()> {
        let client = &self.clients[number];
        match client.verdict {
            Verdict::Acknowledged => {
                self.seen.operations.push(Operation {
                    ended: now.duration_since(self.seen.began),
                    latency: now.duration_since(client.sent_first),
                    slot: client.slot,
                });
                self.begin(number, keys, now)
            }
            Verdict::Moved(owner) => {
                self.seen.redirections += 1;
                self.owners[usize::from(client.slot)] = owner;
                self.send(number, None)
            }
            Verdict::Ask(owner) => {
                self.seen.redirections += 1;
                self.send(number, Some(owner))
            }
            Verdict::TryAgain => {
                self.later.push(number);
                Ok(())
            }
        }
    }
}

impl Connection {
    fn flush(&mut self) -> Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => bail!("a node closed the connection"),
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives whether there was anything.
    fn receive(&mut self) -> Result<bool> {
        ensure!(self.filled < self.received.len(), "a reply is longer than {RECEIVE_BYTES} bytes");
        match self.stream.read(&mut self.received[self.filled..]) {
            Ok(0) => bail!("a node closed the connection"),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Gives whether those were the last of the write under way.
    fn take_replies(&mut self, client: &mut Client) -> Result<bool> {
        let mut taken = 0;
        while let Some((token, len)) = first_token(&self.received[taken..self.filled])? {
            ensure!(client.awaited > 0, "a reply to nothing: {token:?}");
            if client.awaited == client.set_at {
                client.verdict = verdict(token)?;
            } else {
                check_confirmation(token, client)?;
            }
            client.awaited -= 1;
            taken += len;
        }
        self.received.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        Ok(taken > 0 && client.awaited == 0)
    }
}

/// The reply to a SET.
fn verdict(token: Token<'_>) -> Result<Verdict> {
    let text = match token {
        Token::Simple(b"OK") => return Ok(Verdict::Acknowledged),
        Token::Error(text) => std::str::from_utf8(text)?,
        other => bail!("unexpected reply {other:?}"),
    };
    let address = || text.rsplit(' ').next().unwrap_or_default().parse().with_context(|| text.to_owned());
    match text.split(' ').next() {
        Some("MOVED") => Ok(Verdict::Moved(address()?)),
        Some("ASK") => Ok(Verdict::Ask(address()?)),
        Some("TRYAGAIN" | "CLUSTERDOWN") => Ok(Verdict::TryAgain),
        _ => bail!("a node answered {text}"),
    }
}

/// The reply to ASKING before a SET, or to WAITAOF after it.
fn check_confirmation(token: Token<'_>, client: &Client) -> Result<()> {
    let refused = client.verdict != Verdict::Acknowledged;
    match token {
        Token::Simple(b"OK") if client.awaited > client.set_at => Ok(()),
        Token::Array(2) if client.awaited == 3 => Ok(()),
        Token::Integer(copies) if client.awaited <= 2 && (copies >= 1 || refused) => Ok(()),
        other => bail!("unexpected reply {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers the commands that come with these replies, one after the other, then OK for ever.
    fn node(replies: Vec<String>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut replies, mut buffer) = (replies.into_iter(), [0; 4096]);
            while let Ok(read) = stream.read(&mut buffer) {
                let commands = String::from_utf8_lossy(&buffer[..read]).matches('*').count();
                for _ in 0..commands {
                    let reply = replies.next().unwrap_or_else(|| "+OK\r\n".into());
                    if stream.write_all(reply.as_bytes()).is_err() {
                        return;
                    }
                }
                if read == 0 {
                    return;
                }
            }
        });
        address
    }

    fn load(seed: SocketAddr, keys: u64) -> Load {
        Load {
            seed,
            confirm: false,
            clients: 1,
            keys,
            value_bytes: 5,
        }
    }

    #[test]
    fn a_write_goes_where_moved_and_ask_say_and_is_counted_once() {
        let target = node(Vec::new());
        let slot = slot_of(key_name(0).as_bytes());
        let source = node(vec![
            format!("-ASK {slot} {target}\r\n"),
            "-TRYAGAIN later\r\n".into(),
            format!("-MOVED {slot} {target}\r\n"),
        ]);
        let load = load(source, 2);
        let mut keys = [0, 0, 0].into_iter();
        let mut generator = Generator::new(&load).unwrap();
        generator.run(&mut || keys.next(), &AtomicBool::new(false)).unwrap();
        let Seen {
            operations, redirections, ..
        } = generator.seen;
        assert_eq!((operations.len(), redirections), (3, 2));
        assert!(operations.iter().all(|operation| operation.slot == slot));
    }

    #[test]
    fn an_unexpected_answer_ends_the_load() {
        let source = node(vec!["-ERR no\r\n".into()]);
        let error = fill(&load(source, 1)).unwrap_err();
        assert!(error.to_string().contains("ERR no"), "{error:#}");
    }
}
