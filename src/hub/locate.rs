//! What a position that a client sends back means now.

use super::Hub;
use crate::{
    store::{Store, StoreError},
    wire::{After, Pos},
};

/// Where to go on from, and whether that is where the client left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Everything up to here is passed over.
    pub pos: Pos,
    /// Why it is not what the client asked for: `expired` (trimmed) or `unknown_position`. Then `pos` is before the oldest
    /// entry that is kept.
    pub recovered: Result<(), &'static str>,
}

impl Hub {
    /// Holds a position against the log: known here, or asked of the store.
    pub async fn locate(&self, store: &Store, after: &After) -> Result<Located, StoreError> {
        if let After::At(pos) = after {
            let ring = self.ring();
            let known = if pos.seq == 0 { Some(Pos::origin(&ring.epoch).check) } else { ring.check(pos.seq).map(str::to_owned) };
            if ring.loaded && pos.seq > 0 && known.as_ref() == Some(&pos.check) {
                return Ok(Located { pos: pos.clone(), recovered: Ok(()) });
            }
        }
        let bounds = store.log_bounds().await?;
        let origin = Pos::origin(&bounds.epoch);
        let oldest = if bounds.first <= 1 {
            origin.clone()
        } else {
            // The entry before the oldest is gone, and its check with it: a position made of it is known for what it is.
            Pos { seq: bounds.first - 1, check: Pos::origin("trimmed").check }
        };
        let recovered = match after {
            After::Earliest => Ok(()),
            After::Unknown => Err("unknown_position"),
            After::At(pos) if pos.seq > bounds.head => Err("unknown_position"),
            After::At(pos) if pos.seq == 0 => match (pos.check == origin.check, bounds.first <= 1) {
                (false, _) => Err("unknown_position"),
                (true, true) => return Ok(Located { pos: pos.clone(), recovered: Ok(()) }),
                (true, false) => Err("expired"),
            },
            After::At(pos) if pos.seq < bounds.first => Err("expired"),
            After::At(pos) => {
                let entry = store.log_read(pos.seq - 1, 1).await?.into_iter().next();
                match entry {
                    Some(entry) if entry.seq == pos.seq && entry.check == pos.check => {
                        return Ok(Located { pos: pos.clone(), recovered: Ok(()) });
                    }
                    // Trimmed between the two questions.
                    Some(entry) if entry.seq > pos.seq => Err("expired"),
                    _ => Err("unknown_position"),
                }
            }
        };
        Ok(Located { pos: oldest, recovered })
    }
}
