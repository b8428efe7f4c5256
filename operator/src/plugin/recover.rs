//! `recover`: says what going on without the missing replicas would lose, and asks for it if a person accepts that.

use super::cli::RecoverArgs;
use super::cluster::Cluster;
use super::error::PluginError;
use super::loss::{blocked, explain};
use super::request::{Request, ask};
use quorate_crds::annotations;

pub(super) async fn run(cluster: &Cluster, args: &RecoverArgs) -> Result<(), PluginError> {
    let store = cluster.get(&args.store).await?;
    let found = blocked(&store, args.shard).map_err(PluginError::Refused)?;
    print!("{}", explain(&args.store, args.shard, &found));
    if !args.accept_data_loss {
        return Err(PluginError::Refused(format!(
            "nothing was changed. To go on in spite of it: kubectl quorate recover {} --namespace {} --shard {} --accept-data-loss",
            args.store, cluster.namespace, args.shard
        )));
    }
    println!();
    // The epoch makes it hold for this blockage and for no later one.
    let value = format!("{}@{}", args.shard, found.epoch);
    let request = Request {
        annotation: annotations::ACCEPT_DATA_LOSS,
        value: &value,
        granted: "DataLossAccepted",
        refused: "DataLossRefused",
        shard: args.shard,
        timeout: args.timeout,
    };
    println!("{}", ask(cluster, &store, &request).await?);
    Ok(())
}
