//! Which replies make up an answer, and in which order.

/// Which replies make up an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Replies of whatever kind, of which only errors matter.
    pub any: usize,
    /// `TIME` comes first.
    pub time_before: bool,
    /// `XREAD`s.
    pub reads: usize,
    /// Entries that each was to give of a stream at most.
    pub count: usize,
    /// `TIME` comes after them.
    pub time_after: bool,
    /// `XINFO STREAM` comes last.
    pub info: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Any,
    Time,
    Read,
    Info,
}

impl Shape {
    pub(super) fn replies(&self) -> usize {
        self.any + usize::from(self.time_before) + self.reads + usize::from(self.time_after) + usize::from(self.info)
    }

    pub(super) fn kind(&self, reply: usize) -> Kind {
        let reads = self.any + usize::from(self.time_before);
        match reply {
            _ if reply < self.any => Kind::Any,
            _ if self.info && reply + 1 == self.replies() => Kind::Info,
            _ if reply >= reads && reply < reads + self.reads => Kind::Read,
            _ => Kind::Time,
        }
    }
}
