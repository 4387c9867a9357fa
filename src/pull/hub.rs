//! One request to the hub: `{endpoint}/{repository}/resolve/{revision}/{file}`, its redirects, and what the answer means.
//!
//! Redirects are followed here and not by the HTTP client, for two reasons: what the hub says of a file (commit, checksum,
//! size) stands in the answer that redirects, and the token must reach no other server than the hub itself. Large files come from
//! such other servers. Nothing is tried twice here.

use super::address::{host, join, origin, same_origin, without_query};
use super::digest::Version;
use super::names::percent_encoded;
use super::{Access, PullError, Repository};
use std::io::Read;
use std::time::Duration;
use ureq::Agent;
use ureq::http::{HeaderMap, StatusCode};
use ureq::tls::TlsConfig;

const CONNECT: Duration = Duration::from_secs(10);
/// The head of an answer, and each piece of its body, must come within this.
const SILENCE: Duration = Duration::from_secs(30);
/// A renamed repository, the hub's own cache, one or two servers of contents: more is a loop.
const MAX_REDIRECTS: usize = 8;

/// A repository on a hub.
pub(super) struct Hub {
    agent: Agent,
    /// Without a slash at its end.
    endpoint: String,
    authorization: Option<String>,
    repository: Repository,
}

/// A file as the hub describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    /// The commit behind the revision asked for.
    pub(super) commit: String,
    pub(super) version: Version,
}

/// A file's bytes on their way.
pub(super) struct Delivery {
    /// What the hub says of them on this occasion.
    pub(super) description: Description,
    pub(super) body: Body,
}

/// Which bytes.
pub(super) enum Body {
    /// All of them, whatever was asked for.
    Whole(Box<dyn Read>),
    /// Those from this offset on.
    From(u64, Box<dyn Read>),
    /// None: the file ends at or before the offset asked for.
    Beyond,
}

/// Why there is no answer.
pub(super) enum Failure {
    /// It may work when it is tried again.
    Passing {
        reason: String,
        /// The server's own word for when.
        retry_after: Option<Duration>,
    },
    /// It will not.
    Final(PullError),
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        Self::Final(error)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Head,
    Get,
}

#[derive(Clone, Copy)]
struct Question<'a> {
    method: Method,
    revision: &'a str,
    file: &'a str,
    /// The first byte wanted.
    offset: u64,
}

/// The last answer of a chain of redirects, with what the chain said of the file.
struct Answer {
    response: ureq::http::Response<ureq::Body>,
    url: String,
    description: Option<Description>,
}

impl Hub {
    /// A repository on the hub that `access` leads to. Nothing is sent yet.
    ///
    /// # Errors
    /// If the certificates cannot be read.
    pub(super) fn new(access: &Access, repository: Repository) -> Result<Self, PullError> {
        let config = Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(access.roots()?).build())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            // A compressed body has another length, and no middle to go on from.
            .accept_encoding("identity")
            .user_agent(concat!("featherlight/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            endpoint: access.endpoint.clone(),
            authorization: access.token.as_ref().map(|token| format!("Bearer {token}")),
            repository,
        })
    }

    pub(super) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// What the repository has under a file's name; `None`: no such file.
    pub(super) fn look(&self, revision: &str, file: &str) -> Result<Option<Description>, Failure> {
        let answer = self.follow(Question { method: Method::Head, revision, file, offset: 0 })?;
        if answer.response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        match answer.description {
            Some(description) => Ok(Some(description)),
            None => Err(no_hub(answer.url).into()),
        }
    }

    /// A file's bytes from `offset` on.
    pub(super) fn open(&self, revision: &str, file: &str, offset: u64) -> Result<Delivery, Failure> {
        let question = Question { method: Method::Get, revision, file, offset };
        let Answer { response, url, description } = self.follow(question)?;
        let passing = |reason| Failure::Passing { reason, retry_after: None };
        let start = range_start(response.headers());
        let status = response.status();
        let reader = Box::new(response.into_body().into_reader());
        let body = match status {
            StatusCode::OK => Body::Whole(reader),
            StatusCode::PARTIAL_CONTENT => match start {
                Some(start) => Body::From(start, reader),
                None => return Err(passing(format!("{} sends a part without saying which", host(&url)))),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => Body::Beyond,
            other => return Err(passing(format!("{} answers {other}", host(&url)))),
        };
        let description = description.ok_or_else(|| no_hub(url))?;
        Ok(Delivery { description, body })
    }

    /// Asks, and asks on where the answer points, up to an answer that is none of: redirect, refusal, server's trouble. A question
    /// for the description alone ends where the hub points to another server, which knows nothing of it.
    fn follow(&self, question: Question<'_>) -> Result<Answer, Failure> {
        let revision = percent_encoded(question.revision);
        let mut url = format!("{}/{}/resolve/{revision}/{}", self.endpoint, self.repository, question.file);
        let (mut commit, mut version) = (None, None);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(question, &url)?;
            let (status, headers) = (response.status(), response.headers());
            let target = redirect(status, headers, &url)?;
            commit = commit.or_else(|| commit_of(headers));
            // A redirect within the hub may have an etag of its own; the file's is further on.
            let within = target.as_deref().is_some_and(|target| same_origin(target, &url));
            version = version.or_else(|| version_of(headers, !within, target.is_none()));
            let description = match (&commit, &version) {
                (Some(commit), Some(version)) => {
                    Some(Description { commit: commit.clone(), version: version.clone() })
                }
                _ => None,
            };
            match target {
                Some(_) if question.method == Method::Head && !within && description.is_some() => {
                    return Ok(Answer { response, url, description });
                }
                Some(target) => url = target,
                None => {
                    self.judge(question, status, headers, &url)?;
                    return Ok(Answer { response, url, description });
                }
            }
        }
        Err(PullError::Server {
            url: without_query(&url),
            problem: "is where a loop of redirects leads".to_owned(),
        }
        .into())
    }

    fn send(&self, question: Question<'_>, url: &str) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let mut request = match question.method {
            Method::Head => self.agent.head(url),
            Method::Get => self.agent.get(url),
        };
        if let Some(authorization) = self.authorization.as_ref().filter(|_| same_origin(url, &self.endpoint))
        {
            request = request.header("authorization", authorization);
        }
        if question.offset > 0 {
            request = request.header("range", format!("bytes={}-", question.offset));
        }
        request.call().map_err(|error| unanswered(&error, url))
    }

    /// Sorts the statuses that end a chain.
    fn judge(
        &self,
        question: Question<'_>,
        status: StatusCode,
        headers: &HeaderMap,
        url: &str,
    ) -> Result<(), Failure> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let retry_after = text("retry-after").and_then(|text| text.trim().parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let passing = || {
            let reason = format!("{} answers {status}", host(url));
            Err(Failure::Passing { reason, retry_after })
        };
        // Elsewhere a refusal means a signed address that has run out: the hub signs a new one.
        let home = same_origin(url, &self.endpoint);
        match (status.as_u16(), text("x-error-code")) {
            (200 | 206, _) => Ok(()),
            (416, _) if question.offset > 0 => Ok(()),
            (408 | 425 | 429 | 500..=599, _) => passing(),
            (_, Some("RevisionNotFound")) => {
                let (repository, revision) = (self.repository.to_string(), question.revision.to_owned());
                Err(PullError::Revision { repository, revision }.into())
            }
            (401 | 403, code) if home => Err(self.no_access(code == Some("GatedRepo")).into()),
            (404, Some("RepoNotFound")) => Err(self.no_access(false).into()),
            (404, _) if home => Ok(()),
            _ if !home => passing(),
            _ => {
                let problem = format!("answers {status}");
                Err(PullError::Server { url: without_query(url), problem }.into())
            }
        }
    }

    fn no_access(&self, gated: bool) -> PullError {
        let page = format!("{}/{}", self.endpoint, self.repository);
        let problem = match (gated, self.authorization.is_some()) {
            (true, false) => {
                format!("is gated: accept its terms at {page}, and set HF_TOKEN to a token of that account")
            }
            (true, true) => {
                format!("is gated, and not open to the account of this HF_TOKEN: accept its terms at {page}")
            }
            (false, false) => format!(
                "{page} is shown to nobody without a token: either there is no such model (check the name), or it is private or \
                 gated; then set HF_TOKEN to a token that may read it"
            ),
            (false, true) => format!(
                "{page} is not shown to this token: either there is no such model (check the name), or the token is wrong or may \
                 not read it (HF_TOKEN, else the file HF_TOKEN_PATH)"
            ),
        };
        PullError::Repository { repository: self.repository.to_string(), problem }
    }
}

fn no_hub(url: String) -> PullError {
    let problem = "answers without commit and etag, so that this is no hub; is there a proxy or a login page in between, or is \
                   HF_ENDPOINT wrong?";
    PullError::Server { url: without_query(&url), problem: problem.to_owned() }
}

fn commit_of(headers: &HeaderMap) -> Option<String> {
    let commit = headers.get("x-repo-commit")?.to_str().ok()?.trim();
    // It becomes part of addresses.
    (commit.len() >= 7 && commit.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| commit.to_owned())
}

/// What headers say of a file. `own`: a plain etag is the file's; `last`: so is the length of the body.
fn version_of(headers: &HeaderMap, own: bool, last: bool) -> Option<Version> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |name| text(name).and_then(|text| text.parse().ok());
    // A server of contents alone has etags that are no checksums of ours.
    let plain = text("etag").filter(|_| own && headers.contains_key("x-repo-commit"));
    let etag = text("x-linked-etag").or(plain)?;
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    // Of a part only the whole's length counts, and a compressed body's length is another.
    let total = text("content-range").and_then(|range| range.rsplit('/').next()?.parse().ok());
    let length = number("content-length").filter(|_| {
        last && !headers.contains_key("content-range") && !headers.contains_key("content-encoding")
    });
    let size = number("x-linked-size").or(total).or(length);
    (!etag.is_empty()).then(|| Version { etag: etag.to_owned(), size })
}

/// The first byte of `Content-Range: bytes FIRST-LAST/TOTAL`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get("content-range")?.to_str().ok()?.trim();
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Where an answer points, if it is a redirect.
fn redirect(status: StatusCode, headers: &HeaderMap, from: &str) -> Result<Option<String>, Failure> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = headers.get("location").and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| join(from, location)).filter(|target| origin(target).is_some());
    let wrong = |problem: &str| PullError::Server { url: without_query(from), problem: problem.to_owned() };
    let target = target.ok_or_else(|| wrong("redirects to no address"))?;
    if from.starts_with("https:") && !target.starts_with("https:") {
        return Err(wrong("redirects to an address without encryption").into());
    }
    Ok(Some(target))
}

fn unanswered(error: &ureq::Error, url: &str) -> Failure {
    use ureq::Error::{ConnectionFailed, HostNotFound, Io, Protocol, Timeout};
    let reason = format!("{}: {error}", host(url));
    match error {
        // What rustls makes of a certificate that it does not trust.
        Io(inner) if inner.kind() == std::io::ErrorKind::InvalidData => PullError::Server {
            url: host(url),
            problem: format!(
                "{inner}; where a proxy has a certificate of its own, SSL_CERT_FILE names the file of those to trust"
            ),
        }
        .into(),
        Io(_) | Timeout(_) | ConnectionFailed | Protocol(_) | HostNotFound => {
            Failure::Passing { reason, retry_after: None }
        }
        _ => PullError::Server { url: host(url), problem: error.to_string() }.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::{HeaderName, HeaderValue};

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        lines.iter().map(header).collect()
    }

    #[test]
    fn encryption_is_not_left_by_a_redirect() {
        let answer = headers(&[("location", "http://cdn.co/x")]);
        assert!(redirect(StatusCode::FOUND, &answer, "https://hub.co/x").is_err());
        assert!(matches!(redirect(StatusCode::FOUND, &answer, "http://hub.co/x"), Ok(Some(_))));
        assert!(redirect(StatusCode::FOUND, &headers(&[]), "https://hub.co/x").is_err());
    }

    #[test]
    fn the_linked_etag_and_size_describe_a_file_before_the_answers_own() {
        let commit = ("x-repo-commit", "0123456789012345678901234567890123456789");
        let answer = headers(&[
            commit,
            ("etag", "W/\"redirect\""),
            ("content-length", "50"),
            ("x-linked-etag", "\"abc\""),
            ("x-linked-size", "7"),
        ]);
        let version = version_of(&answer, true, true).expect("a version");
        assert_eq!(version, Version { etag: "abc".to_owned(), size: Some(7) });
        let answer = headers(&[commit, ("etag", "W/\"abc\""), ("content-length", "7")]);
        assert_eq!(version_of(&answer, true, true).map(|version| version.size), Some(Some(7)));
        assert_eq!(version_of(&answer, false, false), None, "a redirect's own etag");
        assert_eq!(version_of(&headers(&[("etag", "\"abc\"")]), true, true), None, "another server's etag");
    }

    #[test]
    fn of_a_part_the_size_is_the_wholes() {
        let answer = headers(&[
            ("x-repo-commit", "0123456"),
            ("etag", "\"abc\""),
            ("content-length", "3"),
            ("content-range", "bytes 4-6/7"),
        ]);
        assert_eq!(version_of(&answer, true, true).and_then(|version| version.size), Some(7));
        assert_eq!(range_start(&answer), Some(4));
    }
}
