use super::failover::DATA_LOST;
use super::*;
use crate::observe::{Health, group};
use crate::testing::{LIMIT, blanks, epoch, incarnation, loses_primary, settings, status, unheard, well};
use crate::view_change::ViewChangeError;
use proptest::prelude::*;
use quorate_api::{PrimaryView, Quorum};
use quorate_client::DriveError;
use quorate_crds::LastFailover;
use quorate_crds::conditions::{AVAILABLE, FAILOVER_BLOCKED, READY, reasons};

const QUORUM: Quorum = Quorum::strong(3, 2, 2);

/// A store, its memory, and a moment long after the operator began to keep it.
struct World {
    settings: Settings,
    reconciled: Reconciled,
    members: Vec<Observed>,
    others: Others,
    asked: Asked,
    fates: BTreeMap<String, Fate>,
    driving: Option<Drive>,
    told: ReplicatedStoreStatus,
    memory: Memory,
    now: Instant,
}

impl World {
    fn of(members: impl Fn(Quorum, Instant) -> Vec<Observed>) -> Self {
        let begin = Instant::now();
        let now = begin + Duration::from_secs(1000);
        let told = ReplicatedStoreStatus::default();
        Self {
            settings: settings(QUORUM),
            reconciled: Reconciled {
                generation: 1,
                outcome: Outcome::Applied,
                scale: Some(3),
                revision: Some("new".to_owned()),
            },
            members: members(QUORUM, now),
            others: Others::default(),
            asked: Asked::default(),
            fates: BTreeMap::new(),
            driving: None,
            memory: Memory::new(&told, begin, Timestamp::UNIX_EPOCH),
            told,
            now,
        }
    }

    fn seen(&self, now: Instant) -> Observation<'_> {
        Observation {
            shard: 0,
            others: &self.others,
            settings: &self.settings,
            reconciled: &self.reconciled,
            selector: "app=orders",
            members: &self.members,
            asked: &self.asked,
            fates: &self.fates,
            driving: self.driving.as_ref(),
            told: &self.told,
            now,
            wall: Timestamp::UNIX_EPOCH,
        }
    }

    fn plan(&self) -> Plan {
        plan(&self.seen(self.now), &self.memory)
    }

    /// Plans, and remembers what a keeper would.
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        (self.told, self.memory) = (plan.status.clone(), plan.memory.clone());
        plan
    }

    fn primary_dies(&mut self) {
        unheard(&mut self.members[0]);
        for member in &mut self.members[1..] {
            loses_primary(member);
        }
    }

    fn begin(&mut self, change: ViewChange) -> Drive {
        let drive = Drive {
            epoch: epoch(change.known.highest + 1),
            begun: self.now,
            detected: Timestamp::UNIX_EPOCH,
            change,
        };
        self.driving = Some(drive.clone());
        drive
    }
}

fn condition(status: &ReplicatedStoreStatus, type_: &str) -> (String, String, String) {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

#[test]
fn a_store_that_is_well_is_left_alone_and_said_to_be_ready() {
    let plan = World::of(well).plan();
    assert_eq!((plan.start, &plan.phase), (None, &Phase::Serving(incarnation(0), true)));
    assert_eq!(condition(&plan.status, READY).0, "True");
    assert_eq!(plan.status.shards[0].primary.as_deref(), Some("orders-0-0"));
    let roles: Vec<_> = plan.roles.unwrap().into_iter().map(|(pod, (_, role))| (pod, role)).collect();
    assert_eq!(
        roles,
        [
            ("orders-0-0".to_owned(), "primary"),
            ("orders-0-1".to_owned(), "replica"),
            ("orders-0-2".to_owned(), "replica")
        ]
    );
}

#[test]
fn a_dead_primary_is_replaced_at_once_and_only_once() {
    let mut world = World::of(well);
    world.primary_dies();
    let plan = world.step();
    let change = plan.start.unwrap();
    assert_eq!((&change.goal, change.from.as_deref()), (&Goal::Failover, Some("orders-0-0")));
    assert_eq!(
        (change.known.highest, change.known.configurations.len(), change.known.live.len()),
        (1, 1, 3)
    );
    world.begin(change);
    assert_eq!(world.plan().start, None);
    assert_eq!(condition(&world.plan().status, AVAILABLE).1, reasons::FAILING_OVER);
}

#[test]
fn a_primary_that_is_cut_off_from_its_members_is_left_out_of_the_fence() {
    let mut world = World::of(well);
    for peer in &mut status(&mut world.members[0]).peers {
        peer.connected = false;
    }
    for member in &mut world.members[1..] {
        loses_primary(member);
    }
    assert_eq!(world.plan().start.unwrap().leave_out, Some(incarnation(0)));
    unheard(&mut world.members[2]);
    assert_eq!(
        world.plan().start.and_then(|change| change.leave_out),
        None,
        "the one that is left could not fence"
    );
}

#[test]
fn blank_replicas_are_bootstrapped_once_all_are_there() {
    let mut world = World::of(blanks);
    let last = world.members.pop().unwrap();
    let plan = world.step();
    assert_eq!(plan.start, None);
    assert_eq!(
        condition(&plan.status, READY).2,
        "2 of 3 replicas answer; the first epoch needs all of them and starts by itself when they do"
    );
    world.members.push(last);
    let Goal::Bootstrap(target) = world.step().start.unwrap().goal else {
        panic!("not the first epoch")
    };
    assert_eq!(target.quorum(), QUORUM);
    assert_eq!(target.members()[2].host, "orders-0-2.orders-replicas.shop.svc:7400");
}

#[test]
fn a_first_epoch_waits_for_what_the_other_shards_say() {
    let mut world = World::of(blanks);
    world.others.birth = Birth::Waits("waiting for shard 0".to_owned());
    let plan = world.step();
    assert_eq!((plan.start, plan.phase), (None, Phase::Gathering("waiting for shard 0".to_owned())));
    world.others.birth = Birth::Refused("orders-1-0 holds data".to_owned());
    let plan = world.step();
    assert_eq!(
        (plan.start, plan.phase),
        (None, Phase::DataLost("orders-1-0 holds data".to_owned()))
    );
    assert!(plan.notes.iter().any(|note| note.reason == reasons::DATA_LOST));
    world.others.birth = Birth::Free;
    assert!(world.step().start.is_some());
    // A group that is there asks nobody.
    world.others.birth = Birth::Refused("orders-1-0 holds data".to_owned());
    world.members = well(QUORUM, world.now);
    assert!(matches!(world.step().phase, Phase::Serving(..)));
}

#[test]
fn a_first_epoch_that_was_begun_begins_before_the_group_follows_a_smaller_spec() {
    let mut world = World::of(blanks);
    world.settings.quorum = Quorum::majority(1);
    let plan = world.step();
    assert_eq!(
        (plan.start, plan.shape.unwrap().replicas),
        (None, 1),
        "nobody can have written anything yet"
    );
    status(&mut world.members[2]).promised = epoch(1);
    let plan = world.step();
    assert_eq!(plan.shape.unwrap().replicas, 3);
    let Goal::Bootstrap(target) = plan.start.unwrap().goal else {
        panic!("not the first epoch")
    };
    assert_eq!(target.quorum(), Quorum::majority(3));
}

#[test]
fn a_store_that_was_made_again_with_fewer_replicas_gets_the_pods_that_its_first_epoch_was_promised_to() {
    let mut world = World::of(blanks);
    world.reconciled.scale = Some(3);
    for member in &mut world.members {
        (status(member).promised, status(member).pods) = (epoch(4), 5);
    }
    assert_eq!(world.step().shape.unwrap().replicas, 5);
}

#[test]
fn a_paused_store_is_not_bootstrapped_but_fails_over() {
    let mut world = World::of(blanks);
    world.settings.paused = true;
    let plan = world.step();
    assert_eq!((plan.start, plan.phase), (None, Phase::Paused));
    world.members = well(QUORUM, world.now);
    world.primary_dies();
    assert!(world.step().start.is_some());
}

#[test]
fn a_store_that_served_and_comes_back_empty_is_refused() {
    let mut world = World::of(well);
    world.step();
    world.members = blanks(QUORUM, world.now);
    let plan = world.step();
    assert_eq!((plan.start, &plan.phase), (None, &Phase::DataLost(DATA_LOST.to_owned())));
    assert_eq!(plan.notes.iter().map(|note| note.reason).collect::<Vec<_>>(), [reasons::DATA_LOST]);
    assert_eq!(world.step().notes, [], "told once");
}

#[test]
fn a_first_epoch_that_a_crash_took_back_is_begun_again() {
    let mut world = World::of(blanks);
    world.step();
    let begun = well(QUORUM, world.now)[0].status.clone().unwrap();
    *status(&mut world.members[0]) = NodeStatus {
        role: NodeRole::Activating,
        commit: 0,
        durable: 0,
        peers: Vec::new(),
        ..begun
    };
    assert_eq!(world.step().status.shards[0].epoch, 0, "nothing of it is on a disk");
    world.members = blanks(QUORUM, world.now);
    for member in &mut world.members {
        status(member).promised = epoch(1);
    }
    assert!(matches!(world.step().phase, Phase::Bootstrapping(_)));
}

#[test]
fn too_few_replicas_block_a_failover_with_the_numbers_and_an_event() {
    let mut world = World::of(well);
    world.step();
    world.primary_dies();
    unheard(&mut world.members[2]);
    let plan = world.step();
    let text = "1 of 3 replicas answer and a failover needs 2: it goes on by itself when 1 more come back";
    assert_eq!(plan.start, None);
    assert_eq!(
        condition(&plan.status, FAILOVER_BLOCKED),
        ("True".to_owned(), reasons::TOO_FEW_REPLICAS.to_owned(), text.to_owned())
    );
    let note = Note {
        warning: true,
        reason: "FailoverBlocked",
        text: text.to_owned(),
    };
    assert_eq!(plan.notes, [note]);
    assert_eq!(world.step().notes, [], "told once");
    world.members[2].connected = true;
    assert!(world.step().start.is_some(), "it goes on by itself");
}

#[test]
fn a_hand_over_is_not_raced_but_taken_up_when_it_gets_stuck() {
    let mut world = World::of(well);
    world.step();
    // The primary was told to stop: it has fenced everybody, and nobody serves yet.
    world.members[0].health = Health::Leaving;
    for member in &mut world.members {
        let status = status(member);
        (status.promised, status.primary, status.role) = (epoch(2), None, NodeRole::Follower);
    }
    let plan = world.step();
    assert_eq!(plan.start, None);
    assert!(matches!(plan.phase, Phase::ViewChanging(_)), "{:?}", plan.phase);
    assert_eq!(plan.look_at, world.now + GRACE + Duration::from_nanos(1));
    world.now = plan.look_at;
    assert_eq!(world.step().start.unwrap().avoid, Some(incarnation(0)), "it is about to stop");
}

#[test]
fn an_epoch_of_this_operators_own_gets_no_grace_but_a_backoff() {
    let mut world = World::of(well);
    world.primary_dies();
    let change = world.step().start.unwrap();
    let drive = world.begin(change);
    for member in &mut world.members[1..] {
        (status(member).promised, status(member).primary) = (drive.epoch, None);
    }
    world.step();
    let late = Err(ViewChangeError::Drive(DriveError::Late(Vec::new())));
    world.memory = conclude(&world.memory, 0, &drive, &late, &world.members, world.now).memory;
    world.driving = None;
    let plan = world.step();
    assert_eq!(
        (plan.start, plan.look_at),
        (None, world.now + MIN_BACKOFF + Duration::from_nanos(1))
    );
    assert!(
        condition(&plan.status, READY).2.contains("the last attempt failed"),
        "{:?}",
        plan.status
    );
    world.now = plan.look_at;
    assert!(world.step().start.is_some());
}

#[test]
fn an_operator_that_begins_says_nothing_before_it_has_listened() {
    let mut world = World::of(well);
    world.step();
    let told = world.told.clone();
    world.memory = Memory::new(&told, world.now, Timestamp::UNIX_EPOCH);
    let members = std::mem::take(&mut world.members);
    let plan = world.step();
    assert_eq!((plan.phase, &plan.status, plan.notes), (Phase::Starting, &told, Vec::new()));
    world.now += LIMIT + Duration::from_millis(1);
    assert!(matches!(world.step().phase, Phase::Blocked(_)));
    world.members = members;
    for member in &mut world.members {
        member.heard = Some(world.now);
    }
    assert!(matches!(world.step().phase, Phase::Serving(..)));
}

#[test]
fn the_minimum_interval_outlives_the_operator() {
    let mut world = World::of(well);
    world.told.last_failover = Some(LastFailover {
        promoted_at: "1970-01-01T00:00:00.000Z".to_owned(),
        ..LastFailover::default()
    });
    world.settings.min_interval = Duration::from_secs(60);
    let wall = Timestamp::UNIX_EPOCH.saturating_add(Duration::from_secs(50)).unwrap();
    world.memory = Memory::new(&world.told, world.now, wall);
    world.primary_dies();
    let plan = world.step();
    assert_eq!(plan.start, None);
    assert_eq!(condition(&plan.status, READY).1, reasons::MINIMUM_INTERVAL);
    world.now += Duration::from_millis(10_001);
    for member in &mut world.members[1..] {
        member.heard = Some(world.now);
    }
    assert!(world.step().start.is_some());
}

#[test]
fn votes_are_asked_for_at_once_while_only_the_operator_has_lost_the_primary() {
    let mut world = World::of(well);
    assert_eq!(world.plan().heartbeat, Duration::from_millis(200));
    unheard(&mut world.members[0]);
    assert_eq!(world.plan().heartbeat, CLOSE);
    world.now += LIMIT * 5;
    for member in &mut world.members[1..] {
        member.heard = Some(world.now);
    }
    assert_eq!(
        world.plan().heartbeat,
        Duration::from_millis(200),
        "the link stays cut: no reason to ask so often for ever"
    );
}

#[test]
fn conditions_keep_their_time_and_a_status_without_news_is_the_same() {
    let mut world = World::of(well);
    let first = world.step().status;
    let seen = Observation {
        wall: Timestamp::UNIX_EPOCH.saturating_add(Duration::from_secs(9)).unwrap(),
        ..world.seen(world.now)
    };
    assert_eq!(plan(&seen, &world.memory).status, first);
}

fn quorums() -> impl Strategy<Value = Quorum> {
    (1u32..=5, 1u32..=5, 1u32..=5)
        .prop_map(|(replicas, write, read)| Quorum::strong(replicas, write, read))
        .prop_filter("strong", |quorum| quorum.validate().is_ok())
}

/// How long ago, around the limits that count.
fn ago() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0u64), 0u64..400, 900u64..1100, 1000u64..=1000, 2000u64..5000]
}

#[derive(Clone, Debug)]
struct Replica {
    health: Health,
    connected: bool,
    heard: Option<u64>,
    role: NodeRole,
    promised: u64,
    /// Ordinal, milliseconds, connected.
    primary: Option<(u32, u64, bool)>,
    peers: Vec<(bool, u64)>,
    member: bool,
    there: bool,
}

fn replica(replicas: u32) -> impl Strategy<Value = Replica> {
    let health = prop_oneof![
        5 => Just(Health::Running),
        1 => Just(Health::Doubtful),
        1 => Just(Health::Leaving),
        1 => Just(Health::Gone)
    ];
    let role = prop_oneof![
        1 => Just(NodeRole::Blank),
        4 => Just(NodeRole::Follower),
        1 => Just(NodeRole::Activating),
        2 => Just(NodeRole::Primary)
    ];
    let primary = prop::option::weighted(0.8, (0..replicas, ago(), prop::bool::weighted(0.6)));
    let peers = prop::collection::vec((prop::bool::weighted(0.7), ago()), replicas as usize - 1);
    let (connected, heard) = (prop::bool::weighted(0.8), prop::option::weighted(0.9, ago()));
    (
        health,
        connected,
        heard,
        role,
        1u64..4,
        primary,
        peers,
        prop::bool::weighted(0.95),
        prop::bool::weighted(0.95),
    )
        .prop_map(
            |(health, connected, heard, role, promised, primary, peers, member, there)| Replica {
                health,
                connected: connected && heard.is_some(),
                heard,
                role,
                promised,
                primary,
                peers,
                member,
                there,
            },
        )
}

fn observed(quorum: Quorum, replicas: &[Replica], now: Instant) -> Vec<Observed> {
    let mut members = well(quorum, now);
    for (member, replica) in members.iter_mut().zip(replicas) {
        (member.health, member.connected) = (replica.health, replica.connected);
        member.heard = replica.heard.and_then(|ago| now.checked_sub(Duration::from_millis(ago)));
        if member.heard.is_none() {
            member.status = None;
            continue;
        }
        let stranger = !replica.member;
        let ordinal = member.ordinal;
        let status = status(member);
        if stranger {
            status.id.incarnation = incarnation(ordinal + 100);
        }
        (status.role, status.promised) = (replica.role, epoch(replica.promised));
        let mine = status.id.incarnation;
        status.primary = match replica.role {
            NodeRole::Blank => None,
            NodeRole::Primary | NodeRole::Activating => Some((mine, 0, true)),
            NodeRole::Follower | NodeRole::Learner => replica
                .primary
                .map(|(primary, ago, connected)| (incarnation(primary), ago, connected)),
        }
        .map(|(incarnation, heard_millis_ago, connected)| PrimaryView {
            incarnation,
            epoch: epoch(replica.promised),
            heard_millis_ago,
            connected,
        });
        if replica.role == NodeRole::Blank {
            (status.configuration, status.peers) = (None, Vec::new());
        }
        status.peers.truncate(replica.peers.len());
        for (peer, (connected, ago)) in status.peers.iter_mut().zip(&replica.peers) {
            (peer.connected, peer.heard_millis_ago) = (*connected, *ago);
        }
    }
    let mut each = replicas.iter();
    members.retain(|_| each.next().is_none_or(|replica| replica.there));
    members
}

prop_compose! {
    fn worlds()(quorum in quorums())(
        replicas in prop::collection::vec(replica(quorum.replicas), quorum.replicas as usize),
        quorum in Just(quorum),
        automatic in prop::bool::weighted(0.8),
        paused in prop::bool::weighted(0.2),
        driving in prop::bool::weighted(0.2),
        served in any::<bool>(),
        young in prop::bool::weighted(0.2),
        interval in prop::option::of((0u64..5, 0u64..5000)),
        retry in prop::option::weighted(0.2, 0u64..300),
        promised in (0u64..4, 0u64..400),
        own in prop::option::of(1u64..4),
        outdated in prop::collection::vec(prop::bool::weighted(0.3), 7),
    ) -> World {
        let mut world = World::of(|_, now| observed(quorum, &replicas, now));
        world.settings = settings(quorum);
        (world.settings.automatic, world.settings.paused) = (automatic, paused);
        let before = |millis| world.now.checked_sub(Duration::from_millis(millis)).unwrap();
        if young {
            world.memory.since = before(500);
        }
        for (member, _) in world.members.iter_mut().zip(outdated).filter(|(_, outdated)| *outdated) {
            member.revision = Some("old".to_owned());
        }
        if let Some((seconds, ago)) = interval {
            world.settings.min_interval = Duration::from_secs(seconds);
            world.memory.last_failover = Some(before(ago));
        }
        if let Some(millis) = retry {
            world.memory.retry_at = world.now + Duration::from_millis(millis);
        }
        world.memory.promised = (epoch(promised.0), before(promised.1));
        world.memory.own = own.map(epoch);
        if served {
            world.told = plan(&World::of(well).seen(world.now), &world.memory).status;
        }
        if driving {
            let change = ViewChange { goal: Goal::Failover, reason: "r".to_owned(), from: None, primary: None, avoid: None, leave_out: None, silence: None, known: Known::of(&world.members, 0) };
            world.begin(change);
        }
        world
    }
}

fn in_reach(world: &World) -> (usize, Quorum) {
    let (members, quorum) = group(&world.members, world.settings.quorum);
    let fresh = members.iter().filter(|member| member.fresh(world.now, LIMIT).is_some());
    (fresh.count(), quorum)
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#?} {:?} {:?} {:?}", self.members, self.settings, self.memory, self.driving)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn two_view_changes_of_a_shard_never_run_at_once(world in worlds()) {
        prop_assert!(world.driving.is_none() || world.plan().start.is_none());
    }

    #[test]
    fn a_failover_begins_only_where_it_may(world in worlds()) {
        if let Some(ViewChange { goal: Goal::Failover, known, .. }) = world.plan().start {
            let (reachable, quorum) = in_reach(&world);
            prop_assert!(reachable >= quorum.fence() as usize, "a fence quorum is in reach");
            prop_assert!(world.settings.automatic, "the mode is Automatic");
            prop_assert!(world.now >= world.memory.retry_at, "the backoff is over");
            let since = world.memory.last_failover.map(|last| world.now - last);
            prop_assert!(since.is_none_or(|since| since >= world.settings.min_interval), "the minimum interval is over");
            prop_assert!(!known.configurations.is_empty(), "it knows a configuration to fence");
            let highest = statuses(&world.members).map(|status| status.promised.number).max().unwrap();
            prop_assert!(known.highest >= highest, "its epoch will be above every one seen");
        }
    }

    #[test]
    fn a_pod_that_runs_is_restarted_only_while_every_other_replica_is_well(world in worlds()) {
        let plan = world.plan();
        let Some(restart) = plan.restart else { return Ok(()) };
        let member = world.members.iter().find(|member| member.uid == restart.uid).unwrap();
        prop_assert_eq!(member.revision.as_deref(), Some("old"));
        prop_assert!(!world.settings.paused);
        if member.connected {
            prop_assert!(matches!(plan.phase, Phase::Serving(_, true)) && plan.start.is_none() && world.driving.is_none());
            for other in &world.members {
                prop_assert!(other.health == Health::Running && other.fresh(world.now, LIMIT).is_some(), "{} is not well", other.pod);
            }
        }
    }

    #[test]
    fn a_first_epoch_begins_only_over_all_replicas_and_only_if_all_are_blank(world in worlds()) {
        if let Some(ViewChange { goal: Goal::Bootstrap(target), .. }) = world.plan().start {
            let fresh: Vec<_> = world.members.iter().filter_map(|member| member.fresh(world.now, LIMIT)).collect();
            prop_assert!(fresh.iter().all(|status| status.role == NodeRole::Blank));
            prop_assert_eq!(fresh.len(), world.settings.quorum.replicas as usize);
            prop_assert_eq!(target.quorum(), world.settings.quorum);
            prop_assert!(!world.settings.paused && world.told.shards.iter().all(|shard| shard.epoch == 0));
        }
    }

    #[test]
    fn a_primary_that_only_the_operator_has_lost_is_never_failed_over(
        quorum in quorums(),
        heard in prop::option::of(0u64..100_000),
        health in prop_oneof![Just(Health::Running), Just(Health::Doubtful), Just(Health::Leaving)],
        silences in prop::collection::vec(0u64..=1000, 5),
        young in any::<bool>(),
    ) {
        // With one replica there is nobody to ask, and with a quorum of all of them the primary itself has to be fenced.
        prop_assume!(quorum.replicas > 1);
        let mut world = World::of(|_, now| well(quorum, now));
        world.settings = settings(quorum);
        if young {
            world.memory.since = world.now;
        }
        let now = world.now;
        let primary = &mut world.members[0];
        (primary.connected, primary.health) = (false, health);
        primary.heard = heard.and_then(|ago| now.checked_sub(Duration::from_millis(ago)));
        if heard.is_none() {
            primary.status = None;
        }
        for (member, silence) in world.members[1..].iter_mut().zip(silences) {
            status(member).primary.as_mut().unwrap().heard_millis_ago = silence;
        }
        let plan = world.plan();
        prop_assert_eq!(plan.start, None);
        prop_assert_eq!(plan.phase, Phase::Serving(incarnation(0), false));
    }

    #[test]
    fn a_primary_that_everybody_has_lost_is_failed_over_at_once(
        quorum in quorums(),
        health in prop_oneof![Just(Health::Running), Just(Health::Doubtful), Just(Health::Leaving), Just(Health::Gone)],
        follows in any::<bool>(),
    ) {
        // So many must be left that they can fence.
        prop_assume!(quorum.replicas > quorum.fence());
        let mut world = World::of(|_, now| well(quorum, now));
        world.settings = settings(quorum);
        world.step();
        world.primary_dies();
        world.members[0].health = health;
        if follows {
            // The process ended, and its members said so before: nobody follows anybody.
            for member in &mut world.members[1..] {
                status(member).primary = None;
            }
        }
        prop_assert!(world.plan().start.is_some());
    }

    #[test]
    fn either_the_primary_serves_or_a_condition_says_what_it_waits_for(world in worlds()) {
        let plan = world.plan();
        if plan.phase == Phase::Starting {
            prop_assert_eq!(&plan.status, &world.told);
            prop_assert!(plan.look_at <= world.memory.since + LIMIT + Duration::from_millis(1), "not for longer than the limit");
            return Ok(());
        }
        let (available, reason, message) = condition(&plan.status, AVAILABLE);
        let serves = matches!(plan.phase, Phase::Serving(..));
        prop_assert_eq!(available == "True", serves);
        prop_assert_eq!(plan.status.ready_shards, i32::from(serves && plan.status.shards[0].primary.is_some()));
        prop_assert!(!message.is_empty());
        prop_assert_eq!(reason == reasons::SERVING, serves);
        let (ready, ..) = condition(&plan.status, READY);
        prop_assert!(ready != "True" || serves);
        let (blocked, _, numbers) = condition(&plan.status, FAILOVER_BLOCKED);
        if blocked == "True" {
            let (reachable, quorum) = in_reach(&world);
            let expected = format!("{reachable} of {} replicas answer and a failover needs {}:", quorum.replicas, quorum.fence());
            prop_assert!(numbers.starts_with(&expected) && numbers.contains("it goes on by itself when"), "{}", numbers);
        }
    }

    #[test]
    fn nothing_changes_by_the_mere_passing_of_time_before_the_moment_that_the_plan_names(world in worlds(), part in 0.0f64..1.0) {
        let plan_now = world.plan();
        prop_assert!(plan_now.look_at > world.now && plan_now.look_at <= world.now + LOOK);
        // A change that was due to begin now is begun by then, and that is another observation.
        prop_assume!(plan_now.start.is_none());
        let last = plan_now.look_at - world.now - Duration::from_nanos(1);
        let between = world.now + last.mul_f64(part).min(last);
        let later = plan(&world.seen(between), &plan_now.memory);
        prop_assert_eq!(later.start, None);
        prop_assert_eq!(later.phase, plan_now.phase);
    }
}

mod disks;
mod membership;
mod update;
