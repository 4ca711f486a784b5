//! The floor of the ingest: `XREAD COUNT 1000`, the reply walked where it lies, `details` parsed and discarded.

use std::{hint::black_box, io::BufRead, time::Instant};

use serde::Deserialize;

use crate::{
    Res,
    resp::{self, Conn, Head},
};

const BATCH: &[u8] = b"1000";

/// What anybody would want of `details`, borrowed; the rest is passed over.
#[derive(Deserialize)]
struct Details<'a> {
    #[serde(borrow)]
    ip_address: Option<&'a str>,
    #[serde(borrow)]
    session_id: Option<&'a str>,
    duration_ms: Option<u64>,
    #[serde(borrow)]
    outcome: Option<&'a str>,
}

/// `floor-reader ADDRESS ENTRIES STREAM…`: says `ready`, reads at `go`, says `done MS`, ends with its input.
pub fn run(arguments: &[String]) -> Res<()> {
    let [address, entries, streams @ ..] = arguments else { return Err("floor-reader ADDRESS ENTRIES STREAM…".into()) };
    let entries: u64 = entries.parse()?;
    let mut conn = Conn::open(address.parse()?)?;
    let mut lines = std::io::stdin().lock().lines();
    println!("ready");
    if lines.next().transpose()?.as_deref() != Some("go") {
        return Ok(());
    }
    let started = Instant::now();
    let mut positions: Vec<String> = streams.iter().map(|_| "0-0".to_owned()).collect();
    let mut read = 0;
    let mut out = Vec::new();
    while read < entries {
        out.clear();
        let mut words: Vec<&[u8]> = vec![b"XREAD", b"COUNT", BATCH, b"STREAMS"];
        words.extend(streams.iter().map(String::as_bytes));
        words.extend(positions.iter().map(String::as_bytes));
        resp::command(&mut out, &words);
        conn.send(&out)?;
        let reply = conn.reply()?;
        let before = read;
        read += walk(reply, streams, &mut positions, |name, value| {
            if name == b"details" {
                let details: Details<'_> = serde_json::from_slice(value)?;
                black_box((details.ip_address, details.session_id, details.duration_ms, details.outcome));
            } else {
                black_box(value);
            }
            Ok(())
        })?;
        if read == before {
            return Err(format!("the streams hold {read} entries, not {entries}").into());
        }
    }
    println!("done {}", started.elapsed().as_secs_f64() * 1000.0);
    let _ = lines.next();
    Ok(())
}

/// Walks a reply of `XREAD`: gives each field to `take`, moves `positions` on, and says how many entries there were.
pub fn walk(
    reply: &[u8],
    streams: &[String],
    positions: &mut [String],
    mut take: impl FnMut(&[u8], &[u8]) -> Res<()>,
) -> Res<u64> {
    let mut at = 0;
    let mut next = || -> Res<Head<'_>> {
        let (head, end) = resp::step(reply, at).ok_or("a reply of Redis is not what XREAD says")?;
        at = end;
        match head {
            Head::Error(text) => Err(String::from_utf8_lossy(text).into_owned().into()),
            head => Ok(head),
        }
    };
    let wrong = || "a reply of Redis is not what XREAD says";
    let Head::Array(n_streams) = next()? else { return Ok(0) };
    let mut read = 0;
    for _ in 0..n_streams {
        let (Head::Array(2), Head::Bulk(name), Head::Array(n_entries)) = (next()?, next()?, next()?) else {
            return Err(wrong().into());
        };
        let mut last: &[u8] = &[];
        for _ in 0..n_entries {
            let (Head::Array(2), Head::Bulk(id), Head::Array(n_words)) = (next()?, next()?, next()?) else {
                return Err(wrong().into());
            };
            last = id;
            for _ in 0..n_words / 2 {
                let (Head::Bulk(name), Head::Bulk(value)) = (next()?, next()?) else { return Err(wrong().into()) };
                take(name, value)?;
            }
        }
        read += n_entries as u64;
        let stream = streams.iter().position(|stream| stream.as_bytes() == name).ok_or_else(wrong)?;
        positions[stream] = String::from_utf8_lossy(last).into_owned();
    }
    Ok(read)
}
