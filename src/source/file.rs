//! A file of JSON lines: text before the first `{` of a line is skipped, rotation and truncation are followed. A line is taken once:
//! its place and its content are its name at the intake, and where reading stands is kept in the store.

use std::{
    fs::{File, Metadata},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{BATCH_MAX, BridgeError, EVENT_BYTES_MAX, Options, SEEN_TTL, Start, item};
use crate::{
    event,
    store::{IntakeItem, Store},
};

/// How often the file is looked at while nothing is added to it.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Files of a directory looked through for one that was rotated away.
const SIBLINGS_MAX: usize = 10_000;
/// Read at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// A file is known by so many of its first bytes, beside its number: a number is given again when a file is gone.
const HEAD_BYTES: u64 = 256;

/// Where reading stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Place {
    device: u64,
    inode: u64,
    /// Counts the files that this path has been, and the times that one was emptied.
    #[serde(default)]
    generation: u64,
    offset: u64,
    /// Digest of the first `head_bytes` of the file, which reading has passed.
    #[serde(default)]
    head: String,
    #[serde(default)]
    head_bytes: u64,
}

struct Open {
    file: File,
    place: Place,
    /// The beginning of a line whose end is not there yet, and where that line begins.
    rest: Vec<u8>,
    line_start: u64,
    /// The line in hand is too long; its beginning is kept, what follows is skipped.
    overlong: bool,
}

pub(super) async fn run(options: &Options, path: &Path, store: &Store) -> BridgeError {
    match follow(options, path, store).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn io_error(path: &Path, error: &std::io::Error) -> BridgeError {
    BridgeError::Io(format!("{}: {error}", path.display()))
}

async fn follow(options: &Options, path: &Path, store: &Store) -> Result<std::convert::Infallible, BridgeError> {
    let bookmark = format!("file:{}", options.name);
    let mut saved: Option<Place> = store.bookmark(&bookmark).await?.and_then(|text| serde_json::from_str(&text).ok());
    let mut first = saved.is_none();
    // Lines older than this are left out of the first reading.
    let since_ms = match options.start {
        Start::Ago(ago) if first => {
            Some(store.now_ms().await?.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
        }
        _ => None,
    };
    let mut open: Option<Open> = None;
    loop {
        if open.is_none() {
            match File::open(path) {
                Ok(file) => {
                    let meta = file.metadata().map_err(|e| io_error(path, &e))?;
                    if let Some(rotated) = saved.as_ref().and_then(|saved| rotated_away(path, &meta, saved)) {
                        // Rotated while nobody looked: what was left in it comes first.
                        open = Some(rotated);
                    } else {
                        open = Some(begin(file, &meta, saved.as_ref(), first && options.start == Start::Now, path)?);
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    // A file that comes to be while we look is read whole.
                    if std::mem::take(&mut first) {
                        save(store, &bookmark, &Place::default()).await?;
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                Err(error) => return Err(io_error(path, &error)),
            }
        }
        let Some(at) = &mut open else { continue };
        let (lines, more) = read_lines(at).map_err(|e| io_error(path, &e))?;
        let items: Vec<IntakeItem> =
            lines.iter().filter_map(|line| line_item(options, line, first.then_some(since_ms).flatten())).collect();
        for batch in items.chunks(BATCH_MAX) {
            store.intake(batch, SEEN_TTL).await?;
        }
        if !lines.is_empty() {
            save(store, &bookmark, &at.stands()).await?;
        }
        if more {
            continue;
        }
        if std::mem::take(&mut first) {
            save(store, &bookmark, &at.stands()).await?;
        }
        // At the end: still the same file?
        match std::fs::metadata(path) {
            Ok(meta) if (meta.dev(), meta.ino()) != (at.place.device, at.place.inode) => {
                // Rotated away. What was added just before that is read first; a last line without its end counts as one.
                let (mut lines, more) = read_lines(at).map_err(|e| io_error(path, &e))?;
                let last = lines.is_empty() && !more;
                if last {
                    lines.push(Line { text: std::mem::take(&mut at.rest), place: at.place.clone() });
                }
                let items: Vec<IntakeItem> = lines.iter().filter_map(|line| line_item(options, line, None)).collect();
                for batch in items.chunks(BATCH_MAX) {
                    store.intake(batch, SEEN_TTL).await?;
                }
                if last {
                    // Not to be found again as the one that was rotated away.
                    let done = Place { device: 0, inode: 0, offset: 0, head_bytes: 0, ..at.place.clone() };
                    // Rotated more than once since: the next one comes first.
                    open = next_rotated(path, &at.file, &done);
                    saved = Some(done);
                }
                continue;
            }
            Ok(meta) if meta.len() < at.place.offset => {
                at.file.seek(SeekFrom::Start(0)).map_err(|e| io_error(path, &e))?;
                at.place.offset = 0;
                at.place.generation += 1;
                at.place.head_bytes = 0;
                at.line_start = 0;
                at.rest.clear();
                at.overlong = false;
                save(store, &bookmark, &at.place).await?;
                continue;
            }
            _ => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn save(store: &Store, bookmark: &str, place: &Place) -> Result<(), BridgeError> {
    let text = serde_json::to_string(place).map_err(|e| BridgeError::Io(e.to_string()))?;
    Ok(store.set_bookmark(bookmark, &text).await?)
}

impl Open {
    /// What is to be found again: where the line in hand begins, and what the file begins with.
    fn stands(&mut self) -> Place {
        let known = self.line_start.min(HEAD_BYTES);
        if known > self.place.head_bytes
            && let Some(head) = head(&self.file, known)
        {
            (self.place.head, self.place.head_bytes) = (head, known);
        }
        Place { offset: self.line_start, ..self.place.clone() }
    }
}

/// Digest of the first bytes of a file; `None` where it has fewer.
fn head(file: &File, bytes: u64) -> Option<String> {
    let mut text = vec![0; usize::try_from(bytes.min(HEAD_BYTES)).ok()?];
    file.read_exact_at(&mut text, 0).ok()?;
    Some(short_digest(&text))
}

fn short_digest(text: &[u8]) -> String {
    digest(&SHA256, text).as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Whether this is the file that reading stood in, and it still has all that was read of it.
fn is_same(file: &File, meta: &Metadata, saved: &Place) -> bool {
    (meta.dev(), meta.ino()) == (saved.device, saved.inode)
        && saved.offset <= meta.len()
        && (saved.head_bytes == 0 || head(file, saved.head_bytes).is_some_and(|head| head == saved.head))
}

fn begin(mut file: File, meta: &Metadata, saved: Option<&Place>, at_end: bool, path: &Path) -> Result<Open, BridgeError> {
    let mut place = Place { device: meta.dev(), inode: meta.ino(), ..Place::default() };
    match saved {
        Some(saved) if is_same(&file, meta, saved) => place = saved.clone(),
        Some(saved) => {
            if saved.inode != 0 {
                tracing::warn!("{} is another file than before; what was added to that one since is not known", path.display());
            }
            place.generation = saved.generation + 1;
        }
        _ if at_end => place.offset = meta.len(),
        _ => {}
    }
    file.seek(SeekFrom::Start(place.offset)).map_err(|e| io_error(path, &e))?;
    let line_start = place.offset;
    Ok(Open { file, place, rest: Vec::new(), line_start, overlong: false })
}

/// The oldest of the files that this path was after the one just read to its end, if it is not the path itself. By their
/// names only what a rotation makes: `app.log.1`, `app.log-20261123`.
fn next_rotated(path: &Path, read: &File, done: &Place) -> Option<Open> {
    let since = read.metadata().ok()?;
    let written = |meta: &Metadata| (meta.mtime(), meta.mtime_nsec());
    let name = path.file_name()?.as_encoded_bytes();
    let of_rotation =
        |rest: &[u8]| rest.iter().any(u8::is_ascii_digit) && rest.iter().all(|b| b.is_ascii_digit() || b".-_:TZ".contains(b));
    let siblings = std::fs::read_dir(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))).ok()?;
    let next = siblings
        .take(SIBLINGS_MAX)
        .flatten()
        .filter(|sibling| sibling.file_name().as_encoded_bytes().strip_prefix(name).is_some_and(of_rotation))
        .filter_map(|sibling| Some((sibling.metadata().ok()?, sibling.path())))
        .filter(|(meta, _)| meta.is_file() && written(meta) > written(&since) && meta.ino() != since.ino())
        .min_by_key(|(meta, _)| written(meta))?;
    let place = Place { device: next.0.dev(), inode: next.0.ino(), generation: done.generation + 1, ..Place::default() };
    let file = File::open(&next.1).ok()?;
    Some(Open { file, place, rest: Vec::new(), line_start: 0, overlong: false })
}

/// The file that reading stood in, under the name it was given since; `None` where the path is still that file, or it is gone.
fn rotated_away(path: &Path, now: &Metadata, saved: &Place) -> Option<Open> {
    if saved.inode == 0 {
        return None;
    }
    let path_is = (now.dev(), now.ino());
    let name = path.file_name()?;
    let siblings = std::fs::read_dir(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))).ok()?;
    for sibling in siblings.take(SIBLINGS_MAX).flatten() {
        if !sibling.file_name().as_encoded_bytes().starts_with(name.as_encoded_bytes()) {
            continue;
        }
        let Ok(meta) = sibling.metadata() else { continue };
        if (meta.dev(), meta.ino()) == (saved.device, saved.inode) && (meta.dev(), meta.ino()) != path_is {
            let file = File::open(sibling.path()).ok()?;
            if is_same(&file, &meta, saved) {
                return begin(file, &meta, Some(saved), false, path).ok();
            }
        }
    }
    None
}

struct Line {
    text: Vec<u8>,
    place: Place,
}

/// The whole lines of the next chunk; whether there may be more.
fn read_lines(open: &mut Open) -> std::io::Result<(Vec<Line>, bool)> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let n = open.file.read(&mut chunk)?;
    let mut lines = Vec::new();
    let mut chunk = &chunk[..n];
    while let Some(end) = chunk.iter().position(|b| *b == b'\n') {
        let (part, rest) = chunk.split_at(end + 1);
        chunk = rest;
        open.place.offset += part.len() as u64;
        open.line_start = open.place.offset;
        let mut text = std::mem::take(&mut open.rest);
        if !std::mem::take(&mut open.overlong) {
            // A line ends where it is read to be too long.
            text.extend_from_slice(&part[..end.min(EVENT_BYTES_MAX * 2)]);
        }
        lines.push(Line { text, place: open.place.clone() });
    }
    open.place.offset += chunk.len() as u64;
    if !open.overlong {
        open.rest.extend_from_slice(chunk);
        if open.rest.len() > EVENT_BYTES_MAX * 2 {
            open.rest.truncate(EVENT_BYTES_MAX * 2);
            open.overlong = true;
        }
    }
    Ok((lines, n == CHUNK_BYTES))
}

/// The event of a line; `None` for an empty one, and for one older than `since_ms`.
fn line_item(options: &Options, line: &Line, since_ms: Option<u64>) -> Option<IntakeItem> {
    let text = line.text.trim_ascii();
    if text.is_empty() {
        return None;
    }
    let text = match text.iter().position(|b| *b == b'{') {
        Some(start) => &text[start..],
        None => text,
    };
    if let Some(since) = since_ms
        && let Ok(value) = serde_json::from_slice::<serde_json::Value>(text)
        && let Some(own) = value.get("timestamp").and_then(|t| event::parse_ms(&plain(t), &options.timezone))
        && u64::try_from(own).unwrap_or(0) < since
    {
        return None;
    }
    let name = short_digest(text);
    let Place { device, inode, generation, offset, .. } = line.place;
    let place = format!("file:{}:{device}-{inode}-{generation}-{offset}-{name}", options.name);
    Some(item(&options.name, Some(place), text))
}

/// A JSON text or number as plain text.
fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
