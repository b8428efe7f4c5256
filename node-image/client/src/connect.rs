//! A connection to a node: the handshake of the side that dials, and frames.

use anyhow::{Context, bail};
use bytes::BytesMut;
use quorate_api::Incarnation;
use quorate_api::auth::{Side, prove, verify};
use quorate_api::wire::{Challenge, ClientKind, Frame, Hello, Reply, Request, VERSION, Welcome, take};
use rustix::net::sockopt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A peer that does not shake hands in this time is nobody.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// A machine that loses power says nothing, and its pod comes back with another address: what was sent and is not
/// acknowledged by its kernel for so long ends the connection, where the system's own patience is a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(3);
/// The same for a connection on which nothing is sent: asked after this time, then every second.
const IDLE: Duration = Duration::from_secs(2);

/// Sets what every connection of the replica protocol needs: no delay, and an end when the other machine is gone. One whose
/// process merely hangs stays: its silence is the failure detector's matter.
///
/// # Errors
/// When the system refuses.
pub fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX))?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

/// A random text that nobody can foresee.
#[must_use]
pub fn nonce() -> String {
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

/// Dials and shakes hands.
///
/// # Errors
/// When nobody answers, or the server does not prove that it knows the token.
pub async fn dial(address: &str, token: &[u8], client: ClientKind) -> anyhow::Result<Established<Welcome>> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, async {
        let stream = TcpStream::connect(address).await.with_context(|| format!("dial {address}"))?;
        tune(&stream)?;
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

/// Asks a member one question over a connection of its own, and makes sure that it is that member who answers.
///
/// # Errors
/// When nobody answers there, or somebody else does.
pub async fn ask_member(address: &str, member: Incarnation, request: &Request, token: &[u8]) -> anyhow::Result<Reply> {
    let Established {
        mut read,
        mut write,
        mut buffer,
        peer,
    } = dial(address, token, ClientKind::Operator).await?;
    if peer.id.incarnation != member {
        bail!("{address} is {}, not {member}", peer.id.incarnation);
    }
    write_frame(&mut write, request).await?;
    read_frame(&mut read, &mut buffer).await
}
