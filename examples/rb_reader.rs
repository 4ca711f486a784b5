use auditcast::{event::EntryId, store::*};
use std::time::{Duration, Instant};
#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let url = format!("redis://127.0.0.1:{}/0{}", a[1], a.get(4).map(String::as_str).unwrap_or(""));
    let total: usize = a[2].parse().unwrap();
    let mode = a[3].as_str().to_owned();
    let o = Options {
        target: Target::Redis(url),
        prefix: "{x}".into(),
        lease_ttl: Duration::from_secs(5),
        alerts_retention: Duration::from_secs(1000),
        alerts_max: 1000,
        dead_letters_max: 100,
        commits_max: 100,
        intake_max: 100,
    };
    let store = Store::open(o).await.unwrap();
    let h = tokio::spawn(async move {
        let mut reader = store.reader();
        let mut after = EntryId::ZERO;
        let (mut got, mut sum) = (0, 0);
        let t = Instant::now();
        while got < total {
            let reply = reader.read(&[("audit:events", after)], 1000, Duration::ZERO).await.unwrap();
            let s = &reply.streams[0];
            after = s.entries.last().unwrap().id;
            if mode.contains("ahead") && s.full {
                reader.ask_ahead(&[("audit:events", after)], 1000).await;
            }
            for e in &s.entries {
                got += 1;
                for (n, v) in e.fields() {
                    if mode.contains("json") && n == b"details" {
                        let _: serde::de::IgnoredAny = serde_json::from_slice(v).unwrap();
                    }
                    if mode.contains("value") && n == b"details" {
                        let x: serde_json::Value = serde_json::from_slice(v).unwrap();
                        sum += x.is_object() as usize;
                    }
                    sum += n.len() + v.len()
                }
            }
        }
        let el = t.elapsed();
        println!("{got} {:.0}/s {:.3}s ({sum})", got as f64 / el.as_secs_f64(), el.as_secs_f64());
    });
    h.await.unwrap();
    let cpu: u64 = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|t| {
            std::fs::read_to_string(t.unwrap().path().join("schedstat"))
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum();
    println!("cpu {:.3} us/entry", cpu as f64 / 1000.0 / total as f64);
}
