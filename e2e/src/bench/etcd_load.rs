//! A closed-loop load on etcd over its own protocol: gRPC on HTTP/2, one connection per client, one thread.
//!
//! The two messages in use are a few bytes of protobuf, written by hand: etcd's `PutRequest` and `RangeRequest`
//! (`api/etcdserverpb/rpc.proto`) both start with the key as field 1, and a put's value is field 2. A range request
//! is linearizable unless field 7, `serializable`, says otherwise.

use super::keys::{KeySource, key_name, value};
use super::measure::{Measurement, Recorder};
use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

/// A request without an answer for so long has failed.
const STALL: Duration = Duration::from_secs(10);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `KV.Put`.
    Put,
    /// `KV.Range` of one key, linearizable.
    Range,
}

/// A load.
#[derive(Clone, Debug)]
pub struct Load {
    /// The member that is asked; the leader saves etcd a hop.
    pub address: SocketAddr,
    /// What is sent.
    pub command: Command,
    /// Connections, one request in flight on each.
    pub clients: usize,
    /// Keys are drawn uniformly from so many.
    pub keys: u64,
    /// Length of every value.
    pub value_bytes: usize,
    /// Load before the measurement.
    pub warm_up: Duration,
    /// The measurement.
    pub duration: Duration,
}

/// Puts every key once, over `clients` connections.
///
/// # Errors
/// If a request fails.
pub fn fill(address: SocketAddr, clients: usize, keys: u64, value_bytes: usize) -> Result<()> {
    block_on(async move {
        let next = Rc::new(RefCell::new(0..keys));
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let next = Rc::clone(&next);
            tasks.spawn_local(async move {
                let mut client = Client::connect(address).await?;
                loop {
                    let key = next.borrow_mut().next();
                    let Some(key) = key else { return anyhow::Ok(()) };
                    client.call(Command::Put, key, value_bytes).await?;
                }
            });
        }
        join_all(tasks).await
    })
}

/// Runs a load on the calling thread, which must not be inside an async runtime.
///
/// # Errors
/// If a request fails, finds no value, or takes longer than 10 s.
pub fn run(load: &Load) -> Result<Measurement> {
    let load = load.clone();
    block_on(async move {
        let mut clients = Vec::with_capacity(load.clients);
        for _ in 0..load.clients {
            clients.push(Client::connect(load.address).await?);
        }
        let recorder = Rc::new(RefCell::new(Recorder::new(load.warm_up, load.duration)));
        let mut tasks = JoinSet::new();
        let keys = Rc::new(RefCell::new(KeySource::new(load.keys)));
        for mut client in clients {
            let (recorder, keys) = (Rc::clone(&recorder), Rc::clone(&keys));
            tasks.spawn_local(async move {
                loop {
                    let key = keys.borrow_mut().draw();
                    let sent = Instant::now();
                    client.call(load.command, key, load.value_bytes).await?;
                    let now = Instant::now();
                    let mut recorder = recorder.borrow_mut();
                    if !recorder.advance(now) {
                        return anyhow::Ok(());
                    }
                    recorder.record(now.duration_since(sent), 1);
                }
            });
        }
        join_all(tasks).await?;
        let recorder = Rc::into_inner(recorder).expect("every task has ended").into_inner();
        recorder.finish(Instant::now()).context("the run ended within its warm-up")
    })
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work)
}

async fn join_all(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client's task")??;
    }
    Ok(())
}

struct Client {
    requests: SendRequest<Bytes>,
    authority: String,
}

impl Client {
    async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::handshake(stream).await?;
        tokio::task::spawn_local(async move {
            // A connection that fails fails the call in flight, which reports it.
            let _ = connection.await;
        });
        Ok(Self {
            requests,
            authority: address.to_string(),
        })
    }

    async fn call(&mut self, command: Command, key: u64, value_bytes: usize) -> Result<()> {
        tokio::time::timeout(STALL, self.call_unbounded(command, key, value_bytes))
            .await
            .context("no answer in time")?
    }

    async fn call_unbounded(&mut self, command: Command, key: u64, value_bytes: usize) -> Result<()> {
        let method = match command {
            Command::Put => "Put",
            Command::Range => "Range",
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}/etcdserverpb.KV/{method}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut stream) = requests.send_request(request, false)?;
        stream.send_data(message(command, key, value_bytes), true)?;
        let response = response.await?;
        let status_in_headers = grpc_failure(response.headers());
        let mut body = response.into_body();
        let mut received = 0;
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            received += chunk.len();
            body.flow_control().release_capacity(chunk.len())?;
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        if let Some(failure) = status_in_headers.or_else(|| grpc_failure(&trailers)) {
            anyhow::bail!("etcd answered {failure}");
        }
        ensure!(command == Command::Put || received > value_bytes, "the key {key} has no value");
        Ok(())
    }
}

/// Status and message, unless the status is 0 or absent.
fn grpc_failure(headers: &HeaderMap) -> Option<String> {
    let status = headers.get("grpc-status")?;
    let message = headers
        .get("grpc-message")
        .map(|message| String::from_utf8_lossy(message.as_bytes()).into_owned());
    (status != "0").then(|| format!("status {status:?}: {}", message.unwrap_or_default()))
}

/// A gRPC frame with one request.
fn message(command: Command, key: u64, value_bytes: usize) -> Bytes {
    let mut body = BytesMut::with_capacity(64 + value_bytes);
    put_field(&mut body, 1, key_name(key).as_bytes());
    if command == Command::Put {
        put_field(&mut body, 2, &value(value_bytes));
    }
    let mut frame = BytesMut::with_capacity(5 + body.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(body.len()).expect("a request of less than 4 GiB"));
    frame.put(body);
    frame.freeze()
}

/// A length-delimited protobuf field.
fn put_field(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    out.put_u8(number << 3 | 2);
    let mut len = bytes.len();
    while len >= 0x80 {
        out.put_u8(u8::try_from(len & 0x7f).expect("seven bits") | 0x80);
        len >>= 7;
    }
    out.put_u8(u8::try_from(len).expect("seven bits"));
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_a_grpc_frame_of_key_and_value() {
        let mut expected = vec![0, 0, 0, 0, 16 + 2 + 3 + 200, 0x0a, 16];
        expected.extend_from_slice(b"key:000000000042");
        expected.extend_from_slice(&[0x12, 0xc8, 0x01]);
        expected.extend_from_slice(&value(200));
        assert_eq!(message(Command::Put, 42, 200), expected);
    }

    #[test]
    fn a_range_carries_the_key_alone() {
        assert_eq!(&message(Command::Range, 1, 200)[..], b"\0\0\0\0\x12\x0a\x10key:000000000001");
    }

    #[test]
    fn only_a_status_other_than_zero_is_a_failure() {
        let mut headers = HeaderMap::new();
        assert_eq!(grpc_failure(&headers), None);
        headers.insert("grpc-status", "0".parse().unwrap());
        assert_eq!(grpc_failure(&headers), None);
        headers.insert("grpc-status", "8".parse().unwrap());
        headers.insert("grpc-message", "too much".parse().unwrap());
        assert_eq!(grpc_failure(&headers), Some("status \"8\": too much".into()));
    }
}
