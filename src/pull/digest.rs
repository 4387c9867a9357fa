//! What the hub says of a file's content, and whether some content is that.
//!
//! The hub's etags are checksums: the sha256 of what it stores outside git (large files), git's own sha1 of what lies in the
//! repository. A server in between may send etags of its own; those name a version and compare nothing.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::io::{self, Read};

/// Bytes read at a time.
const CHUNK: usize = 1 << 17;

/// One version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// Without quotes and without the mark of a weak one.
    pub(super) etag: String,
    /// Bytes, where it is known.
    pub(super) size: Option<u64>,
}

/// What an etag amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sha256,
    GitBlob,
    Opaque,
}

/// Whether content is a version's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has the version's checksum.
    Same,
    /// It has another; in words.
    Different(String),
    /// It has the version's size, and there is no checksum.
    Unknown,
}

impl Version {
    fn kind(&self) -> Kind {
        let hex = self.etag.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match self.etag.len() {
            64 if hex => Kind::Sha256,
            40 if hex => Kind::GitBlob,
            _ => Kind::Opaque,
        }
    }

    /// The checksum in words, else the size.
    pub(super) fn describe(&self) -> String {
        match (self.kind(), self.size) {
            (Kind::Sha256, Some(size)) => format!("sha256 {} ({size} bytes)", self.etag),
            (Kind::Sha256, None) => format!("sha256 {}", self.etag),
            (Kind::GitBlob, Some(size)) => format!("git's sha1 {} ({size} bytes)", self.etag),
            (Kind::GitBlob, None) => format!("git's sha1 {}", self.etag),
            (Kind::Opaque, Some(size)) => format!("{size} bytes"),
            (Kind::Opaque, None) => "nothing of its size".to_owned(),
        }
    }

    /// Compares content of `length` bytes.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn judge(&self, content: impl Read, length: u64) -> io::Result<Verdict> {
        if self.size.is_some_and(|size| size != length) {
            return Ok(Verdict::Different(format!("{length} bytes")));
        }
        let (found, name) = match self.kind() {
            Kind::Opaque => return Ok(Verdict::Unknown),
            Kind::Sha256 => (digest(Sha256::new(), content)?, "sha256"),
            Kind::GitBlob => {
                // A blob's name in git: the sha1 of this header and the content.
                let header = format!("blob {length}\0");
                (digest(Sha1::new_with_prefix(header), content)?, "git's sha1")
            }
        };
        let same = found == self.etag;
        Ok(if same { Verdict::Same } else { Verdict::Different(format!("{name} {found} ({length} bytes)")) })
    }
}

/// The digest of all of `content`, in hexadecimal.
fn digest(mut state: impl Digest, mut content: impl Read) -> io::Result<String> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(state.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            Ok(count) => state.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known from `printf hello | git hash-object --stdin` and `printf hello | sha256sum`.
    const GIT: &str = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
    const SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn judge(etag: &str, size: Option<u64>, content: &[u8]) -> Verdict {
        let version = Version { etag: etag.to_owned(), size };
        version.judge(content, content.len() as u64).expect("readable")
    }

    #[test]
    fn content_is_compared_with_sha256_or_with_gits_sha1() {
        for etag in [GIT, SHA256] {
            assert_eq!(judge(etag, None, b"hello"), Verdict::Same);
            assert_eq!(judge(etag, Some(5), b"hello"), Verdict::Same);
            let Verdict::Different(found) = judge(etag, Some(5), b"hellp") else {
                unreachable!("another letter, another checksum")
            };
            assert!(found.contains("sha"), "{found}");
        }
    }

    #[test]
    fn an_etag_that_is_no_checksum_leaves_the_size() {
        assert_eq!(judge("abc-gzip", Some(5), b"hello"), Verdict::Unknown);
        assert_eq!(judge("abc-gzip", Some(6), b"hello"), Verdict::Different("5 bytes".to_owned()));
    }
}
