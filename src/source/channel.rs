//! A pub/sub channel: lossy by nature. What is published while nobody listens is gone, and nothing can tell how much it was.

use super::{BATCH_MAX, BridgeError, Options, SEEN_TTL, item};
use crate::store::Store;

pub(super) async fn run(options: &Options, pattern: &str, store: &Store) -> BridgeError {
    match listen(options, pattern, store).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn listen(options: &Options, pattern: &str, store: &Store) -> Result<std::convert::Infallible, BridgeError> {
    let mut subscription = store.subscribe(pattern).await?;
    tracing::info!("the source {} listens to {pattern}; what was published before is not seen", options.name);
    let mut items = Vec::new();
    loop {
        let (_, payload) = subscription.next().await?;
        items.push(item(&options.name, None, &payload));
        while items.len() < BATCH_MAX
            && let Some((_, payload)) = subscription.ready()
        {
            items.push(item(&options.name, None, &payload));
        }
        store.intake(&items, SEEN_TTL).await?;
        items.clear();
        let missed = subscription.missed();
        if missed > 0 {
            tracing::warn!(
                "the source {} was published to faster than it could be stored: {missed} messages are lost",
                options.name
            );
        }
    }
}
