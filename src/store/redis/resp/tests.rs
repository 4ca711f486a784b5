//! The parser on answers as a server gives them, on parts of them, on what no server gives.

use proptest::prelude::*;

use super::*;
use crate::store::StreamInfo;

type Entries = Vec<(EntryId, Vec<(Vec<u8>, Vec<u8>)>)>;

/// What an answer says, apart from where it stands.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    times: [Option<u64>; 2],
    errors: Vec<(usize, String)>,
    streams: Vec<(usize, Vec<u8>, Entries, bool)>,
}

const SHAPE: Shape = Shape { any: 0, time_before: true, reads: 1, count: 1000, time_after: true, info: false };

/// Feeds the parts one after the other; what is behind the answer must be left alone.
fn said(shape: Shape, parts: &[&[u8]]) -> Result<Option<Said>, Malformed> {
    let mut parser = Parser::new();
    parser.expect(shape);
    let mut buf = Vec::new();
    let mut whole = false;
    for part in parts {
        buf.extend_from_slice(part);
        if !whole {
            whole = parser.feed(&mut buf)?;
        }
    }
    if !whole {
        return Ok(None);
    }
    assert!(parser.end() <= buf.len());
    let answer = parser.answer(buf);
    let entry = |e: &Entry| (e.id, e.fields().map(|(n, v)| (n.to_vec(), v.to_vec())).collect());
    Ok(Some(Said {
        times: answer.times(),
        errors: answer.errors().to_vec(),
        streams: answer.streams().map(|s| (s.read, s.name.to_vec(), s.entries.iter().map(entry).collect(), s.cut)).collect(),
    }))
}

fn bulk(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    word(&mut out, text);
    out
}

fn time(ms: u64) -> Vec<u8> {
    [b"*2\r\n".to_vec(), bulk((ms / 1000).to_string().as_bytes()), bulk((ms % 1000 * 1000).to_string().as_bytes())].concat()
}

/// One reply to XREAD.
fn reply(streams: &[(Vec<u8>, Entries)], resp3: bool) -> Vec<u8> {
    if streams.is_empty() {
        return if resp3 { b"_\r\n".to_vec() } else { b"*-1\r\n".to_vec() };
    }
    let mut out = format!("{}{}\r\n", if resp3 { '%' } else { '*' }, streams.len()).into_bytes();
    for (name, entries) in streams {
        if !resp3 {
            out.extend_from_slice(b"*2\r\n");
        }
        word(&mut out, name);
        out.extend_from_slice(format!("*{}\r\n", entries.len()).as_bytes());
        for (entry, fields) in entries {
            out.extend_from_slice(b"*2\r\n");
            id(&mut out, *entry);
            out.extend_from_slice(format!("*{}\r\n", fields.len() * 2).as_bytes());
            for (name, value) in fields {
                word(&mut out, name);
                word(&mut out, value);
            }
        }
    }
    out
}

fn answered(streams: &[(Vec<u8>, Entries)], resp3: bool) -> (Vec<u8>, Said) {
    let bytes = [time(1_700_000_000_123), reply(streams, resp3), time(1_700_000_000_456)].concat();
    let streams = streams.iter().map(|(name, entries)| (0, name.clone(), entries.clone(), false)).collect();
    (bytes, Said { times: [Some(1_700_000_000_123), Some(1_700_000_000_456)], errors: Vec::new(), streams })
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..12),
        1 => prop::collection::vec(any::<u8>(), 90..120),
        // What must not be taken for the protocol.
        1 => prop::sample::select(vec![&b"\r\n"[..], b"$3\r\nabc\r\n", b"*2\r\n", b"-ERR x\r\n", b"|1\r\n"]).prop_map(<[u8]>::to_vec),
    ]
}

fn streams() -> impl Strategy<Value = Vec<(Vec<u8>, Entries)>> {
    let fields = prop::collection::vec((text(), text()), 0..6);
    let entries = prop::collection::vec((1u64..1000, 0u64..5, fields), 0..6).prop_map(|entries| {
        let mut ms = 0;
        let entry = |(step, seq, fields)| {
            ms += step;
            (EntryId::new(ms, seq), fields)
        };
        entries.into_iter().map(entry).collect::<Entries>()
    });
    prop::collection::vec((text(), entries), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_says_the_same_wherever_it_is_split(streams in streams(), resp3 in any::<bool>(), behind in text()) {
        let (bytes, expected) = answered(&streams, resp3);
        prop_assert_eq!(said(SHAPE, &[&bytes]), Ok(Some(expected.clone())));
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            prop_assert_eq!(said(SHAPE, &[head, tail]), Ok(Some(expected.clone())), "split at {}", at);
            prop_assert!(at == bytes.len() || said(SHAPE, &[head]) == Ok(None), "whole after {at} bytes");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(said(SHAPE, &single), Ok(Some(expected.clone())), "byte by byte");
        let more = [bytes, behind].concat();
        prop_assert_eq!(said(SHAPE, &[&more]), Ok(Some(expected)));
    }

    #[test]
    fn whatever_comes_nothing_breaks_and_little_is_kept(
        streams in streams(),
        resp3 in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            3 => prop::sample::select(b"$*%~>|_+-:,(#=!\r\n0123456789-".to_vec()),
            1 => any::<u8>(),
        ], 0u8..3), 0..6),
        split in any::<prop::sample::Index>(),
    ) {
        let (mut bytes, _) = answered(&streams, resp3);
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.drain(at..(at + 3).min(bytes.len() - 1).max(at))),
            }
        }
        let (head, tail) = bytes.split_at(split.index(bytes.len()));
        prop_assert_eq!(said(SHAPE, &[&bytes]), said(SHAPE, &[head, tail]));
        kept_within(&bytes);
    }

    #[test]
    fn noise_is_no_answer(bytes in prop::collection::vec(prop::sample::select(b"$*%~>|_+-:#=!\r\n\r\n01239ab".to_vec()), 0..200)) {
        let one = said(SHAPE, &[&bytes]);
        let parts: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(one, said(SHAPE, &parts));
        kept_within(&bytes);
    }
}

/// What an answer announces costs nothing; only what it brings does.
fn kept_within(bytes: &[u8]) {
    let mut parser = Parser::new();
    parser.expect(SHAPE);
    let mut buf = bytes.to_vec();
    let _ = parser.feed(&mut buf);
    let most = 64 + 2 * bytes.len();
    assert!(buf.capacity() <= bytes.len().max(1) && parser.fields.capacity() <= most && parser.rows.capacity() <= most);
    assert!(parser.found.capacity() <= most && parser.errors.capacity() <= most);
}

fn one(text: &str) -> Result<Option<Said>, Malformed> {
    let bytes = [time(1000), text.as_bytes().to_vec(), time(2000)].concat();
    said(SHAPE, &[&bytes])
}

#[test]
fn what_newer_servers_may_say_is_understood() {
    let entry = (EntryId::new(5, 1), vec![(b"a".to_vec(), b"1".to_vec()), (b"a".to_vec(), b"2".to_vec())]);
    for text in [
        "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n5-1\r\n*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\na\r\n$1\r\n2\r\n",
        "%1\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n5-1\r\n*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\na\r\n$1\r\n2\r\n",
        "%1\r\n+s\r\n*1\r\n*2\r\n+5-1\r\n%2\r\n+a\r\n:1\r\n=5\r\ntxt:a\r\n,2\r\n",
        "|1\r\n+ttl\r\n:3\r\n%1\r\n$1\r\ns\r\n*1\r\n*2\r\n|1\r\n+x\r\n*2\r\n_\r\n#t\r\n$3\r\n5-1\r\n*4\r\n$1\r\na\r\n(1\r\n$1\r\na\r\n$1\r\n2\r\n",
        ">3\r\n+invalidate\r\n*1\r\n$3\r\nkey\r\n$0\r\n\r\n%1\r\n$1\r\ns\r\n~1\r\n*2\r\n$3\r\n5-1\r\n*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\na\r\n$1\r\n2\r\n",
    ] {
        let said = one(text).unwrap().unwrap();
        assert_eq!(said.streams, [(0, b"s".to_vec(), vec![entry.clone()], false)], "{text}");
    }
    for nil in ["*-1\r\n", "$-1\r\n", "_\r\n", "*0\r\n", "%0\r\n"] {
        assert_eq!(one(nil).unwrap().unwrap().streams, [], "{nil}");
    }
    let deleted = one("*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n5-1\r\n*-1\r\n").unwrap().unwrap();
    assert_eq!(deleted.streams, [(0, b"s".to_vec(), vec![(EntryId::new(5, 1), vec![])], false)]);
}

#[test]
fn errors_are_told_by_reply_and_the_others_read_on() {
    let shape = Shape { reads: 3, ..SHAPE };
    let text = "-WRONGTYPE no\r\n*1\r\n*2\r\n$1\r\ns\r\n*0\r\n!9\r\nNOPERM no\r\n";
    let bytes = [time(1000), text.as_bytes().to_vec(), time(2000)].concat();
    let said_all = said(shape, &[&bytes]).unwrap().unwrap();
    assert_eq!(said_all.errors, [(1, "WRONGTYPE no".to_owned()), (3, "NOPERM no".to_owned())]);
    assert_eq!((said_all.times, said_all.streams[0].0), ([Some(1000), Some(2000)], 1));
    let all = b"-LOADING x\r\n-LOADING x\r\n-LOADING x\r\n";
    assert_eq!(said(SHAPE, &[all]).unwrap().unwrap().errors.len(), 3);

    // A greeting: whatever it says, only its errors matter.
    let greeting = Shape { any: 2, ..Shape::default() };
    let bytes = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nmodules\r\n*1\r\n%1\r\n+a\r\n$-1\r\n-ERR DB index\r\n+rest";
    assert_eq!(said(greeting, &[bytes]).unwrap().unwrap().errors, [(1, "ERR DB index".to_owned())]);
    let mut parser = Parser::new();
    parser.expect(greeting);
    let mut buf = b"+OK\r\n+OK\r\n+rest".to_vec();
    assert_eq!(parser.feed(&mut buf), Ok(true));
    assert_eq!(buf.get(parser.end()..), Some(&b"+rest"[..]));

    let without = Shape { time_before: false, ..SHAPE };
    let bytes = [b"*-1\r\n".to_vec(), time(2000)].concat();
    assert_eq!(said(without, &[&bytes]).unwrap().unwrap().times, [None, Some(2000)]);
}

#[test]
fn what_no_server_says_is_refused() {
    for text in [
        ":3\r\n",
        "$1\r\ns\r\n",
        "+OK\r\n",
        "x\r\n",
        "\r\n",
        "*1\n",
        "*1\rx",
        "*\r\n",
        "*+1\r\n",
        "*-2\r\n",
        "* 1\r\n",
        "*18446744073709551616\r\n",
        "%-1\r\n",
        "*?\r\n",
        "*1\r\n*3\r\n",
        "*1\r\n*2\r\n*0\r\n",
        "*1\r\n*2\r\n$1\r\nsx\r\n",
        "*1\r\n*2\r\n$1\r\ns\r\n*1001\r\n",
        "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$1\r\n5\r\n",
        "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n5-x\r\n",
        "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n5-1\r\n*1\r\n",
        "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n5-1\r\n*2\r\n$1\r\na\r\n$-1\r\n",
        "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n5-1\r\n*2\r\n$1\r\na\r\n*0\r\n",
        "*1\r\n*2\r\n$1\r\ns\r\n*2\r\n*2\r\n$3\r\n5-1\r\n*0\r\n*2\r\n$3\r\n5-1\r\n*0\r\n",
        "*1\r\n*2\r\n$9999999999\r\n",
        "*1\r\n*2\r\n=3\r\nabc\r\n",
        "*1\r\n>1\r\n",
    ] {
        assert_eq!(one(text), Err(Malformed), "{text:?}");
    }
    let endless = [b"-".to_vec(), vec![b'x'; 20 << 10]].concat();
    assert_eq!(said(SHAPE, &[&endless]), Err(Malformed));
    let nested = b"*1000000000000\r\n".repeat(2);
    assert_eq!(said(Shape { any: 1, ..Shape::default() }, &[&nested]), Err(Malformed));
}

#[test]
fn an_entry_far_too_large_keeps_its_beginning_and_its_size() {
    let large = vec![b'x'; 5 << 20];
    let fields = vec![(b"event_type".to_vec(), b"a".to_vec()), (b"payload".to_vec(), large), (b"late".to_vec(), b"y".to_vec())];
    let next = vec![(b"event_type".to_vec(), b"b".to_vec())];
    let entries = vec![(EntryId::new(1, 0), fields), (EntryId::new(2, 0), next.clone())];
    let (bytes, _) = answered(&[(b"s".to_vec(), entries)], false);
    for part in [bytes.len(), 100_000, 1 << 20] {
        let mut parser = Parser::new();
        parser.expect(SHAPE);
        let mut buf = Vec::new();
        let mut whole = false;
        for part in bytes.chunks(part) {
            buf.extend_from_slice(part);
            whole = parser.feed(&mut buf).unwrap();
            assert!(buf.len() <= (4 << 20) + part.len() + 1000, "{} bytes are kept", buf.len());
        }
        assert!(whole);
        let answer = parser.answer(buf);
        let entries = answer.streams().next().unwrap().entries;
        assert_eq!(entries[0].size(), 10 + 1 + 7 + (5 << 20) + 4 + 1);
        let kept: Vec<_> = entries[0].fields().map(|(_, value)| value.len()).collect();
        assert!(kept[0] == 1 && (3 << 20..=4 << 20).contains(&kept[1]) && kept[2] == 0, "{kept:?}");
        assert_eq!(entries[1].fields().map(|(n, v)| (n.to_vec(), v.to_vec())).collect::<Vec<_>>(), next);
    }
}

#[test]
fn an_entry_of_too_many_fields_keeps_the_first_and_counts_as_too_large() {
    let fields = vec![(Vec::new(), Vec::new()); 70_000];
    let next = vec![(b"a".to_vec(), b"1".to_vec())];
    let entries = vec![(EntryId::new(1, 0), fields), (EntryId::new(2, 0), next)];
    let (bytes, _) = answered(&[(b"s".to_vec(), entries)], true);
    let mut parser = Parser::new();
    parser.expect(SHAPE);
    let mut buf = bytes;
    assert_eq!(parser.feed(&mut buf), Ok(true));
    let answer = parser.answer(buf);
    let entries = answer.streams().next().unwrap().entries;
    assert_eq!((entries[0].fields().len(), entries[0].size()), (1 << 16, u32::MAX as usize));
    assert_eq!((entries[1].field(b"a"), entries[1].size()), (Some(&b"1"[..]), 2));
}

#[test]
fn an_answer_far_too_large_leaves_the_rest_for_the_next() {
    let entry = |n: u64| (EntryId::new(n, 0), vec![(b"payload".to_vec(), vec![b'x'; 3 << 20])]);
    let streams = [(b"a".to_vec(), (1..30).map(entry).collect()), (b"b".to_vec(), (1..4).map(entry).collect())];
    let (bytes, _) = answered(&streams, false);
    let mut parser = Parser::new();
    parser.expect(SHAPE);
    let mut buf = Vec::new();
    let mut whole = false;
    for part in bytes.chunks(1 << 20) {
        buf.extend_from_slice(part);
        whole = parser.feed(&mut buf).unwrap();
        assert!(buf.len() < 72 << 20);
    }
    assert!(whole);
    let answer = parser.answer(buf);
    let streams: Vec<_> = answer.streams().map(|s| (s.entries.len(), s.cut, s.entries[0].size())).collect();
    assert_eq!(streams, [(22, true, (3 << 20) + 7), (1, true, (3 << 20) + 7)]);
    assert_eq!(answer.times(), [Some(1_700_000_000_123), Some(1_700_000_000_456)]);
}

/// `XINFO STREAM`: with these values in the first entry and the last.
fn described(resp3: bool, values: &[Vec<u8>]) -> Vec<u8> {
    let count = |sign: char, n: usize| format!("{sign}{n}\r\n").into_bytes();
    let entry = |id: &[u8]| [b"*2\r\n".to_vec(), bulk(id), count('*', values.len()), values.concat()].concat();
    let facts = [
        (&b"length"[..], b":3\r\n".to_vec()),
        (b"radix-tree-keys", b":1\r\n".to_vec()),
        (b"last-generated-id", bulk(b"1700000000000-7")),
        (b"max-deleted-entry-id", bulk(b"0-0")),
        (b"entries-added", b":9\r\n".to_vec()),
        (b"something-new", [count(if resp3 { '%' } else { '*' }, 2), bulk(b"a").repeat(if resp3 { 4 } else { 2 })].concat()),
        (b"a-long-text", bulk(&[b'x'; 1000])),
        (b"groups", b":0\r\n".to_vec()),
        (b"first-entry", entry(b"1700000000000-1")),
        (b"last-entry", entry(b"1700000000000-7")),
    ];
    let mut out = if resp3 { count('%', facts.len()) } else { count('*', 2 * facts.len()) };
    for (name, fact) in facts {
        out.extend([bulk(name), fact].concat());
    }
    out
}

fn info(bytes: &[&[u8]]) -> Result<Option<(StreamInfo, usize)>, Malformed> {
    let mut parser = Parser::new();
    parser.expect(Shape { info: true, ..Shape::default() });
    let (mut buf, mut most) = (Vec::new(), 0);
    for part in bytes {
        buf.extend_from_slice(part);
        most = most.max(buf.len());
        if parser.feed(&mut buf)? {
            assert_eq!(parser.end(), buf.len());
            return Ok(Some((parser.info, most)));
        }
    }
    assert!(parser.describes() || bytes.concat().len() < 8);
    Ok(None)
}

#[test]
fn of_a_streams_description_the_numbers_are_kept_and_the_entries_passed_over() {
    let id = |seq| EntryId::new(1_700_000_000_000, seq);
    let said =
        StreamInfo { length: 3, first: Some(id(1)), last_generated: id(7), added: Some(9), max_deleted: Some(EntryId::ZERO) };
    for resp3 in [false, true] {
        let small = described(resp3, &[bulk(b"event_type"), bulk(b"x")]);
        for at in 0..small.len() {
            assert_eq!(info(&[&small[..at]]), Ok(None), "{at}");
            assert_eq!(info(&[&small[..at], &small[at..]]).unwrap().map(|(info, _)| info), Some(said), "{at}");
        }
        // What is passed over is not kept: neither many fields nor a large one.
        for values in [vec![bulk(b"0123456789"); 1_000_000], vec![bulk(&vec![b'x'; 10 << 20]); 2]] {
            let large = described(resp3, &values);
            let parts: Vec<&[u8]> = large.chunks(16 << 10).collect();
            let (info, most) = info(&parts).unwrap().unwrap();
            assert_eq!(info, said);
            assert!(most < 64 << 10, "{most} bytes of {} were held", large.len());
        }
    }
    // Found by a fuzzer: refused when it came whole, passed over when it came in parts.
    let odd = b"*2\r\n+groups\r\n*1\r\n=5\r\nabcde\r\n";
    for at in 0..odd.len() {
        assert_eq!(info(&[&odd[..at], &odd[at..]]).unwrap().map(|(info, _)| info), Some(StreamInfo::default()), "{at}");
    }
    let nothing = b"*6\r\n$6\r\nlength\r\n:0\r\n$17\r\nlast-generated-id\r\n$3\r\n0-0\r\n$11\r\nfirst-entry\r\n$-1\r\n";
    assert_eq!(info(&[nothing]).unwrap().map(|(info, _)| info), Some(StreamInfo::default()));
    for nonsense in [
        "*3\r\n",
        "*2\r\n$6\r\nlength\r\n$1\r\nx\r\n",
        "*2\r\n*0\r\n:1\r\n",
        "*2\r\n$11\r\nfirst-entry\r\n*1\r\n+x\r\n",
        ":1\r\n",
    ] {
        assert_eq!(info(&[nonsense.as_bytes()]), Err(Malformed), "{nonsense:?}");
    }
}
