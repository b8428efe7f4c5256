//! Carries out what [`crate::rebalance`] plans: asks primaries, each question in a task of its own, and remembers the answers.

use super::{Wish, Word};
use crate::rebalance::plan::ShardSlots;
use crate::rebalance::{Ask, Memory, Plan, Scene, plan};
use quorate_api::wire::{Reply, Request};
use quorate_api::{Incarnation, MoveRefusal, SlotSet, SlotsStatus};
use quorate_client::ask_member;
use quorate_crds::RebalanceStatus;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A primary that does not answer in this time may have a move on record or not: what its nodes say shows it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a primary answered; an error in words.
#[derive(Debug)]
enum Answer {
    /// To the order of a move.
    Move(u64, Result<Result<(), MoveRefusal>, String>),
    /// The shard, and slots with their bytes.
    Sizes(u32, Option<BTreeMap<u16, u64>>),
    /// To the wish to end one.
    Abort(u64, Result<Result<(), MoveRefusal>, String>),
}

/// See the module. Questions that are under way end with it.
#[derive(Debug, Default)]
pub(super) struct Moves {
    memory: Memory,
    asking: JoinSet<Answer>,
    /// The last plan and what it was made from: it is good until something differs or its moment has come.
    last: Option<(Inputs, Plan)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Inputs {
    shards: BTreeMap<u32, ShardSlots>,
    generation: i64,
    requested: bool,
}

impl Moves {
    /// Plans, and asks what is to be asked.
    pub(super) fn plan(&mut self, words: &BTreeMap<u32, Word>, wish: &Wish, told: Option<&RebalanceStatus>) -> Plan {
        let inputs = Inputs {
            shards: slots_of(words, wish),
            generation: wish.settings.generation,
            requested: wish.asked.rebalance.is_some(),
        };
        let now = Instant::now();
        if let Some((last, plan)) = &self.last
            && now < plan.look_at
            && plan.memory == self.memory
            && bare(last) == bare(&inputs)
        {
            return Plan {
                asks: Vec::new(),
                told: told.cloned(),
                ..plan.clone()
            };
        }
        let scene = Scene {
            settings: &wish.settings,
            shards: &inputs.shards,
            requested: inputs.requested,
            told,
            now,
        };
        let plan = plan(&scene, &self.memory);
        self.memory = plan.memory.clone();
        for ask in &plan.asks {
            self.ask(ask, words, &wish.token);
        }
        self.last = Some((inputs, plan.clone()));
        plan
    }

    fn ask(&mut self, ask: &Ask, words: &BTreeMap<u32, Word>, token: &Arc<Vec<u8>>) {
        let (Ask::Move(shard, _) | Ask::Abort(shard, _) | Ask::Sizes(shard)) = ask;
        let view = words.get(shard).map(|word| &word.view);
        // The plan asks only of shards that serve, and those have both.
        let Some((address, primary)) = view.and_then(|view| Some((view.reached_at.clone()?, view.primary?))) else {
            return;
        };
        tracing::info!(shard, ?ask, "asking a primary about slots");
        self.asking.spawn(carry_out(ask.clone(), address, primary, Arc::clone(token)));
    }

    /// Waits for an answer and takes it; for ever if nothing was asked.
    pub(super) async fn hear(&mut self) {
        let answer = match self.asking.join_next().await {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => {
                tracing::error!(%error, "a question to a primary ended without an answer");
                return;
            }
            None => return std::future::pending().await,
        };
        let now = Instant::now();
        match answer {
            Answer::Move(handoff, answer) => {
                let refusal = answer.as_ref().ok().and_then(|answer| answer.as_ref().err()).cloned();
                let said = answer.and_then(|answer| answer.map_err(|refusal| refusal.to_string()));
                if let Err(why) = &said {
                    tracing::warn!(handoff, why, "a move was not begun");
                }
                self.memory.on_answer(handoff, said, refusal.as_ref(), now);
            }
            Answer::Sizes(shard, sizes) => self.memory.on_sizes(shard, sizes, now),
            Answer::Abort(handoff, answer) => {
                tracing::info!(handoff, ?answer, "asked for the end of a move");
                let ended = matches!(answer, Ok(Ok(()) | Err(MoveRefusal::UnknownMove)));
                self.memory.on_abort(handoff, ended);
            }
        }
    }
}

/// Without what differs at every heartbeat and is looked at when the moment of a plan has come.
fn bare(inputs: &Inputs) -> Inputs {
    let mut inputs = inputs.clone();
    for slots in inputs.shards.values_mut().filter_map(|shard| shard.slots.as_mut()) {
        (slots.bytes, slots.route_version) = (0, 0);
    }
    for shard in inputs.shards.values_mut() {
        shard.heard = None;
    }
    inputs
}

/// What the shards say of their slots. The only shard of a store owns all of them while its nodes cannot say it: they are blank, or
/// know of no slots.
fn slots_of(words: &BTreeMap<u32, Word>, wish: &Wish) -> BTreeMap<u32, ShardSlots> {
    let alone = words.len() == 1;
    let each = words.iter().map(|(index, word)| {
        let view = &word.view;
        let all = || SlotsStatus {
            owned: SlotSet::all(),
            ..SlotsStatus::default()
        };
        let known = ShardSlots {
            serves: view.reached_at.is_some() && view.slots.is_some(),
            group: view.is_group(),
            last_handoff: view.last_handoff(),
            slots: view.slots.clone().filter(|_| !alone || view.is_group()).or_else(|| alone.then(all)),
            heard: view.slots_heard,
            holds: view.holds(wish.sets.get(index).map_or(0, |set| set.pods) as usize),
        };
        (*index, known)
    });
    each.collect()
}

async fn carry_out(ask: Ask, address: String, primary: Incarnation, token: Arc<Vec<u8>>) -> Answer {
    let request = match &ask {
        Ask::Move(_, order) => Request::MoveSlots(order.clone()),
        Ask::Abort(_, handoff) => Request::AbortMove { handoff: *handoff },
        Ask::Sizes(_) => Request::SlotSizes,
    };
    let answer = tokio::time::timeout(PATIENCE, ask_member(&address, primary, &request, &token)).await;
    let reply = match answer {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("no answer in time".to_owned()),
    };
    match (ask, reply) {
        (Ask::Move(_, order), Ok(Reply::MoveSlots(answer))) => Answer::Move(order.handoff, Ok(answer)),
        (Ask::Move(_, order), reply) => Answer::Move(order.handoff, Err(strange(reply))),
        (Ask::Abort(_, handoff), Ok(Reply::AbortMove(answer))) => Answer::Abort(handoff, Ok(answer)),
        (Ask::Abort(_, handoff), reply) => Answer::Abort(handoff, Err(strange(reply))),
        (Ask::Sizes(shard), Ok(Reply::SlotSizes(sizes))) => {
            let bytes = sizes.into_iter().map(|(slot, _, bytes)| (slot, bytes));
            Answer::Sizes(shard, Some(bytes.collect()))
        }
        (Ask::Sizes(shard), _) => Answer::Sizes(shard, None),
    }
}

fn strange(reply: Result<Reply, String>) -> String {
    reply.map_or_else(|error| error, |reply| format!("unexpected {reply:?}"))
}
