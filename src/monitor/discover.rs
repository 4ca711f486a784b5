//! Which streams there are: those configured by name, and those that a glob finds, also while others are read.

use std::{pin::Pin, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    Monitor,
    holes::begin_time,
    is_glob,
    lead::{Halt, Leader},
    start_position,
    streams::{Feeds, Stream},
};
use crate::{event::EntryId, source, store::StoreError};

/// How often names and globs are looked up again: also as many times as long as looking took, for it goes through all keys.
const DISCOVER_EVERY: Duration = Duration::from_millis(500);
const DISCOVER_PAUSE: u32 = 20;
/// Streams of one installation at most.
const STREAMS_MAX: usize = 4096;

/// The keys that the names and globs of each source stand for.
pub(super) type Found = Result<Vec<(usize, Vec<String>)>, StoreError>;
/// A look for them that is under way.
pub(super) type Search = Pin<Box<dyn Future<Output = Found> + Send>>;

impl Monitor {
    /// Streams that are configured by name, and those that a glob finds. The first look is waited for; the others go on
    /// beside the reading, for a store may hold many keys.
    pub(super) async fn discover(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        if l.search.is_none() && l.found.is_none() && Instant::now() >= l.next_discover {
            l.search = Some(self.search());
            l.search_begun = Instant::now();
        }
        while !l.state.discovered
            && let Some(search) = &mut l.search
        {
            tokio::select! {
                found = search => (l.search, l.found) = (None, Some(found)),
                () = sleep_until(l.next_lease) => self.renew(l).await?,
                () = self.stop.cancelled() => return Err(Halt::Stopped),
            }
        }
        if let Some(found) = l.found.take() {
            l.next_discover = Instant::now() + DISCOVER_EVERY.max(l.search_begun.elapsed() * DISCOVER_PAUSE);
            self.follow_streams(l, found?).await?;
        }
        Ok(())
    }

    fn search(&self) -> Search {
        let (store, sources) = (self.store.clone(), self.settings.borrow().sources.clone());
        Box::pin(async move {
            let mut found = Vec::new();
            for (index, source) in sources.iter().enumerate() {
                let source::Kind::Stream { streams } = &source.kind else { continue };
                for name in streams {
                    let keys = if is_glob(name) { store.find_streams(name).await? } else { vec![name.clone()] };
                    found.push((index, keys));
                }
            }
            Ok(found)
        })
    }

    /// Takes new streams up, and stores where each begins before anything of it is taken in: a replay must know.
    async fn follow_streams(&mut self, l: &mut Leader<'_>, found: Vec<(usize, Vec<String>)>) -> Result<(), Halt> {
        let sources = self.settings.borrow().sources.clone();
        let mut any = false;
        for (index, keys) in found {
            let Some(source) = sources.get(index) else { continue };
            for key in keys {
                if l.state.engine.stream_index(&key).is_some() {
                    continue;
                }
                if l.state.engine.streams.len() >= STREAMS_MAX {
                    if !std::mem::replace(&mut l.too_many, true) {
                        tracing::warn!("there are more than {STREAMS_MAX} streams: {key} and others are not followed");
                        begin_time(l);
                        l.state.engine.exhausted(index as u16, &key, &mut l.effects);
                    }
                    continue;
                }
                // Whole, if it came to be while we were looking or is not there yet; else from where the source says.
                let new = self.seen_before(l, index) || matches!(self.store.stream_info(&key).await?, Ok(None));
                let position = if new { EntryId::ZERO } else { start_position(source.start, self.store.now_ms().await?) };
                let added = l.state.engine.add_stream(Stream::new(key.clone(), Feeds::Source(index as u16), position));
                let at = l.merge.add(&key);
                debug_assert_eq!(added, at);
                any = true;
            }
        }
        if !std::mem::replace(&mut l.state.discovered, true) {
            // From now on a stream that appears is read whole. What nobody wants to read any more is no trouble any more.
            let gone: Vec<String> =
                l.unreadable.iter().filter(|key| l.state.engine.stream_index(key).is_none()).cloned().collect();
            for key in gone {
                l.unreadable.remove(&key);
                l.state.engine.readable(&key, &mut l.effects);
            }
        }
        if any {
            self.commit(l).await?;
        }
        Ok(())
    }

    /// Whether the streams of a source have been looked up before, so that a new one is one that was made meanwhile.
    fn seen_before(&self, l: &Leader<'_>, source: usize) -> bool {
        l.state.discovered || l.state.engine.streams.iter().any(|s| s.feeds == Feeds::Source(source as u16) && s.existed)
    }
}
