//! A URL that may be asked for: what a client wrote, or a redirect said.
//!
//! Both go through [`Target::parse`], so that a redirect leads nowhere a client could not have asked for. Only the text is
//! judged here; the addresses behind a name are `addresses.rs`' business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::http::Uri;

/// The longest URL that is taken.
const LONGEST: usize = 8192;

/// A URL that passed.
#[derive(Debug, Clone)]
pub(super) struct Target {
    uri: Uri,
    host: Host,
    port: u16,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// An address, as written.
    Address(IpAddr),
    /// A name to look up, in lower case.
    Name(String),
}

/// Why a URL is not asked for. The text is for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("`url` is longer than {LONGEST} characters")]
    TooLong,
    #[error("`url` is no http or https URL in ASCII characters")]
    Malformed,
    #[error("`url` begins with `{0}:`; http and https are served")]
    Scheme(String),
    #[error("`url` holds a user name or a password; photos are fetched without any")]
    Credentials,
    #[error("`url` names a port below 1024 that is neither 80 nor 443")]
    Port,
    #[error("an address in `url` must be written as four decimal numbers or as IPv6 in brackets")]
    Spelling,
    /// The same words for an address inside, a name that leads there, and a name that leads nowhere.
    #[error("`url` leads to no address on the public internet; from others no photo is fetched")]
    Address,
}

impl Target {
    /// Judges a whole URL.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        if text.len() > LONGEST {
            return Err(Refusal::TooLong);
        }
        let uri: Uri = text.parse().map_err(|_| Refusal::Malformed)?;
        let standard = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            Some(other) => return Err(Refusal::Scheme(other.chars().take(20).collect())),
            None => return Err(Refusal::Malformed),
        };
        let authority = uri.authority().ok_or(Refusal::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(Refusal::Credentials);
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("" | ":") => standard,
            Some(_) => authority.port_u16().ok_or(Refusal::Malformed)?,
            None => return Err(Refusal::Malformed),
        };
        if port < 1024 && port != 80 && port != 443 {
            return Err(Refusal::Port);
        }
        let host = Host::parse(authority.host())?;
        Ok(Self { uri, host, port })
    }

    /// The URL that `location` means in an answer from here.
    pub(super) fn redirect(&self, location: &str) -> Result<Self, Refusal> {
        let location = location.trim();
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let path = self.uri.path();
        let has_scheme = location.split(['/', '?', '#']).next().is_some_and(|head| head.contains(':'));
        let whole = if has_scheme {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else if location.starts_with('?') {
            format!("{scheme}://{authority}{path}{location}")
        } else {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        };
        Self::parse(&whole)
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// As written, for the log.
    pub(super) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    /// Who is asked, and at which port.
    pub(super) fn server(&self) -> (&Host, u16) {
        (&self.host, self.port)
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, Refusal> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(Refusal::Malformed)?;
            let address: Ipv6Addr = inner.parse().map_err(|_| Refusal::Spelling)?;
            return Ok(Self::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        // What a look-up would read as an address in another spelling: 0x7f.1, 017700000001, 2130706433.
        let last = name.rsplit('.').next().unwrap_or_default();
        let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if number(last) || hexadecimal.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return Err(if last.is_empty() { Refusal::Malformed } else { Refusal::Spelling });
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(Refusal::Malformed);
        }
        // A name of one part means something inside only.
        if !name.contains('.') {
            return Err(Refusal::Address);
        }
        Ok(Self::Name(name.to_ascii_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Refusal {
        match Target::parse(text) {
            Ok(target) => panic!("{text} was taken as {target:?}"),
            Err(refusal) => refusal,
        }
    }

    #[test]
    fn a_plain_url_is_taken_with_its_port() {
        for (text, host, port) in [
            ("http://Photos.Example.com/a.jpg?x=1#y", "photos.example.com", 80),
            (" https://photos.example.com ", "photos.example.com", 443),
            ("HTTPS://photos.example.com./a", "photos.example.com", 443),
            ("http://photos.example.com:8080/", "photos.example.com", 8080),
            ("http://photos.example.com:/", "photos.example.com", 80),
        ] {
            let target = Target::parse(text).expect(text);
            assert_eq!(target.server(), (&Host::Name(host.to_owned()), port), "{text}");
        }
        let target = Target::parse("http://[2606:4700::1]:8443/a").expect("an address");
        assert_eq!(target.server(), (&Host::Address("2606:4700::1".parse().expect("one")), 8443));
    }

    #[test]
    fn other_schemes_are_refused_by_name() {
        for (text, scheme) in [
            ("ftp://photos.example.com/a", "ftp"),
            ("gopher://photos.example.com/a", "gopher"),
            ("ws://photos.example.com/a", "ws"),
        ] {
            assert_eq!(refusal(text), Refusal::Scheme(scheme.to_owned()));
        }
        for text in [
            "file:///etc/passwd",
            "data:image/png;base64,AAAA",
            "javascript:alert(1)",
            "photos.example.com",
            "/a.jpg",
            "",
            "http://",
            "http:///a",
            "//photos.example.com/a",
            "http://photos.example.com\r\nx: y/",
            "http://a b.example.com/",
            "http://bücher.example/",
            "http://photos..example.com/",
            "http://photos.example.com:99999/",
            "http://photos.example.com:x/",
            "http://ph%6ftos.example.com/",
            "http://[::1",
            "http://a,b.example.com/",
        ] {
            let refusal = refusal(text);
            assert!(matches!(refusal, Refusal::Malformed | Refusal::Scheme(_)), "{text}: {refusal}");
        }
        assert_eq!(refusal(&format!("http://example.com/{}", "x".repeat(LONGEST))), Refusal::TooLong);
    }

    #[test]
    fn credentials_and_ports_of_other_services_are_refused() {
        for text in [
            "http://user@example.com/",
            "http://user:pw@example.com/",
            "http://example.com@127.0.0.1/",
            "http://@example.com/",
        ] {
            assert!(matches!(refusal(text), Refusal::Credentials | Refusal::Malformed), "{text}");
        }
        for port in [1, 22, 25, 110, 139, 445, 993] {
            assert_eq!(refusal(&format!("http://example.com:{port}/")), Refusal::Port);
        }
        assert_eq!(refusal("http://example.com:0/"), Refusal::Port);
    }

    #[test]
    fn an_address_in_an_odd_spelling_is_no_name() {
        for host in [
            "2130706433",
            "0x7f000001",
            "0X7F000001",
            "017700000001",
            "127.1",
            "127.0.1",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "127.0.0.0x1",
            "127.0.0.01",
            "1.2.3.4.5",
            "256.1.1.1",
            "0",
            "example.1",
            "a.0x",
            "127.0.0.1..",
        ] {
            let refusal = refusal(&format!("http://{host}/"));
            assert!(matches!(refusal, Refusal::Spelling | Refusal::Malformed), "{host}: {refusal}");
        }
        for (host, address) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("[::1]", "::1"),
            ("[::ffff:7f00:1]", "::ffff:127.0.0.1"),
        ] {
            let target = Target::parse(&format!("http://{host}/")).expect(host);
            assert_eq!(target.server().0, &Host::Address(address.parse().expect("one")), "{host}");
        }
        for host in ["[::1%25eth0]", "[fe80::1%eth0]", "[127.0.0.1]", "[]"] {
            let refusal = refusal(&format!("http://{host}/"));
            assert!(matches!(refusal, Refusal::Spelling | Refusal::Malformed), "{host}: {refusal}");
        }
        assert_eq!(refusal("http://localhost/"), Refusal::Address);
        assert_eq!(refusal("http://kubernetes:8080/"), Refusal::Address);
    }

    #[test]
    fn a_redirect_is_judged_like_a_url() {
        let here = Target::parse("https://a.example.com:8443/x/y.jpg?z=1").expect("a URL");
        for (location, want) in [
            ("https://b.example.com/p", "https://b.example.com/p"),
            ("//b.example.com/p", "https://b.example.com/p"),
            ("/p?q=https://c.example.com/", "https://a.example.com:8443/p?q=https://c.example.com/"),
            ("p.jpg", "https://a.example.com:8443/x/p.jpg"),
            ("?p=1", "https://a.example.com:8443/x/y.jpg?p=1"),
        ] {
            assert_eq!(here.redirect(location).expect(location).uri().to_string(), want);
        }
        assert_eq!(here.redirect("http://user:pw@b.example.com/").expect_err("one"), Refusal::Credentials);
        assert!(here.redirect("file:///etc/passwd").is_err());
        assert!(here.redirect("javascript:alert(1)").is_err());
        assert_eq!(here.redirect("http://0x7f.1/").expect_err("one"), Refusal::Spelling);
    }
}
