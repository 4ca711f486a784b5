//! Not written yet.
#![allow(unused_variables)]

use std::{path::Path, time::Duration};

use super::*;
use crate::event::EntryId;

#[derive(Clone)]
pub struct EmbeddedStore {}
pub struct Reader {}
pub struct Tail {}

impl EmbeddedStore {
    pub fn open(dir: &Path, options: Options) -> Result<EmbeddedStore, StoreError> {
        unimplemented!()
    }
    pub fn describe(&self) -> String {
        unimplemented!()
    }
    pub async fn prepare(&self) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        unimplemented!()
    }
    pub fn reader(&self) -> Reader {
        unimplemented!()
    }
    pub fn tail(&self) -> Tail {
        unimplemented!()
    }
    pub async fn stream_info(&self, stream: &str) -> Result<Result<Option<StreamInfo>, StreamFault>, StoreError> {
        unimplemented!()
    }
    pub async fn stream_range(&self, stream: &str, after: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, StoreError> {
        unimplemented!()
    }
    pub async fn find_streams(&self, glob: &str) -> Result<Vec<String>, StoreError> {
        unimplemented!()
    }
    pub async fn append(&self, stream: &str, entries: &[Vec<(String, String)>]) -> Result<Vec<EntryId>, StoreError> {
        unimplemented!()
    }
    pub async fn intake(&self, items: &[IntakeItem], dedup_ttl: Duration) -> Result<Vec<Taken>, StoreError> {
        unimplemented!()
    }
    pub fn intake_stream(&self) -> String {
        unimplemented!()
    }
    pub async fn lease(&self, node: &str, known_fence: u64) -> Result<Lease, StoreError> {
        unimplemented!()
    }
    pub async fn release(&self, node: &str, fence: u64) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub async fn commit(&self, commit: &Commit) -> Result<Committed, StoreError> {
        unimplemented!()
    }
    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        unimplemented!()
    }
    pub async fn log_read(&self, after: u64, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        unimplemented!()
    }
    pub async fn log_bounds(&self) -> Result<LogBounds, StoreError> {
        unimplemented!()
    }
    pub async fn log_restore(&self, fence: u64, epoch: &str, entries: &[LogEntry]) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub async fn alert(&self, alert_id: &str) -> Result<Option<LogEntry>, StoreError> {
        unimplemented!()
    }
    pub async fn firing(&self) -> Result<Vec<LogEntry>, StoreError> {
        unimplemented!()
    }
    pub async fn commits(&self, after: u64, limit: usize) -> Result<Vec<CommitRecord>, StoreError> {
        unimplemented!()
    }
    pub async fn first_commit(&self) -> Result<u64, StoreError> {
        unimplemented!()
    }
    pub async fn snapshot_put(&self, fence: u64, snapshot: &Snapshot) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, StoreError> {
        unimplemented!()
    }
    pub async fn metrics_put(&self, unix_s: u64, json: &str, ttl: Duration) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub async fn metrics_history(&self, since_s: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        unimplemented!()
    }
    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        unimplemented!()
    }
    pub async fn blacklisted(&self, jti: &str) -> Result<bool, StoreError> {
        unimplemented!()
    }
    pub async fn blacklist(&self, jti: &str, ttl: Duration) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub async fn permissions(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        unimplemented!()
    }
    pub async fn scan_keys(&self, pattern: &str, cursor: u64) -> Result<(u64, Vec<String>), StoreError> {
        unimplemented!()
    }
    pub async fn key_values(&self, keys: &[String]) -> Result<Vec<Option<String>>, StoreError> {
        unimplemented!()
    }
    pub fn reconnects(&self) -> u64 {
        unimplemented!()
    }
    pub async fn close(&self) {
        unimplemented!()
    }
}
impl Reader {
    pub async fn read(&mut self, cursors: &[(String, EntryId)], count: usize, block: Duration) -> Result<ReadReply, StoreError> {
        unimplemented!()
    }
}
impl Tail {
    pub async fn alerts(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<LogEntry>, StoreError> {
        unimplemented!()
    }
    pub async fn commits(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<CommitRecord>, StoreError> {
        unimplemented!()
    }
}
