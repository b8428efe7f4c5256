//! A client that writes without pause, and keeps account of what was acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A node that does not answer a writer in this time is left for another one.
const PATIENCE: Duration = Duration::from_millis(100);

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr, patience: Duration) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a command and gives its reply: a status, an error, or a bulk string.
    pub(crate) fn ask(&mut self, command: &[&str]) -> std::io::Result<String> {
        let mut request = format!("*{}\r\n", command.len());
        for word in command {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(request.as_bytes())?;
        let first = self.line()?;
        match first.strip_prefix('$') {
            None | Some("-1") => Ok(first),
            Some(_) => self.line(),
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// What a writer saw.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Numbers whose write was acknowledged, and when.
    pub(crate) acknowledged: Vec<(u64, Instant)>,
}

impl Account {
    /// The longest time without an acknowledgement from `since` on.
    pub(crate) fn outage(&self, since: Instant) -> Duration {
        let moments = self
            .acknowledged
            .iter()
            .map(|(_, moment)| *moment)
            .filter(|moment| *moment >= since);
        let mut last = since;
        let mut longest = Duration::ZERO;
        for moment in moments {
            longest = longest.max(moment - last);
            last = moment;
        }
        longest
    }
}

/// Writes `n<number>` = `<number>` for numbers from 0 on, one after the other, to whoever takes it.
#[derive(Debug)]
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<std::sync::Mutex<Account>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(nodes: Vec<SocketAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(std::sync::Mutex::new(Account::default()));
        let thread = std::thread::spawn({
            let (stop, account) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            move || write(&nodes, &stop, &account)
        });
        Self {
            stop,
            acknowledged,
            thread: Some(thread),
        }
    }

    /// How many writes were acknowledged after `since`.
    pub(crate) fn acknowledged_since(&self, since: Instant) -> usize {
        let account = self.acknowledged.lock().unwrap();
        account.acknowledged.iter().filter(|(_, moment)| *moment >= since).count()
    }

    pub(crate) fn finish(mut self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut self.acknowledged.lock().unwrap())
    }
}

fn write(nodes: &[SocketAddr], stop: &AtomicBool, account: &std::sync::Mutex<Account>) {
    let mut nodes = nodes.to_vec();
    let mut target = 0;
    let mut connection = None;
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        if connection.is_none() {
            connection = Connection::open(nodes[target], PATIENCE).ok();
        }
        let reply = connection
            .as_mut()
            .and_then(|connection| connection.ask(&["SET", &format!("n{number}"), &number.to_string()]).ok());
        match reply.as_deref() {
            Some("+OK") => {
                account.lock().unwrap().acknowledged.push((number, Instant::now()));
                number += 1;
                continue;
            }
            // A write whose outcome is not known is given up: its number is never used again.
            Some(moved) if moved.starts_with("-MOVED") => {
                let to: Option<SocketAddr> = moved.rsplit(' ').next().and_then(|address| address.parse().ok());
                // A node of a shard that was added meanwhile.
                nodes.extend(to.filter(|to| !nodes.contains(to)));
                let known = nodes.iter().position(|node| Some(*node) == to);
                let next = known.filter(|next| *next != target);
                target = next.unwrap_or((target + 1) % nodes.len());
            }
            Some(_) => number += 1,
            None => {
                number += 1;
                target = (target + 1) % nodes.len();
            }
        }
        connection = None;
        // Between two attempts: nodes that refuse at once would be asked without pause.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Numbers that were acknowledged and are not readable with their value.
pub(crate) fn lost(account: &Account, primary: SocketAddr) -> Vec<u64> {
    let mut connection = Connection::open(primary, crate::machines::PATIENCE).unwrap();
    let numbers = account.acknowledged.iter().map(|(number, _)| *number);
    numbers
        .filter(|number| connection.ask(&["GET", &format!("n{number}")]).unwrap() != number.to_string())
        .collect()
}
