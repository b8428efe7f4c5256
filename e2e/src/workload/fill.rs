//! Data that is only there to be there.

use super::client::{Client, Failure};
use super::{Place, runtime};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// A key that is not written in this time is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes so many keys of that prefix, with values of so many bytes.
///
/// # Errors
/// If the store does not acknowledge one in time.
pub fn fill(place: &Place, prefix: &str, keys: usize, value_bytes: usize) -> Result<()> {
    let (place, prefix) = (place.clone(), prefix.to_owned());
    let write = move || {
        runtime(&place)?.block_on(async {
            let (mut client, value) = (Client::new(place.nodes.clone()), vec![b'v'; value_bytes]);
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
            anyhow::Ok(())
        })
    };
    let thread = std::thread::Builder::new().name("fill".into()).spawn(write)?;
    thread
        .join()
        .map_err(|panic| anyhow::anyhow!("the filling thread panicked: {panic:?}"))?
}
