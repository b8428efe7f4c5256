//! The replica protocol on a socket: handshake, and an outbox that writes at once when the socket takes it.

use anyhow::{Context, bail};
use bytes::{Buf, BytesMut};
use quorate_api::ReplicaId;
use quorate_api::auth::{Side, prove, verify};
use quorate_api::wire::{Challenge, ClientKind, Frame, Hello, NodeAddresses, VERSION, Welcome};
use quorate_client::connect::{Established, HANDSHAKE_TIMEOUT, nonce, read_frame, tune, write_frame};
use std::cell::RefCell;
use std::rc::Rc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

/// Bytes that may wait for a peer: twice what the core keeps in flight. A peer that takes less is cut off.
const MAX_OUTBOX_BYTES: usize = 96 << 20;

/// Shakes hands as the side that was dialled.
///
/// # Errors
/// When the client does not prove that it knows the token, speaks another version, or takes too long.
pub async fn accept(stream: TcpStream, token: &[u8], id: ReplicaId, addresses: NodeAddresses) -> anyhow::Result<Established<ClientKind>> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, async {
        tune(&stream)?;
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
