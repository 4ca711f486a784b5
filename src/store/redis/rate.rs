//! Counts of what clients do, in the application's own shape: an integer that expires.

use super::{lease::millis, *};
use crate::store::{Rate, Used};

impl RedisStore {
    pub async fn rate_count(&self, counts: &[Rate], window: Duration) -> Result<Vec<Option<Used>>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(counts.len());
        for count in counts {
            // By its text, which is short: keys lie in any slot, so no other command could have taken the script there.
            pipeline
                .cmd("EVAL")
                .arg(scripts::RATE.text)
                .arg(1)
                .arg(format!("rate_limit:{}:{}", count.limit, count.client))
                .arg(count.by)
                .arg(millis(window));
        }
        // Once: asked again, it would count twice.
        let mut first = None;
        let mut used = Vec::with_capacity(counts.len());
        for reply in self.link.ask_once(&pipeline).await? {
            let reply = self.link.reply(Some(reply)).map(value::items);
            used.push(match reply {
                Ok(Some(items)) => match items.iter().map(value::number).collect::<Option<Vec<_>>>().as_deref() {
                    Some(&[used, ends_in_ms]) => Some(Used { used, ends_in_ms }),
                    _ => None,
                },
                Ok(None) => None,
                Err(error) => {
                    first.get_or_insert(error);
                    None
                }
            });
        }
        match first {
            Some(error) if used.iter().all(Option::is_none) => Err(error),
            _ => Ok(used),
        }
    }
}
