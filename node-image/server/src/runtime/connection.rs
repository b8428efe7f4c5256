//! The replica protocol on a socket: handshake, and an outbox that writes at once when the socket takes it.

use anyhow::{Context, bail};
use bytes::{Buf, BytesMut};
use quorate_api::ReplicaId;
use quorate_api::auth::{Side, prove, verify};
use quorate_api::wire::{Challenge, ClientKind, Frame, Hello, NodeAddresses, VERSION, Welcome, take};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

/// A peer that does not shake hands in this time is nobody.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that may wait for a peer: twice what the core keeps in flight. A peer that takes less is cut off.
const MAX_OUTBOX_BYTES: usize = 96 << 20;

/// A random text that nobody can foresee.
fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Reads one frame.
///
/// # Errors
/// When the connection ends or the frame is malformed.
pub async fn read_frame<F: Frame>(read: &mut OwnedReadHalf, buffer: &mut BytesMut) -> anyhow::Result<F> {
    loop {
        if let Some(frame) = take(buffer)? {
            return Ok(frame);
        }
        if read.read_buf(buffer).await? == 0 {
            bail!("the connection was closed");
        }
    }
}

/// Writes one frame.
///
/// # Errors
/// When the connection ends.
pub async fn write_frame(write: &mut OwnedWriteHalf, frame: &impl Frame) -> anyhow::Result<()> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    write.write_all(&bytes).await?;
    Ok(())
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Established<P> {
    /// Frames of the other side.
    pub read: OwnedReadHalf,
    /// Our frames.
    pub write: OwnedWriteHalf,
    /// What was read beyond the handshake.
    pub buffer: BytesMut,
    /// What the other side said of itself.
    pub peer: P,
}

/// Shakes hands as the side that was dialled.
///
/// # Errors
/// When the client does not prove that it knows the token, speaks another version, or takes too long.
pub async fn accept(stream: TcpStream, token: &[u8], id: ReplicaId, addresses: NodeAddresses) -> anyhow::Result<Established<ClientKind>> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, async {
        stream.set_nodelay(true)?;
        let (mut read, mut write) = stream.into_split();
        let mut buffer = BytesMut::with_capacity(64 << 10);
        let server = nonce();
        write_frame(
            &mut write,
            &Challenge {
                version: VERSION,
                nonce: server.clone(),
            },
        )
        .await?;
        let hello: Hello = read_frame(&mut read, &mut buffer).await?;
        if hello.version != VERSION {
            bail!(
                "the client speaks version {} of the replica protocol, this node version {VERSION}",
                hello.version
            );
        }
        if !verify(token, Side::Client, &server, &hello.nonce, &hello.proof) {
            bail!("the client does not know the store's token");
        }
        let proof = prove(token, Side::Server, &server, &hello.nonce);
        write_frame(&mut write, &Welcome { proof, id, addresses }).await?;
        Ok(Established {
            read,
            write,
            buffer,
            peer: hello.client,
        })
    })
    .await
    .context("handshake took too long")?
}

/// Dials and shakes hands.
///
/// # Errors
/// When nobody answers, or the server does not prove that it knows the token.
pub async fn dial(address: &str, token: &[u8], client: ClientKind) -> anyhow::Result<Established<Welcome>> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, async {
        let stream = TcpStream::connect(address).await.with_context(|| format!("dial {address}"))?;
        stream.set_nodelay(true)?;
        let (mut read, mut write) = stream.into_split();
        let mut buffer = BytesMut::with_capacity(64 << 10);
        let challenge: Challenge = read_frame(&mut read, &mut buffer).await?;
        let ours = nonce();
        let proof = prove(token, Side::Client, &challenge.nonce, &ours);
        write_frame(
            &mut write,
            &Hello {
                version: VERSION,
                nonce: ours.clone(),
                proof,
                client,
            },
        )
        .await?;
        let welcome: Welcome = read_frame(&mut read, &mut buffer).await?;
        if !verify(token, Side::Server, &challenge.nonce, &ours, &welcome.proof) {
            bail!("the node at {address} does not know the store's token");
        }
        Ok(Established {
            read,
            write,
            buffer,
            peer: welcome,
        })
    })
    .await
    .with_context(|| format!("handshake with {address} took too long"))?
}

#[derive(Debug)]
struct OutboxState {
    buffer: BytesMut,
    write: Option<OwnedWriteHalf>,
    closed: bool,
}

/// What leaves on a connection, in order. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox {
    state: Rc<RefCell<OutboxState>>,
    more: Rc<Notify>,
}

impl Outbox {
    /// Takes the writing half.
    #[must_use]
    pub fn new(write: OwnedWriteHalf) -> Self {
        let state = OutboxState {
            buffer: BytesMut::new(),
            write: Some(write),
            closed: false,
        };
        Self {
            state: Rc::new(RefCell::new(state)),
            more: Rc::new(Notify::new()),
        }
    }

    /// Queues a frame; [`Outbox::kick`] sends.
    pub fn push(&self, frame: &impl Frame) {
        let mut state = self.state.borrow_mut();
        if state.closed {
            return;
        }
        frame.encode(&mut state.buffer);
        if state.buffer.len() > MAX_OUTBOX_BYTES {
            state.closed = true;
            self.more.notify_one();
        }
    }

    /// Writes what the socket takes without waiting.
    pub fn kick(&self) {
        let mut state = self.state.borrow_mut();
        let OutboxState { buffer, write, closed } = &mut *state;
        // While the pump holds the writing half, it sends whatever is queued.
        let Some(half) = write else { return };
        while !buffer.is_empty() && !*closed {
            match half.try_write(buffer) {
                Ok(0) => *closed = true,
                Ok(written) => buffer.advance(written),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => *closed = true,
            }
        }
        if !buffer.is_empty() || *closed {
            self.more.notify_one();
        }
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.state.borrow_mut().closed = true;
        self.more.notify_one();
    }

    /// Sends what the socket did not take at once; ends when the connection does.
    pub async fn pump(&self) {
        loop {
            self.more.notified().await;
            let taken = {
                let mut state = self.state.borrow_mut();
                if state.closed {
                    state.write = None;
                    return;
                }
                state.write.take()
            };
            let Some(mut half) = taken else { return };
            loop {
                let bytes = {
                    let mut state = self.state.borrow_mut();
                    if state.closed {
                        return;
                    }
                    state.buffer.split()
                };
                if bytes.is_empty() {
                    break;
                }
                if half.write_all(&bytes).await.is_err() {
                    self.state.borrow_mut().closed = true;
                    return;
                }
            }
            self.state.borrow_mut().write = Some(half);
        }
    }
}
