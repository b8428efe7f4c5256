//! The keeper of a store as a whole: one keeper for each shard ([`crate::keeper`]), and what concerns all of them: which
//! shards there are, who may begin its first epoch ([`birth`]), which slots move ([`crate::rebalance`], carried out by `moves`),
//! the map that every node is told (`route`), one status from what the shards say ([`merge`]), and one publisher.
//!
//! For a store of one shard that never had another, what its shard says is told as it is, and no map and no move is.
//!
//! Nothing of a shard waits here: a keeper hears its own nodes and drives its own view changes, and this task only passes
//! values on. It waits for no API server and for no node.

mod birth;
mod merge;
mod moves;
mod requests;
mod route;
mod turn;
mod view;

pub use birth::birth;
pub use merge::{Whole, is_of_the_whole, merge, of_shard};
pub use requests::of_shard as asked_of;
pub use turn::turn;
pub use view::{ReplicaView, View};

use crate::context::Context;
use crate::keeper::{Desired, Keeper, Ties};
use crate::names;
use crate::observe::Asked;
use crate::outbox::Publication;
use crate::plan::{Birth, Note, Others, Reconciled, Shape};
use crate::publish::Publisher;
use crate::rebalance::Plan;
use crate::replicas::belongs_to_store;
use crate::settings::Settings;
use crate::steward::Steward;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use moves::Moves;
use quorate_api::RoutingMap;
use quorate_crds::{ReplicatedStore, ReplicatedStoreStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

/// Without news, everything is looked at after this time.
const LOOK: Duration = Duration::from_secs(1);

/// What reconciliation tells the keepers of a store.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The spec, checked.
    pub settings: Settings,
    /// What came of the objects, but for what concerns one shard.
    pub reconciled: Reconciled,
    /// The StatefulSets by their shard. A shard that has none, or of which that is not known, is not in it.
    pub sets: BTreeMap<u32, Set>,
    /// The store's token.
    pub token: Arc<Vec<u8>>,
    /// What a person asks for.
    pub asked: Asked,
}

/// A StatefulSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Pods that it has for sure: the smaller number while it is being changed.
    pub pods: u32,
    /// What its template asks for, in one word. None while that is not known.
    pub revision: Option<String>,
}

impl Wish {
    /// The part of a shard.
    #[must_use]
    pub fn of_shard(&self, shard: u32) -> Desired {
        let set = self.sets.get(&shard);
        Desired {
            settings: self.settings.clone(),
            reconciled: Reconciled {
                scale: set.map(|set| set.pods),
                revision: set.and_then(|set| set.revision.clone()),
                ..self.reconciled.clone()
            },
            token: Arc::clone(&self.token),
            asked: asked_of(&self.asked, &self.settings.name, self.settings.shards, shard),
        }
    }
}

/// What the objects of a store depend on beside the spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shapes {
    /// The shape of every shard of which enough is known.
    pub known: BTreeMap<u32, Shape>,
    /// Shards that are not wanted any more and owned nothing: they are to have no objects.
    pub removed: BTreeSet<u32>,
}

/// What a keeper says of its shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Word {
    /// Whether it has listened long enough to say anything; until then the status is what was told before.
    pub spoken: bool,
    /// What it would publish of a store which has no other shard.
    pub publication: Publication,
    /// The shape of its objects; None while too little is known.
    pub shape: Option<Shape>,
    /// What the store has to know of it.
    pub view: View,
}

impl Word {
    /// Whether both say the same; the moment at which it was heard does not count.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        let timeless = |word: &Self| {
            let mut word = word.clone();
            word.view.slots_heard = None;
            word
        };
        timeless(self) == timeless(other)
    }
}

/// A shard's keeper, as its store sees it.
struct Shard {
    word: watch::Receiver<Word>,
    desired: watch::Sender<Desired>,
    others: watch::Sender<Others>,
    keeper: JoinHandle<()>,
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// See the module.
pub struct StoreKeeper {
    context: Arc<Context>,
    /// The UID of the store.
    uid: String,
    namespace: String,
    name: String,
    selector: String,
    wish: watch::Receiver<Wish>,
    shards: BTreeMap<u32, Shard>,
    /// Shards that were given up.
    removed: BTreeSet<u32>,
    /// Moves of slots.
    moves: Moves,
    /// The map that every node is told.
    route: watch::Sender<Arc<RoutingMap>>,
    /// Some keeper has another word.
    heard: Arc<Notify>,
    /// For reconciliation.
    shapes: watch::Sender<Shapes>,
    status: ReplicatedStoreStatus,
    word: watch::Sender<Publication>,
    notes: mpsc::UnboundedSender<Note>,
    publisher: AbortHandle,
}

impl Drop for StoreKeeper {
    fn drop(&mut self) {
        self.publisher.abort();
    }
}

impl StoreKeeper {
    /// For a store that the API server knows; reconciliation reads `shapes`.
    #[must_use]
    pub fn new(context: Arc<Context>, store: &ReplicatedStore, wish: watch::Receiver<Wish>, shapes: watch::Sender<Shapes>) -> Self {
        let status = store.status.clone().unwrap_or_default();
        let word = watch::Sender::new(Publication {
            status: status.clone(),
            ..Publication::default()
        });
        let (notes, written) = mpsc::unbounded_channel();
        let publisher = Publisher::new(context.client.clone(), store, context.recorder.clone());
        let publisher = tokio::spawn(publisher.run(word.subscribe(), written)).abort_handle();
        Self {
            uid: store.uid().unwrap_or_default(),
            namespace: store.namespace().unwrap_or_default(),
            name: store.name_any(),
            selector: names::selector_text(store),
            context,
            wish,
            shards: BTreeMap::new(),
            removed: BTreeSet::new(),
            moves: Moves::default(),
            route: watch::Sender::default(),
            heard: Arc::new(Notify::new()),
            shapes,
            status,
            word,
            notes,
            publisher,
        }
    }

    /// Keeps the store until its `wish` channel closes.
    pub async fn run(mut self) {
        let mut pods_changed = self.context.pods_changed.subscribe();
        loop {
            self.follow_shards();
            let look_at = self.act();
            let alive = tokio::select! {
                () = self.heard.notified() => true,
                () = self.moves.hear() => true,
                () = tokio::time::sleep_until(look_at.into()) => true,
                changed = pods_changed.changed() => changed.is_ok(),
                changed = self.wish.changed() => changed.is_ok(),
            };
            if !alive {
                return;
            }
        }
    }

    /// A keeper for every shard that is wanted or that has a StatefulSet, and for no other. One that ended is begun again.
    fn follow_shards(&mut self) {
        let wish = self.wish.borrow_and_update().clone();
        self.removed.retain(|index| *index >= wish.settings.shards);
        let count = self.last_present(&wish).map_or(0, |last| last + 1).max(wish.settings.shards);
        self.shards.retain(|index, shard| *index < count && !shard.keeper.is_finished());
        for index in 0..count {
            if !self.shards.contains_key(&index) {
                let shard = self.begin(index, &wish);
                self.shards.insert(index, shard);
            }
        }
    }

    /// The last shard that has a StatefulSet and was not given up.
    fn last_present(&self, wish: &Wish) -> Option<u32> {
        let kept = |index: &u32| !self.removed.contains(index);
        if !wish.sets.is_empty() {
            return wish.sets.keys().copied().filter(kept).max();
        }
        // Until reconciliation has looked at the StatefulSets, pods tell of them.
        let pods = self.context.pods.state();
        let shards = pods.iter().filter_map(|pod| belongs_to_store(pod, &self.namespace, &self.uid));
        shards.filter(kept).max()
    }

    fn begin(&self, index: u32, wish: &Wish) -> Shard {
        let status = of_shard(&self.status, index);
        let (said, word) = watch::channel(Word {
            publication: Publication {
                status: status.clone(),
                ..Publication::default()
            },
            ..Word::default()
        });
        let desired = watch::Sender::new(wish.of_shard(index));
        let others = watch::Sender::new(Others {
            birth: Birth::Waits("the operator looks at the other shards".to_owned()),
            restart: Some("the operator looks at the other shards".to_owned()),
        });
        let steward = Steward::new(status, self.selector.clone(), Instant::now(), Timestamp::now()).of_shard(index);
        let ties = Ties {
            desired: desired.subscribe(),
            others: others.subscribe(),
            route: self.route.subscribe(),
            word: said,
            heard: Arc::clone(&self.heard),
            notes: self.notes.clone(),
        };
        let keeper = Keeper::new(Arc::clone(&self.context), index, steward, ties);
        Shard {
            word,
            desired,
            others,
            keeper: tokio::spawn(keeper.run()),
        }
    }

    /// Passes on what the keepers say, and has slots move; says when to look again.
    fn act(&mut self) -> Instant {
        let wish = self.wish.borrow_and_update().clone();
        let words: BTreeMap<u32, Word> = self
            .shards
            .iter()
            .map(|(index, shard)| (*index, shard.word.borrow().clone()))
            .collect();
        for (index, shard) in &self.shards {
            tell(&shard.desired, wish.of_shard(*index));
            let others = Others {
                birth: birth(&wish.settings, &words, *index),
                restart: turn(&words, *index),
            };
            tell(&shard.others, others);
        }
        // A store of one shard that never had another has nothing to rebalance, and its nodes know it all.
        let alone = words.len() == 1 && wish.settings.shards == 1 && self.status.rebalance.is_none();
        let plan = if alone {
            None
        } else {
            self.tell_route(&words);
            self.rebalance(&words, &wish)
        };
        self.tell_shapes(&words, &wish.settings);
        let whole = Whole {
            rebalance: plan.as_ref(),
            generation: wish.reconciled.generation,
            told: &self.status,
            wall: Timestamp::now(),
        };
        let (status, notes) = merge(&whole, &words);
        for note in notes {
            self.note(note);
        }
        let balanced = alone || plan.as_ref().is_some_and(|plan| plan.balanced);
        let publication = Publication {
            roles: words.values().flat_map(|word| word.publication.roles.clone()).collect(),
            status: status.clone(),
            answered: requests::answered(&words, wish.asked.rebalance.filter(|_| balanced)),
        };
        tell(&self.word, publication);
        self.status = status;
        plan.map_or_else(|| Instant::now() + LOOK, |plan| plan.look_at)
    }

    fn note(&self, note: Note) {
        tracing::info!(
            store = format!("{}/{}", self.namespace, self.name),
            reason = note.reason,
            "{}",
            note.text
        );
        // The publisher lives as long as this keeper.
        let _ = self.notes.send(note);
    }

    /// Every node is told who owns what.
    fn tell_route(&self, words: &BTreeMap<u32, Word>) {
        let last = Arc::clone(&self.route.borrow());
        if let Some(map) = route::route(words).and_then(|shards| route::next(&last, shards, words)) {
            self.route.send_replace(Arc::new(map));
        }
    }

    /// Has slots move, and gives up shards that own none; None while too little was heard.
    fn rebalance(&mut self, words: &BTreeMap<u32, Word>, wish: &Wish) -> Option<Plan> {
        if words.values().any(|word| !word.spoken) {
            return None;
        }
        let plan = self.moves.plan(words, wish, self.status.rebalance.as_ref());
        for index in plan.removable.iter().rev() {
            if self.removed.insert(*index) {
                self.shards.remove(index);
                self.note(Note {
                    warning: false,
                    reason: "ShardRemoved",
                    text: format!("shard {index} owns nothing on any replica and is removed; its claims are kept"),
                });
            }
        }
        Some(plan)
    }

    /// Has the objects follow the shapes.
    fn tell_shapes(&self, words: &BTreeMap<u32, Word>, settings: &Settings) {
        let known = words.iter().filter_map(|(index, word)| Some((*index, word.shape?)));
        let shapes = Shapes {
            known: known.collect(),
            removed: self.removed.clone(),
        };
        if tell(&self.shapes, shapes) {
            let object = ObjectRef::new(&settings.name).within(&settings.namespace);
            // Nobody listens once the operator ends.
            let _ = self.context.reconcile.send(object);
        }
    }
}

/// Tells a value if it is another one than before; true if it is.
fn tell<T: PartialEq>(word: &watch::Sender<T>, value: T) -> bool {
    word.send_if_modified(|known| {
        let differs = *known != value;
        *known = value;
        differs
    })
}
