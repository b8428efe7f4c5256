//! The streams of operators to nodes: the node's status at every heartbeat and at once on a change, the operator's words in the
//! other direction. A stream keeps order, breaks with the process at either end, and is given up when it is silent. What an
//! operator says while a network is cut arrives when it is mended, if the stream lives so long; statuses are repeated anyway.

use super::{Happening, SECOND};
use crate::sim::world::{MILLI, World};
use quorate_api::NodeStatus;
use quorate_api::wire::Request;
use quorate_operator::link::News;
use quorate_operator::plan::Admission;
use quorate_protocol_mutants::Event;
use std::time::Duration;

/// Between two attempts to reach a node.
const REDIAL: u64 = 100 * MILLI;
/// Words that did not arrive are sent again after this time.
const RESEND: u64 = 200 * MILLI;
/// A node that does not answer at all is given up after this time.
const HANDSHAKE: u64 = 2 * SECOND;

/// See the module.
pub(crate) struct Stream {
    pub(crate) operator: usize,
    /// The life of the operator's process.
    pub(crate) life: u64,
    pub(crate) ordinal: u32,
    pod: String,
    uid: String,
    /// The life of the node's process, once it accepted.
    node_life: Option<u64>,
    interval: u64,
    /// Counts changes of the interval.
    series: u64,
    patience: u64,
    heard: u64,
    /// Nothing overtakes.
    last_forth: u64,
    last_back: u64,
    /// Words that did not arrive, the oldest first.
    unsent: Vec<Request>,
    /// A learner was once told.
    admitted: bool,
}

impl Stream {
    /// For whoever has to understand why a system does not converge.
    pub(crate) fn outline(&self) -> String {
        format!("to {} life {:?} heard {}", self.ordinal, self.node_life, self.heard)
    }

    pub(crate) fn leads_to(&self, host: usize, life: u64) -> bool {
        self.ordinal as usize == host && self.node_life == Some(life)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl World {
    /// Dials a pod that the keeper knows an address of, unless a stream is there.
    pub(crate) fn dial_pod(&mut self, operator: usize, life: u64, ordinal: u32) {
        if self.sys().operators[operator].life() != Some(life) {
            return;
        }
        let Some(keeper) = self.sys().operators[operator].keeper.as_ref() else {
            return;
        };
        let Some(member) = keeper.steward.roster.get(ordinal).filter(|member| member.address.is_some()) else {
            return;
        };
        let (pod, uid) = (member.pod.clone(), member.uid.clone());
        let (settings, heartbeat) = (&keeper.desired.settings, keeper.heartbeat());
        let patience = micros(settings.suspect_after);
        let stands = |stream: &Stream| stream.operator == operator && stream.life == life && stream.ordinal == ordinal;
        if self.sys().streams.values().any(stands) {
            return;
        }
        let number = self.sys().next_stream;
        self.sys().next_stream += 1;
        let stream = Stream {
            operator,
            life,
            ordinal,
            pod,
            uid,
            node_life: None,
            interval: micros(heartbeat),
            series: 0,
            patience,
            heard: self.now,
            last_forth: 0,
            last_back: 0,
            unsent: Vec::new(),
            admitted: false,
        };
        self.sys().streams.insert(number, stream);
        let there = self.reaches(operator, ordinal as usize) && self.hosts[ordinal as usize].process.is_some();
        let refused = self.sys().machines[ordinal as usize].up && self.reaches(operator, ordinal as usize);
        let after = match there || refused {
            true => 2 * self.way(),
            false => HANDSHAKE,
        };
        self.happens(after, Happening::Dialled(number));
    }

    fn reaches(&mut self, operator: usize, host: usize) -> bool {
        let place = self.sys().operators[operator].place;
        !self.is_silent(place, host) && !self.is_silent(host, place)
    }

    pub(crate) fn dialled(&mut self, number: u64) {
        let Some(stream) = self.sys().streams.get(&number) else { return };
        let (operator, host, uid) = (stream.operator, stream.ordinal as usize, stream.uid.clone());
        let same = self
            .sys()
            .api
            .pods
            .get(&host)
            .is_some_and(|pod| pod.metadata.uid.as_ref() == Some(&uid));
        let ready = self.hosts[host].process.is_some() && !self.hosts[host].frozen;
        if !same || !ready || !self.reaches(operator, host) {
            self.close_stream(number, "no answer");
            return;
        }
        let (life, now) = (self.hosts[host].life, self.now);
        let stream = self.sys().streams.get_mut(&number).expect("looked up above");
        (stream.node_life, stream.heard) = (Some(life), now);
        let silence = stream.patience + stream.interval;
        self.happens(silence + 1, Happening::Silence(number));
        let Some(keeper) = self.sys().operators[operator].keeper.as_ref() else {
            return;
        };
        let (watch, admission) = (keeper.watch_word(), keeper.admission.clone());
        self.send_word(number, watch);
        self.send_word(number, Request::Addresses(Vec::new()));
        self.send_admission(number, admission.as_ref());
    }

    /// Tells the learners, if this stream leads to the primary that is to admit them.
    pub(crate) fn send_admission(&mut self, number: u64, admission: Option<&Admission>) {
        let Some(stream) = self.sys().streams.get(&number) else { return };
        let (host, admitted) = (stream.ordinal as usize, stream.admitted);
        let Some(admission) = admission.filter(|word| word.primary == self.hosts[host].incarnation) else {
            return;
        };
        if admitted || !admission.learners.is_empty() {
            let learners = admission.learners.clone();
            self.sys().streams.get_mut(&number).expect("looked up above").admitted = true;
            self.send_word(number, Request::Admit(learners));
        }
    }

    /// The streams of an operator that stand.
    pub(crate) fn standing(&mut self, operator: usize, life: u64) -> Vec<u64> {
        let ours = |(number, stream): (&u64, &Stream)| {
            (stream.operator == operator && stream.life == life && stream.node_life.is_some()).then_some(*number)
        };
        self.sys().streams.iter().filter_map(ours).collect()
    }

    pub(crate) fn send_word(&mut self, number: u64, request: Request) {
        let Some(stream) = self.sys().streams.get_mut(&number) else {
            return;
        };
        let (operator, life) = (stream.operator, stream.life);
        let first = stream.unsent.is_empty();
        stream.unsent.push(request);
        // Behind others that wait, it goes with them.
        if first {
            self.send_unsent(number);
        }
        self.step_taken(operator, life);
    }

    /// Sends what was not sent yet, in its order, if the way is free.
    pub(crate) fn send_unsent(&mut self, number: u64) {
        let Some(stream) = self.sys().streams.get(&number) else { return };
        let (operator, host) = (stream.operator, stream.ordinal as usize);
        let place = self.sys().operators[operator].place;
        if self.is_silent(place, host) {
            self.happens(RESEND, Happening::Resend(number));
            return;
        }
        let stream = self.sys().streams.get_mut(&number).expect("looked up above");
        for request in std::mem::take(&mut stream.unsent) {
            let (now, after) = (self.now, self.way());
            let stream = self.sys().streams.get_mut(&number).expect("looked up above");
            stream.last_forth = (now + after).max(stream.last_forth + 1);
            let at = stream.last_forth;
            self.happens(at - now, Happening::Word(number, request));
        }
    }

    pub(crate) fn word_arrives(&mut self, number: u64, request: Request) {
        let now = self.now;
        let Some(stream) = self.sys().streams.get(&number) else { return };
        let (host, node_life) = (stream.ordinal as usize, stream.node_life);
        if node_life != Some(self.hosts[host].life) || self.hosts[host].process.is_none() {
            return;
        }
        match request {
            Request::Watch { interval_millis, policy } => {
                let stream = self.sys().streams.get_mut(&number).expect("looked up above");
                stream.interval = interval_millis * MILLI;
                stream.series += 1;
                let series = stream.series;
                let node = &mut self.sys().nodes[host];
                (node.policy, node.heard) = (policy.or(node.policy), now);
                self.beat(number, series);
            }
            request @ Request::Admit(_) => {
                let from = self.new_session();
                let event = Event::Request { from, peer: None, request };
                self.input(host, crate::sim::host::Input::Event(event));
            }
            _ => {}
        }
    }

    /// A heartbeat.
    pub(crate) fn beat(&mut self, number: u64, series: u64) {
        let Some(stream) = self.sys().streams.get(&number) else { return };
        let (host, interval, node_life) = (stream.ordinal as usize, stream.interval, stream.node_life);
        if stream.series != series || node_life != Some(self.hosts[host].life) {
            return;
        }
        self.tell_stream(number);
        self.happens(interval, Happening::Beat(number, series));
    }

    /// A node tells its status on every stream to it.
    pub(crate) fn tell_all_streams(&mut self, host: usize) {
        let life = self.hosts[host].life;
        let led = |(number, stream): (&u64, &Stream)| (stream.leads_to(host, life) && stream.series > 0).then_some(*number);
        let streams: Vec<u64> = self.sys().streams.iter().filter_map(led).collect();
        for number in streams {
            self.tell_stream(number);
        }
    }

    fn tell_stream(&mut self, number: u64) {
        let Some(stream) = self.sys().streams.get(&number) else { return };
        let (operator, host) = (stream.operator, stream.ordinal as usize);
        let place = self.sys().operators[operator].place;
        if self.hosts[host].frozen || self.is_silent(host, place) {
            return;
        }
        let Some(status) = self.node_status(host) else { return };
        let (now, after) = (self.now, self.way());
        let Some(stream) = self.sys().streams.get_mut(&number) else {
            return;
        };
        stream.last_back = (now + after).max(stream.last_back + 1);
        let at = stream.last_back;
        self.happens(at - now, Happening::Told(number, Box::new(status)));
    }

    /// The operator hears a node.
    pub(crate) fn told(&mut self, number: u64, status: Box<NodeStatus>) {
        let now = self.now;
        let Some(stream) = self.sys().streams.get_mut(&number) else {
            return;
        };
        stream.heard = now;
        let news = (stream.pod.clone(), stream.uid.clone(), News::Status(status));
        let (operator, life) = (stream.operator, stream.life);
        self.news(operator, life, news);
    }

    /// All streams to a node break with its process. Where the machine is down or cut off, nobody hears of it.
    pub(crate) fn reset_streams_of(&mut self, host: usize) {
        let life = self.hosts[host].life;
        let broken: Vec<(u64, usize)> = self
            .sys()
            .streams
            .iter()
            .filter(|(_, stream)| stream.leads_to(host, life))
            .map(|(number, stream)| (*number, stream.operator))
            .collect();
        for (number, operator) in broken {
            if self.sys().machines[host].up && self.reaches(operator, host) {
                let after = self.way();
                self.happens(after, Happening::Gone(number));
            }
        }
    }

    pub(crate) fn stream_gone(&mut self, number: u64) {
        self.close_stream(number, "reset");
    }

    pub(crate) fn silence(&mut self, number: u64) {
        let now = self.now;
        let Some(stream) = self.sys().streams.get(&number) else { return };
        let ends = stream.heard + stream.patience + stream.interval;
        if now >= ends {
            self.close_stream(number, "silent");
        } else {
            self.happens(ends - now, Happening::Silence(number));
        }
    }

    /// The operator gives a stream up, and dials anew.
    fn close_stream(&mut self, number: u64, why: &str) {
        let Some(stream) = self.sys().streams.remove(&number) else { return };
        let Stream {
            operator,
            life,
            ordinal,
            pod,
            uid,
            ..
        } = stream;
        if self.sys().operators[operator].life() != Some(life) {
            return;
        }
        self.news(operator, life, (pod, uid, News::Down(why.to_owned())));
        self.happens(REDIAL, Happening::Dial(operator, life, ordinal));
    }

    /// Streams that lead nowhere any more end without a word.
    pub(crate) fn drop_streams(&mut self, operator: usize, ordinal: Option<u32>) {
        let gone = |stream: &Stream| stream.operator == operator && ordinal.is_none_or(|ordinal| stream.ordinal == ordinal);
        self.sys().streams.retain(|_, stream| !gone(stream));
    }
}
