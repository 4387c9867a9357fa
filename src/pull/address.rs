//! Addresses of the web: what a redirect means, and whether two lead to the same server.
//!
//! `hub` decides by these who gets to see the token.

use ureq::http::Uri;

/// The address that `location` means in an answer from `base`.
pub(super) fn join(base: &str, location: &str) -> Option<String> {
    if origin(location).is_some() {
        return Some(location.to_owned());
    }
    let (scheme, rest) = base.split_once("://")?;
    let server = rest.split(['/', '?', '#']).next()?;
    match location.strip_prefix('/') {
        Some(other) if other.starts_with('/') => Some(format!("{scheme}:{location}")),
        Some(_) => Some(format!("{scheme}://{server}{location}")),
        None => {
            let path = rest.split(['?', '#']).next()?;
            let folder = path.rsplit_once('/').map_or(server, |(folder, _)| folder);
            Some(format!("{scheme}://{folder}/{location}"))
        }
    }
}

/// Scheme, host and port.
pub(super) fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let standard = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let port = uri.port_u16().unwrap_or(standard);
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// Whether two addresses have one scheme, host and port; never for what is no address.
pub(super) fn same_origin(left: &str, right: &str) -> bool {
    let left = origin(left);
    left.is_some() && left == origin(right)
}

/// The server of an address: the rest of a signed one is a secret and no help to a reader.
pub(super) fn host(url: &str) -> String {
    origin(url).map_or_else(|| url.to_owned(), |(_, host, port)| format!("{host}:{port}"))
}

/// An address for a message: what follows the path may be a signature, which is a secret.
pub(super) fn without_query(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or(url).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_taken_from_where_it_was_said() {
        let base = "https://hub.co/a/b/resolve/main/c?x=/y";
        for (location, want) in [
            ("https://cdn.co/z?w=1", "https://cdn.co/z?w=1"),
            ("//cdn.co/z", "https://cdn.co/z"),
            ("/api/c?etag=%22x%22", "https://hub.co/api/c?etag=%22x%22"),
            ("d", "https://hub.co/a/b/resolve/main/d"),
        ] {
            assert_eq!(join(base, location).as_deref(), Some(want));
        }
    }

    #[test]
    fn a_server_is_the_same_only_with_its_scheme_and_port() {
        assert!(same_origin("https://hub.co/x", "https://HUB.co:443"));
        for other in
            ["http://hub.co", "https://hub.co:8443", "https://cdn.hub.co", "https://hub.co.evil.com", "x"]
        {
            assert!(!same_origin(other, "https://hub.co"), "{other}");
        }
    }

    #[test]
    fn a_message_shows_no_signature() {
        assert_eq!(without_query("https://cdn.co/a/b?X-Amz-Signature=1&x=2#y"), "https://cdn.co/a/b");
        assert_eq!(without_query("https://hub.co/a"), "https://hub.co/a");
    }
}
