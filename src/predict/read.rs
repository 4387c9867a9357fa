//! A photo's file → its bytes, within the memory that all photos in flight share.

use crate::engine::Held;
use crate::image::MemoryBudget;
use bytes::Bytes;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Bytes of photo files that wait for a decoder or a server, all together.
pub(super) const FILES_IN_MEMORY: u64 = 512 << 20;

/// Reads a file; blocks while the budget is in use. The bytes hold their share of it as long as they live.
///
/// # Errors
/// A text fit for the row: the file is missing, cannot be read, is none, or is larger than the budget.
pub(super) fn read(path: &Path, budget: &Arc<MemoryBudget>) -> Result<Bytes, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    // Asked before opening: opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(cannot)?;
    if !metadata.is_file() {
        return Err("cannot be read: not a file".to_owned());
    }
    let length = metadata.len();
    let reservation = budget
        .reserve(length)
        .map_err(|_| format!("the file has {length} bytes, at most {} are read", budget.capacity()))?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    // No more than promised, even if the file grows meanwhile.
    File::open(path).and_then(|file| file.take(length).read_to_end(&mut bytes)).map_err(cannot)?;
    Ok(Bytes::from_owner(Held::new(bytes, reservation)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_says_why_and_what_was_read_holds_its_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let budget = Arc::new(MemoryBudget::new(10));
        let error = |path: &Path| read(path, &budget).expect_err("not read");
        assert!(error(&folder.path().join("none.jpg")).contains("No such file"));
        assert!(error(folder.path()).contains("not a file"));
        std::fs::write(folder.path().join("large"), [0; 11]).expect("a file");
        assert!(error(&folder.path().join("large")).contains("11 bytes, at most 10"));
        std::fs::write(folder.path().join("small"), [7; 8]).expect("a file");
        let bytes = read(&folder.path().join("small"), &budget).expect("bytes");
        assert_eq!((&bytes[..], budget.reserved()), (&[7; 8][..], 8));
        drop(bytes);
        assert_eq!(budget.reserved(), 0);
    }
}
