//! The progress files of the messages that the pool's connections send.

use std::sync::Arc;

use super::{ConnectionFailure, FailureKind, Pool};
use crate::engine::progress::ProgressFile;

impl Pool {
    /// Adds the progress file of a message that a connection starts.
    pub(in crate::engine) fn add_progress_file(&self, file: &Arc<ProgressFile>) {
        let mut files = self.progress_files.borrow_mut();
        if !files.iter().any(|each| Arc::ptr_eq(each, file)) {
            files.push(Arc::clone(file));
        }
    }

    /// Writes the changes of all progress files. If a file can be neither written nor emptied, the
    /// engine stops, and the result is the reason. The caller must then write no terminator.
    pub(in crate::engine) fn flush_progress(&self) -> Result<(), String> {
        let mut files = self.progress_files.borrow_mut();
        let failed = files.iter().find_map(|file| file.flush().err());
        // A file whose messages are all finished has no other owner in the engine.
        files.retain(|file| Arc::strong_count(file) > 1);
        drop(files);
        let Some(error) = failed else {
            return Ok(());
        };
        let text = format!("writing the progress file failed: {error}; check its disk");
        let failure = ConnectionFailure::without_reply(text.clone(), FailureKind::Permanent);
        self.stop(&failure);
        Err(text)
    }
}
