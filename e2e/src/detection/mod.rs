//! What the failure detector trades: the time to find a dead primary against the pauses that it takes for a death.
//!
//! Two ways. In [`virtual_time`], the real judgement of a modelled group, for days, under given distributions of delays and
//! stalls: the curves of docs/detection.md. And for real, so that the model can be believed: real nodes, the operator's real streams to them and its real judgement ([`judge`]), for several values of
//! `suspectAfterMillis` at once: they see the same heartbeats. The primary's process is stopped and continued after pauses
//! of many lengths, and stopped for good. Nobody fails over: what is measured is the suspicion alone.

mod plot;
pub mod virtual_time;

use crate::bench::measure::median;
use crate::local::build::{Profile, node_binary};
use crate::local::{LocalCluster, LocalClusterOptions};
use anyhow::{Context, Result, bail};
use quorate_api::wire::FailoverPolicy;
use quorate_api::{NodeStatus, Quorum, RoutingMap};
use quorate_operator::detect::{Verdict, judge};
use quorate_operator::link::{self, News, PodNews, Target, Words};
use quorate_operator::observe::{Health, Observed};
use quorate_operator::plan::Admission;
use serde::Serialize;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use virtual_time::{Cell, NETWORKS, Network};

/// The values of `suspectAfterMillis` that are compared.
const SUSPECT_AFTER: [u64; 5] = [250, 500, 1000, 2000, 4000];
/// The same in the model, where more cost nothing.
const MODEL_SUSPECT_AFTER: [u64; 8] = [250, 350, 500, 700, 1000, 1500, 2500, 4000];
/// Pauses, in milliseconds, after which the primary goes on.
const PAUSES: [u64; 12] = [100, 200, 300, 450, 600, 800, 1100, 1500, 2200, 3000, 4300, 5500];
/// The heartbeat, in milliseconds: half of the smallest value.
const HEARTBEAT: Duration = Duration::from_millis(125);
/// The heartbeat that the operator asks for while it doubts.
const CLOSE: Duration = Duration::from_millis(25);
/// Between two judgements.
const LOOK: Duration = Duration::from_millis(2);
/// A primary that was stopped for good is found by every setting within this time.
const PATIENCE: Duration = Duration::from_secs(15);

/// The arguments of `detection`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How often each pause, and the death, is repeated.
    #[arg(long, default_value_t = 10)]
    repetitions: u32,
    /// The model in virtual time only: no nodes, and no matter how busy this machine is.
    #[arg(long)]
    virtual_only: bool,
    /// Hours that each setting lives through in each network of the model.
    #[arg(long, default_value_t = 48.0)]
    hours: f64,
    /// Deaths that each setting has to find in each network of the model.
    #[arg(long, default_value_t = 500)]
    deaths: u32,
    /// Of the model.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The store node; without it, one is built in release mode.
    #[arg(long)]
    node_binary: Option<PathBuf>,
    /// The report and the plot go here.
    #[arg(long, default_value = "target/detection")]
    out: PathBuf,
}

/// What one setting did.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// Its `suspectAfterMillis`.
    pub suspect_after_millis: u64,
    /// Milliseconds from the death to the suspicion, one for each repetition.
    pub detection_millis: Vec<f64>,
    /// For each length of a pause in milliseconds, the share of pauses that were taken for a death.
    pub false_suspicions: Vec<(u64, f64)>,
}

/// Measures, prints a table, and writes the report and the plot.
///
/// # Errors
/// If a node fails, or a death is not found.
pub fn run(args: &Args) -> Result<()> {
    fs::create_dir_all(&args.out)?;
    model(args)?;
    if args.virtual_only {
        return Ok(());
    }
    let binary = match &args.node_binary {
        Some(binary) => binary.clone(),
        None => node_binary(Profile::Release)?,
    };
    let cluster = LocalCluster::start(LocalClusterOptions::three(binary, args.out.clone()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let settings = runtime.block_on(measure(&cluster, args.repetitions))?;
    fs::write(args.out.join("report.json"), serde_json::to_vec_pretty(&settings)?)?;
    let plot = args.out.join("failure-detection-real.svg");
    plot::draw(&settings, &plot)?;
    println!("{}", table(&settings));
    println!("written: {}", plot.display());
    Ok(())
}

/// The networks in virtual time, on all cores.
fn model(args: &Args) -> Result<()> {
    let cells = |network: &Network| -> Vec<Cell> {
        std::thread::scope(|scope| {
            let each = MODEL_SUSPECT_AFTER
                .map(|millis| scope.spawn(move || virtual_time::run(network, millis, args.seed, args.deaths, args.hours)));
            each.map(|cell| cell.join().expect("the model does not panic")).into()
        })
    };
    let networks: Vec<(Network, Vec<Cell>)> = NETWORKS.iter().map(|network| (*network, cells(network))).collect();
    fs::write(args.out.join("model.json"), serde_json::to_vec_pretty(&networks)?)?;
    let plot = args.out.join("failure-detection.svg");
    plot::draw_model(&networks, &plot)?;
    println!("{}", model_table(&networks));
    println!("written: {}", plot.display());
    Ok(())
}

fn model_table(networks: &[(Network, Vec<Cell>)]) -> String {
    let mut text = "| network | suspectAfterMillis | a death is found after: median, 99 % | false suspicions a day | of these over within 1 s |\n|---|---:|---:|---:|---:|\n".to_owned();
    for (network, cells) in networks {
        for cell in cells {
            let short = cell.mistakes_millis.iter().filter(|millis| **millis < 1000.0).count();
            let share = if cell.mistakes_millis.is_empty() {
                "-".to_owned()
            } else {
                format!("{} %", short * 100 / cell.mistakes_millis.len())
            };
            text.push_str(&format!(
                "| {} | {} | {:.0} ms, {:.0} ms | {:.1} | {share} |\n",
                network.name,
                cell.suspect_after_millis,
                quantile(&cell.detection_millis, 0.5),
                quantile(&cell.detection_millis, 0.99),
                cell.mistakes_per_day(),
            ));
        }
    }
    text
}

/// Of values that are sorted. NaN without any.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// The operator's view of the nodes.
struct Watcher {
    members: Vec<Observed>,
    news: UnboundedReceiver<PodNews>,
    heartbeat: watch::Sender<(Duration, FailoverPolicy)>,
    /// What else an operator would tell. Streams end with whoever could say it.
    _silent: (
        watch::Sender<link::Addresses>,
        watch::Sender<Arc<RoutingMap>>,
        watch::Sender<Option<Admission>>,
    ),
}

impl Watcher {
    fn new(cluster: &LocalCluster) -> Result<Self> {
        let token = Arc::new(fs::read(cluster.token_file())?.trim_ascii().to_vec());
        let (sender, news) = unbounded_channel();
        let heartbeat = watch::Sender::new((HEARTBEAT, FailoverPolicy::default()));
        let addresses = watch::Sender::new(link::Addresses::default());
        let route = watch::Sender::default();
        let admission = watch::Sender::new(None);
        let mut members = Vec::new();
        for (ordinal, node) in (0u32..).zip(cluster.nodes()) {
            let (pod, uid, address) = (format!("node-{ordinal}"), ordinal.to_string(), node.replica.to_string());
            let target = Target {
                pod: pod.clone(),
                uid: uid.clone(),
                address: address.clone(),
                token: Arc::clone(&token),
                // Each setting judges by itself how old news may be.
                patience: PATIENCE,
            };
            let words = Words {
                watch: heartbeat.subscribe(),
                addresses: addresses.subscribe(),
                route: route.subscribe(),
                admission: admission.subscribe(),
            };
            tokio::spawn(link::keep(target, words, sender.clone()));
            members.push(Observed {
                pod,
                uid,
                ordinal,
                exists: true,
                revision: None,
                since: None,
                address: Some(address),
                health: Health::Running,
                connected: false,
                heard: None,
                status: None,
            });
        }
        Ok(Self {
            members,
            news,
            heartbeat,
            _silent: (addresses, route, admission),
        })
    }

    fn take(&mut self) {
        while let Ok((pod, _, news)) = self.news.try_recv() {
            let Some(member) = self.members.iter_mut().find(|member| member.pod == pod) else {
                continue;
            };
            match news {
                News::Status(status) => {
                    (member.connected, member.heard, member.status) = (true, Some(Instant::now()), Some(*status));
                }
                News::Down(_) => member.connected = false,
            }
        }
    }

    /// What each setting says now. One that doubts has the nodes speak more often, as the operator does.
    fn judge(&mut self) -> Vec<Verdict> {
        self.take();
        let (now, members): (_, Vec<&Observed>) = (Instant::now(), self.members.iter().collect());
        let each = |millis: &u64| judge(&members, Quorum::majority(3), Duration::from_millis(*millis), now);
        let verdicts: Vec<Verdict> = SUSPECT_AFTER.iter().map(each).collect();
        let doubtful = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Doubt { .. }));
        let heartbeat = if doubtful { CLOSE } else { HEARTBEAT };
        self.heartbeat
            .send_if_modified(|current| std::mem::replace(&mut current.0, heartbeat) != heartbeat);
        verdicts
    }

    /// Judges until `until`, and gives when each setting first found the primary lost.
    async fn watch(&mut self, begun: Instant, until: Instant, all: bool) -> Vec<Option<Duration>> {
        let mut found = vec![None; SUSPECT_AFTER.len()];
        while Instant::now() < until && !(all && found.iter().all(Option::is_some)) {
            for (found, verdict) in found.iter_mut().zip(self.judge()) {
                if matches!(verdict, Verdict::Lost { .. }) {
                    found.get_or_insert_with(|| begun.elapsed());
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        found
    }

    /// Waits until every setting says that the primary serves and has said so for a while.
    async fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(700) {
            let well = |verdict: &Verdict| matches!(verdict, Verdict::Serving { heard: true, .. });
            if !self.judge().iter().all(well) {
                since = Instant::now();
            }
            if Instant::now() > deadline {
                bail!("the group does not settle: {:?}", self.judge());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn primary(&self) -> Result<usize> {
        let serves = |status: &NodeStatus| status.role == quorate_api::NodeRole::Primary;
        let found = self.members.iter().position(|member| member.status.as_ref().is_some_and(serves));
        found.context("no node serves")
    }
}

async fn measure(cluster: &LocalCluster, repetitions: u32) -> Result<Vec<Setting>> {
    let mut watcher = Watcher::new(cluster)?;
    let mut settings: Vec<Setting> = SUSPECT_AFTER
        .iter()
        .map(|&suspect_after_millis| Setting {
            suspect_after_millis,
            ..Setting::default()
        })
        .collect();
    watcher.settle().await?;
    let primary = &cluster.nodes()[watcher.primary()?].process;
    for pause in PAUSES {
        let mut suspicions = [0u32; SUSPECT_AFTER.len()];
        for repetition in 0..repetitions {
            // Every repetition strikes at another moment between two heartbeats.
            tokio::time::sleep(HEARTBEAT * repetition / repetitions).await;
            let begun = Instant::now();
            primary.pause()?;
            let mut found = watcher.watch(begun, begun + Duration::from_millis(pause), false).await;
            primary.resume()?;
            // What it says at once when it goes on may come too late.
            let resumed = Instant::now();
            let after = watcher.watch(begun, resumed + HEARTBEAT, false).await;
            found.iter_mut().zip(after).for_each(|(found, after)| *found = found.or(after));
            for (count, found) in suspicions.iter_mut().zip(found) {
                *count += u32::from(found.is_some());
            }
            watcher.settle().await?;
        }
        for (setting, count) in settings.iter_mut().zip(suspicions) {
            setting.false_suspicions.push((pause, f64::from(count) / f64::from(repetitions)));
        }
        println!("pauses of {pause} ms: taken for a death by {suspicions:?} of {repetitions}, for {SUSPECT_AFTER:?}");
    }
    for repetition in 0..repetitions {
        tokio::time::sleep(HEARTBEAT * repetition / repetitions).await;
        let begun = Instant::now();
        primary.pause()?;
        let found = watcher.watch(begun, begun + PATIENCE, true).await;
        primary.resume()?;
        for (setting, found) in settings.iter_mut().zip(found) {
            let found = found.with_context(|| format!("{} ms did not find the death", setting.suspect_after_millis))?;
            setting.detection_millis.push(found.as_secs_f64() * 1000.0);
        }
        watcher.settle().await?;
    }
    Ok(settings)
}

fn table(settings: &[Setting]) -> String {
    let mut text = "| suspectAfterMillis | a death is found after: median (min–max) | shortest pause that was ever taken for a death | shortest that always was |\n|---|---|---|---|\n".to_owned();
    for setting in settings {
        let least = setting.detection_millis.iter().copied().fold(f64::INFINITY, f64::min);
        let most = setting.detection_millis.iter().copied().fold(0.0, f64::max);
        let shortest = |enough: fn(f64) -> bool| {
            let found = setting.false_suspicions.iter().find(|(_, share)| enough(*share));
            found.map_or_else(|| "none".to_owned(), |(pause, _)| format!("{pause} ms"))
        };
        text.push_str(&format!(
            "| {} | {:.0} ms ({least:.0}–{most:.0}) | {} | {} |\n",
            setting.suspect_after_millis,
            median(&setting.detection_millis).unwrap_or(f64::NAN),
            shortest(|share| share > 0.0),
            shortest(|share| share >= 1.0)
        ));
    }
    text
}
