//! The answer to what comes over a connection and is no HTTP.
//!
//! hyper answers it with a bare status, before there is a request that a layer could see, and has no hook for that.
//! `socket.rs` knows the bare answer by what it lacks and writes this one in its place: the error of the one table, with an id,
//! counted and logged like any other. (HTTP/2's opening words get no answer, and an end of the stream in the midst of a
//! head has nobody to read one.)

use crate::http::access::Peer;
use crate::http::error::ApiError;
use crate::http::observe;
use crate::http::security::HEADERS;
use crate::http::state::Service;

/// Bytes of a request's head, at most.
pub(super) const HEAD_BYTES: usize = 32 * 1024;
/// Header fields of a request, at most; hyper's default, and its parser is slower with any other.
const HEAD_FIELDS: usize = 100;

/// Whether these are an answer of hyper's own, whole: ours all have an id.
pub(super) fn is_bare(bytes: &[u8]) -> bool {
    let whole = bytes.len() < 512 && bytes.ends_with(b"\r\n\r\n");
    whole && error(bytes).is_some() && !contains(bytes, b"x-request-id:")
}

/// What takes the place of a bare answer. hyper closes the connection after it.
pub(super) fn answer(service: &Service, peer: Peer, bare: &[u8]) -> Vec<u8> {
    let Some(error) = error(bare) else { return bare.to_vec() };
    let id = observe::malformed(service, peer, &error).0;
    let body = error.text(&id);
    let bare = String::from_utf8_lossy(bare);
    let mut answer = String::new();
    let lines = bare.lines().filter(|line| !line.is_empty());
    for line in lines.filter(|line| !line.starts_with("content-length:") && !line.starts_with("connection:"))
    {
        answer += line;
        answer += "\r\n";
    }
    for (name, value) in HEADERS {
        answer += &format!("{name}: {value}\r\n");
    }
    answer += &format!(
        "connection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-request-id: {id}\r\n\r\n{body}",
        body.len()
    );
    answer.into_bytes()
}

/// What hyper means by its status.
fn error(bare: &[u8]) -> Option<ApiError> {
    match bare.strip_prefix(b"HTTP/1.1 ")?.get(..4)? {
        b"400 " => Some(ApiError::BadRequest(
            "this is no request of HTTP/1.1: its first line or one of its header fields is malformed"
                .to_owned(),
        )),
        b"414 " | b"431 " => Some(ApiError::HeadersTooLarge { fields: HEAD_FIELDS, bytes: HEAD_BYTES }),
        _ => None,
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hypers_own_answers_are_bare() {
        let bare = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert!(is_bare(bare));
        assert!(!is_bare(&bare[..bare.len() - 1]), "not whole");
        assert!(!is_bare(b"HTTP/1.1 400 Bad Request\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n"));
        assert!(!is_bare(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"));
        assert!(!is_bare(b"{\"error\": {}}\r\n\r\n"));
    }
}
