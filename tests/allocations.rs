//! Reading an ordinary entry and taking it in allocates nothing, once its names are known.
//!
//! One test alone in its binary: the allocator counts what this thread asks for.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

use auditcast::{
    config::{Config, Sources},
    detect::{Detector, Observed},
    event::{Classifier, EntryId},
};
use jiff::tz::TimeZone;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is the system allocator's; counting changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // At the thread's very end the counter is gone.
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// 2024-01-15T10:30:00Z
const NOW: u64 = 1_705_314_600_000;

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

fn fields<'a>(texts: &[(&'a str, &'a str)]) -> Fields<'a> {
    texts.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
}

#[test]
fn an_ordinary_entry_with_known_names_allocates_nothing() {
    let details = r#"{"ip_address": "192.168.1.100", "user_agent": "Mozilla/5.0 (X11; x)", "note": "\"x\"", "session_id": "sess_1", "duration_ms": 12.5,
        "roles": ["admin", {"since": null}], "mfa": true, "attempt": 3, "resource": "/api/v1/ä", "request_id": "0b1f7c8e"}"#;
    let envelope = format!(
        r#"{{"event_type": "RATE_LIMIT_EXCEEDED", "timestamp": 1705314600.25, "user_id": 7, "severity": "info", "extra": [1], "details": {details}}}"#
    );
    let entries = [
        fields(&[
            ("event_id", "evt_1"),
            ("timestamp", "2024-01-15T10:30:00.123Z"),
            ("event_type", "AUTH_FAILURE"),
            ("user_id", "7"),
            ("username", "user@example.com"),
            ("severity", "warning"),
            ("region", "eu"),
            ("details", details),
        ]),
        fields(&[
            ("event_type", "auth.login_success"),
            ("timestamp", "1705314600"),
            ("session_id", "sess_2"),
            ("ip_address", "::1"),
        ]),
        fields(&[("data", &envelope)]),
        fields(&[
            ("event_type", "permission.denied"),
            ("timestamp", "2024-01-15 10:30:00"),
            ("details", r#"{"outcome":"denied"}"#),
        ]),
    ];
    let config = Config::load(Sources::default()).expect("the defaults are good");
    let mut classifier = Classifier::new(config.event.clone()).expect("so are their patterns");
    let mut detector = Detector::new(Arc::new(config.detect.clone()));
    let mut out = Vec::new();
    let mut round = |seq: u64| {
        let before = ALLOCATIONS.get();
        for (n, entry) in entries.iter().enumerate() {
            let event = classifier.decode(entry, NOW, &TimeZone::UTC).expect("it can be read");
            let observed =
                Observed { source: 0, stream: "audit:events", entry: EntryId::new(NOW, seq * 4 + n as u64), event: &event };
            detector.observe(NOW, &observed, &mut out);
        }
        ALLOCATIONS.get() - before
    };
    assert!(round(0) > 0, "the first of their kind are remembered");
    // The lists of the last entries behind a metric, and of what rules keep of an entity, have their room by then.
    (1..300).for_each(|n| {
        round(n);
    });
    assert_eq!((300..340).map(&mut round).sum::<u64>(), 0);
    assert!(out.is_empty());
}
