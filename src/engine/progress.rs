//! The progress file: one byte for each row of a list, so that another process knows after a crash
//! which rows were on the wire.
//!
//! # Theory of operation
//!
//! A campaign's journal grants rows before the engine sends them, and learns their outcomes later.
//! If the process is killed between the two, the journal alone cannot tell whether a granted row
//! was sent. The progress file has the missing fact:
//!
//! ```text
//!     byte      the row
//!     0         was not sent: no attempt wrote a terminator that the relay may have accepted
//!     1         may have been sent: the terminator was about to be written
//!     1 + n     has an outcome, the status number n (`Status::number`)
//! ```
//!
//! The engine changes the bytes in memory, and [`ProgressFile::flush`] writes all changed bytes
//! with one call. The engine calls `flush` before it hands a terminator to the transport, so 1 is
//! in the file before the relay can have read the message. All other changes may wait for the next
//! terminator or for the delivery of the outcomes, because an old byte makes a row less certain,
//! but never wrong.
//!
//! A write reaches the kernel, and the kernel keeps it if the process is killed. It may lose it in a
//! power failure. So the header of the file names the start of the system (the boot), and a reader
//! ignores the file of an earlier one. Python writes the header and holds the lock of the file
//! (`python/rapidsmtp/campaign/progress.py`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::outcome::Status;

/// The byte of a row that no relay can have accepted.
const WAITING: u8 = 0;
/// The byte of a row that the relay may have accepted.
const BEGUN: u8 = 1;

/// A progress file that the engine writes.
#[derive(Debug)]
pub struct ProgressFile {
    file: File,
    /// The place of the byte of row 0, after the header.
    offset: u64,
    state: Mutex<ProgressState>,
}

#[derive(Debug)]
struct ProgressState {
    /// The byte of each row.
    bytes: Vec<u8>,
    /// The range of the bytes that may differ from the file; `None` if the file is up to date.
    changed: Option<Range<usize>>,
    /// Whether a write failed, so that the file was made unusable.
    is_discarded: bool,
}

/// The place of one row in its progress file.
#[derive(Debug, Clone)]
pub struct RowProgress {
    /// The file.
    pub file: Arc<ProgressFile>,
    /// The place of the row's byte among the bytes of the file.
    pub place: u32,
}

impl ProgressFile {
    /// Opens a file that contains a header of `offset` bytes, and zero for each of the `rows` rows.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn open(path: &Path, offset: u64, rows: usize) -> io::Result<Self> {
        Ok(Self {
            file: File::options().write(true).open(path)?,
            offset,
            state: Mutex::new(ProgressState {
                bytes: vec![WAITING; rows],
                changed: None,
                is_discarded: false,
            }),
        })
    }

    /// Writes the changed bytes. If the write fails, empties the file, because a row that is sent
    /// after the failure would otherwise count as not sent.
    ///
    /// # Errors
    ///
    /// If the file cannot be emptied either. The engine must then send no row of this file.
    pub fn flush(&self) -> io::Result<()> {
        let mut state = self.lock();
        let Some(changed) = state.changed.take() else {
            return Ok(());
        };
        if state.is_discarded {
            return Ok(());
        }
        let place = self.offset + changed.start as u64;
        if write_all_at(&self.file, &state.bytes[changed.clone()], place).is_err() {
            if let Err(error) = self.file.set_len(0) {
                state.changed = Some(changed);
                return Err(error);
            }
            state.is_discarded = true;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ProgressState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, place: u32, byte: u8) {
        let place = place as usize;
        let mut state = self.lock();
        let Some(current) = state.bytes.get_mut(place) else {
            return;
        };
        if std::mem::replace(current, byte) == byte {
            return;
        }
        state.changed = Some(match &state.changed {
            None => place..place + 1,
            Some(changed) => changed.start.min(place)..changed.end.max(place + 1),
        });
    }
}

impl RowProgress {
    /// Records that the terminator of the row's message is about to be written.
    pub fn set_begun(&self) {
        self.file.set(self.place, BEGUN);
    }

    /// Records that no attempt so far can have delivered the message.
    pub fn set_waiting(&self) {
        self.file.set(self.place, WAITING);
    }

    /// Records the status of the message. One byte cannot hold the different statuses of several
    /// recipients, so the number of `Partial` is that of `Unknown`.
    pub fn set_status(&self, status: Status) {
        self.file.set(self.place, BEGUN + status.number());
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], place: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, place)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut place: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_write(file, bytes, place)?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[count..];
        place += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"header\n";

    /// A file in the folder for temporary files, which is removed at the end of the test.
    struct TemporaryFile(std::path::PathBuf);

    impl TemporaryFile {
        fn new(name: &str, rows: usize) -> Self {
            let name = format!("rapidsmtp-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, [HEADER, &vec![0; rows]].concat()).unwrap();
            Self(path)
        }

        fn open(&self, rows: usize) -> Arc<ProgressFile> {
            Arc::new(ProgressFile::open(&self.0, HEADER.len() as u64, rows).unwrap())
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(&self.0).unwrap()
        }
    }

    impl Drop for TemporaryFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn row(file: &Arc<ProgressFile>, place: u32) -> RowProgress {
        RowProgress {
            file: Arc::clone(file),
            place,
        }
    }

    #[test]
    fn flush_writes_all_changed_bytes() {
        let temporary = TemporaryFile::new("flush", 6);
        let file = temporary.open(6);
        row(&file, 1).set_begun();
        row(&file, 4).set_begun();
        assert_eq!(temporary.bytes()[HEADER.len()..], [0; 6]);
        file.flush().unwrap();
        assert_eq!(temporary.bytes()[HEADER.len()..], [0, 1, 0, 0, 1, 0]);
        row(&file, 1).set_status(Status::Accepted);
        row(&file, 2).set_status(Status::Partial);
        row(&file, 4).set_waiting();
        row(&file, 6).set_begun();
        file.flush().unwrap();
        assert_eq!(temporary.bytes()[HEADER.len()..], [0, 2, 5, 0, 0, 0]);
        assert!(temporary.bytes().starts_with(HEADER));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_stops_the_rows_if_the_file_cannot_be_emptied() {
        // Every write to this device fails, and its size cannot be changed.
        let file = ProgressFile::open(Path::new("/dev/full"), 0, 2).unwrap();
        let file = Arc::new(file);
        row(&file, 0).set_begun();
        assert!(file.flush().is_err());
        assert!(file.flush().is_err());
    }
}
