//! A cluster client that tells exactly what it knows of every command: acknowledged, definitely not, or unknown.
//!
//! It follows MOVED and remembers where each slot was, turns to another node when a connection breaks or nobody answers in
//! time, and repeats nothing by itself: whether to repeat is the caller's decision, as it is for any client that cares.

use crate::local::resp::{Token, first_token, write_command};
use quorate_api::slot::slot_of;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A command that is not answered in this time has an unknown outcome, and the client turns to another node.
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);
/// A node that does not take a connection in this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// Nodes remembered. A store of the tests has at most fifteen, and their addresses change when pods restart.
const MAX_NODES: usize = 32;

/// A reply to a command of one bulk string or status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A status, or an integer.
    Done,
    /// A value; None where there is none.
    Value(Option<Vec<u8>>),
}

/// Why there is no reply, and what that says of the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It did not take effect and never will.
    DefinitelyNot,
    /// It may have taken effect, or may yet.
    Unknown,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    nodes: Vec<SocketAddr>,
    current: usize,
    /// Where slots were, as far as a node said so.
    owners: HashMap<u16, SocketAddr>,
    open: HashMap<SocketAddr, Connection>,
    /// Set: stay with one node, whatever it says.
    pinned: bool,
}

impl Client {
    /// A client that knows these nodes.
    #[must_use]
    pub fn new(nodes: Vec<SocketAddr>) -> Self {
        Self {
            nodes,
            current: 0,
            owners: HashMap::new(),
            open: HashMap::new(),
            pinned: false,
        }
    }

    /// A client of one node that follows no redirection.
    #[must_use]
    pub fn pinned(node: SocketAddr) -> Self {
        Self {
            pinned: true,
            ..Self::new(vec![node])
        }
    }

    /// The node that the next command goes to.
    #[must_use]
    pub fn node(&self) -> SocketAddr {
        self.nodes[self.current]
    }

    /// Turns to where the key's slot was last, if that is known.
    pub fn aim(&mut self, key: &[u8]) {
        if let Some(owner) = self.owners.get(&slot_of(key)).copied() {
            self.learn(owner);
        }
    }

    /// Sends one command to the node that [`Self::node`] names.
    ///
    /// # Errors
    /// See [`Failure`]. The next call goes to the node that is most likely to answer.
    pub async fn call(&mut self, args: &[&[u8]]) -> Result<Reply, Failure> {
        let node = self.node();
        let mut command = Vec::new();
        write_command(&mut command, args);
        let Some(connection) = self.connect(node).await else {
            self.give_up(node);
            return Err(Failure::DefinitelyNot);
        };
        match timeout(REPLY_TIMEOUT, exchange(connection, &command)).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            Ok(Ok(Err(error))) => Err(self.refused(&error)),
            Ok(Err(_)) | Err(_) => {
                self.open.remove(&node);
                self.give_up(node);
                Err(Failure::Unknown)
            }
        }
    }

    /// Turns to another node, and expects nothing of this one.
    fn give_up(&mut self, node: SocketAddr) {
        self.owners.retain(|_, owner| *owner != node);
        self.turn();
    }

    fn refused(&mut self, error: &str) -> Failure {
        let mut words = error.split(' ');
        match words.next() {
            Some("MOVED") => {
                let (slot, target) = (words.next().map(str::parse), words.next().map(str::parse));
                if let (Some(Ok(slot)), Some(Ok(target))) = (slot, target)
                    && !self.pinned
                {
                    self.owners.insert(slot, target);
                    self.learn(target);
                }
                Failure::DefinitelyNot
            }
            Some("UNKNOWN") => {
                self.give_up(self.node());
                Failure::Unknown
            }
            // A slot on its way to another shard: its owner knows best.
            Some("TRYAGAIN") => Failure::DefinitelyNot,
            _ => {
                self.give_up(self.node());
                Failure::DefinitelyNot
            }
        }
    }

    fn learn(&mut self, node: SocketAddr) {
        if let Some(at) = self.nodes.iter().position(|known| *known == node) {
            self.current = at;
            return;
        }
        if self.nodes.len() == MAX_NODES {
            let forgotten = self.nodes.remove(0);
            self.open.remove(&forgotten);
        }
        self.nodes.push(node);
        self.current = self.nodes.len() - 1;
    }

    fn turn(&mut self) {
        self.current = (self.current + 1) % self.nodes.len();
    }

    async fn connect(&mut self, node: SocketAddr) -> Option<&mut Connection> {
        if !self.open.contains_key(&node) {
            self.open(node).await?;
        }
        self.open.get_mut(&node)
    }

    async fn open(&mut self, node: SocketAddr) -> Option<()> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(node)).await.ok()?.ok()?;
        stream.set_nodelay(true).ok()?;
        let unread = Vec::new();
        self.open.insert(node, Connection { stream, unread });
        if !self.pinned {
            self.discover(node).await;
        }
        Some(())
    }

    /// Asks a new node for the others: pods that restarted have new addresses.
    async fn discover(&mut self, node: SocketAddr) {
        let mut command = Vec::new();
        write_command(&mut command, &[b"CLUSTER", b"NODES"]);
        let Some(connection) = self.open.get_mut(&node) else { return };
        let Ok(Ok(Ok(Reply::Value(Some(text))))) = timeout(REPLY_TIMEOUT, exchange(connection, &command)).await else {
            self.open.remove(&node);
            return;
        };
        let current = self.current;
        for line in String::from_utf8_lossy(&text).lines() {
            let address = line.split(' ').nth(1).and_then(|address| address.split('@').next());
            if let Some(Ok(address)) = address.map(str::parse)
                && self.nodes.len() < MAX_NODES
            {
                self.learn(address);
            }
        }
        self.current = current;
    }
}

async fn exchange(connection: &mut Connection, command: &[u8]) -> std::io::Result<Result<Reply, String>> {
    connection.stream.write_all(command).await?;
    loop {
        let found = match first_token(&connection.unread) {
            Ok(found) => found,
            Err(error) => return Err(std::io::Error::other(error)),
        };
        if let Some((token, length)) = found {
            let reply = match token {
                Token::Simple(_) | Token::Integer(_) | Token::Array(_) => Ok(Reply::Done),
                Token::Error(text) => Err(String::from_utf8_lossy(text).into_owned()),
                Token::Bulk(value) => Ok(Reply::Value(value.map(<[u8]>::to_vec))),
            };
            connection.unread.drain(..length);
            return Ok(reply);
        }
        if connection.stream.read_buf(&mut connection.unread).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
