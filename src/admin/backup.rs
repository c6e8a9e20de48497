//! Backup of the SQLite file, streamed while the gateway serves.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::stream;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Admin;
use super::endpoint::{Answer, Input};
use super::error::{ApiError, Code};
use super::record::Change;
use crate::store::BackupMark;
use crate::telemetry::Causes;

/// Copies under way at the same time; each takes as much disk as the file until it has been sent.
static COPIES: Semaphore = Semaphore::const_new(1);

/// Bytes that are read together.
const BLOCK: usize = 1 << 18;

pub(super) async fn backup(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let Some(file) = admin.store.file() else {
        let message =
            "only `storage.backend = \"sqlite\"` has a file to back up; see conf/README.md";
        return Err(ApiError::new(Code::NotSupported, message));
    };
    let mut copy = file.as_os_str().to_owned();
    copy.push("-backup");
    let copy = PathBuf::from(copy);
    let Ok(permit) = COPIES.try_acquire() else {
        let message = "another backup is under way; try again when it has been sent";
        return Err(ApiError::new(Code::RateLimited, message).retry_after(1));
    };
    // Before the copy is begun: all that this record and those before it say is in the copy.
    let head = admin.audit.head();
    let mark = BackupMark {
        taken_at: admin.clock.now().wall,
        sequence: head.sequence,
        hash: head.hash.clone(),
    };
    let change = Change::new("storage.backup")
        .count("audit_sequence", head.sequence)
        .with("audit_hash", head.hash);
    let announced = admin.announce(&input.actor, change).await?;
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "the store was not copied");
        ApiError::new(Code::StoreUnavailable, "the store was not copied: see the log for the cause")
    };
    // What a process that was killed meanwhile has left.
    if let Err(error) = tokio::fs::remove_file(&copy).await
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(announced.refused(failed(&error)));
    }
    if let Err(error) = admin.store.back_up(copy.clone(), mark).await {
        drop(tokio::fs::remove_file(&copy).await);
        return Err(announced.refused(failed(&Causes(&error))));
    }
    let opened = File::open(&copy).await;
    // Its blocks are there until it has been sent, its name is not.
    drop(tokio::fs::remove_file(&copy).await);
    let opened = async {
        let file = opened?;
        let bytes = file.metadata().await?.len();
        Ok::<_, io::Error>((file, bytes))
    };
    let (file, bytes) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return Err(announced.refused(failed(&error))),
    };
    announced.done();
    let head =
        [(CONTENT_TYPE, "application/vnd.sqlite3".to_owned()), (CONTENT_LENGTH, bytes.to_string())];
    let response = (head, Body::from_stream(blocks(file, permit))).into_response();
    Ok(Answer::Whole(Box::new(response)))
}

/// The blocks of a file; the permit is held until the last was taken.
fn blocks(
    file: File,
    permit: SemaphorePermit<'static>,
) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((file, permit), async |(mut file, permit)| {
        let mut block = vec![0; BLOCK];
        let read = file.read(&mut block).await?;
        block.truncate(read);
        Ok((read > 0).then(|| (Bytes::from(block), (file, permit))))
    })
}
