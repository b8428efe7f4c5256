//! Which reads a connection wants a node to answer that is not the primary: READONLY, READWRITE and QR.READ.
//!
//! None by default: such a node answers MOVED. Writes always go to the primary, and on the primary all of this changes nothing.

use super::call::{Call, Done, Refusal, SYNTAX};
use std::time::Duration;

/// READONLY means at most this. Long enough for a failover to go unnoticed, short enough that nobody is shown yesterday's data.
const READONLY_MAX: Duration = Duration::from_secs(10);

/// What a connection asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// Reads are the primary's matter.
    #[default]
    Primary,
    /// A read sees every write that was acknowledged before it was sent: the node asks its primary first.
    Linearizable,
    /// A read sees a state that once was that of the whole group, and every write acknowledged before `max_millis` ago.
    Stale {
        /// None: however old.
        max_millis: Option<u64>,
    },
}

/// What a node that is not the primary knew of its state when a batch of commands began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The primary said, after the batch arrived, which index a reader has to see, and the state holds it.
    pub confirmed: bool,
    /// The state holds everything that was acknowledged before so many milliseconds ago. None if that is not known.
    pub stale_millis: Option<u64>,
}

impl Reads {
    /// Why a read is not answered here; nothing if it may be.
    pub(super) fn refusal(self, standing: Standing) -> Result<(), Refusal> {
        match self {
            Self::Primary | Self::Stale { max_millis: None } => Ok(()),
            Self::Linearizable if standing.confirmed => Ok(()),
            Self::Linearizable => Err(
                "CLUSTERDOWN This replica got no answer from a primary, and the connection asked for linearizable reads: send the \
                 command again"
                    .into(),
            ),
            Self::Stale { max_millis: Some(max) } => match standing.stale_millis {
                _ if standing.confirmed => Ok(()),
                Some(stale) if stale <= max => Ok(()),
                Some(stale) => Err(format!(
                    "MASTERDOWN This replica's data may be {stale} ms old and the connection asked for {max} ms at most: there is no \
                     primary that it hears"
                )
                .into()),
                None => Err(format!(
                    "MASTERDOWN This replica heard of no primary since it started, and the connection asked for data that is {max} ms \
                     old at most"
                )
                .into()),
            },
        }
    }
}

pub(super) fn readonly(call: &mut Call<'_, '_>) -> Done {
    let max_millis = u64::try_from(READONLY_MAX.as_millis()).ok();
    call.session.reads = Reads::Stale { max_millis };
    call.reply.ok();
    Ok(())
}

pub(super) fn readwrite(call: &mut Call<'_, '_>) -> Done {
    call.session.reads = Reads::Primary;
    call.reply.ok();
    Ok(())
}

/// `QR.READ PRIMARY | LINEARIZABLE | STALE <milliseconds> | STALE ANY`: for this connection, from the next command on.
pub(super) fn read(call: &mut Call<'_, '_>) -> Done {
    let any = call.word(2) == "ANY";
    call.session.reads = match (call.word(1).as_str(), call.args.len()) {
        ("PRIMARY", 2) => Reads::Primary,
        ("LINEARIZABLE", 2) => Reads::Linearizable,
        ("STALE", 3) if any => Reads::Stale { max_millis: None },
        ("STALE", 3) => {
            let max = u64::try_from(call.integer(2)?).map_err(|_| Refusal::Borrowed("ERR a time is not below 0 milliseconds"))?;
            Reads::Stale { max_millis: Some(max) }
        }
        _ => return Err(SYNTAX),
    };
    call.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_answered_away_from_the_primary_only_if_it_is_as_good_as_was_asked_for() {
        let standing = |confirmed, stale_millis| Standing { confirmed, stale_millis };
        let stale = |max_millis| Reads::Stale { max_millis };
        let answered = [
            (Reads::Linearizable, standing(true, Some(0))),
            (stale(None), standing(false, None)),
            (stale(Some(100)), standing(false, Some(100))),
            (stale(Some(0)), standing(true, Some(3))),
        ];
        for (reads, standing) in answered {
            assert_eq!(reads.refusal(standing), Ok(()), "{reads:?} {standing:?}");
        }
        let refused = [
            (Reads::Linearizable, standing(false, Some(0)), "CLUSTERDOWN"),
            (
                stale(Some(100)),
                standing(false, Some(101)),
                "may be 101 ms old and the connection asked for 100 ms",
            ),
            (stale(Some(100)), standing(false, None), "heard of no primary since it started"),
        ];
        for (reads, standing, says) in refused {
            let refusal = reads.refusal(standing).unwrap_err();
            assert!(refusal.contains(says), "{refusal}");
        }
    }
}
