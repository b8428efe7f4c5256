//! Data that is only there to be there.

use super::client::{Client, Failure};
use super::{Place, from_there};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// A key that is not written in this time is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes so many keys of that prefix, with values of so many bytes.
///
/// # Errors
/// If the store does not acknowledge one in time.
pub fn fill(place: &Place, prefix: &str, keys: usize, value_bytes: usize) -> Result<()> {
    let (nodes, prefix) = (place.nodes.clone(), prefix.to_owned());
    from_there(place, "fill", async move || {
        let (mut client, value) = (Client::new(nodes), vec![b'v'; value_bytes]);
        for number in 0..keys {
            let (key, begun) = (format!("{prefix}:{number}"), Instant::now());
            loop {
                client.aim(key.as_bytes());
                match client.call(&[b"SET", key.as_bytes(), &value]).await {
                    Ok(_) => break,
                    Err(Failure::DefinitelyNot | Failure::Unknown) => {
                        ensure!(begun.elapsed() < PATIENCE, "{key} was not acknowledged within {PATIENCE:?}");
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            }
        }
        Ok(())
    })
}
