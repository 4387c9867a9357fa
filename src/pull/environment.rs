//! The hub's own variables, as `huggingface_hub` reads them: `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and their kin.

use super::PullError;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use ureq::tls::{PemItem, RootCerts, parse_pem};

/// Where models are pulled from where no other hub is named.
const ENDPOINT: &str = "https://huggingface.co";

/// What the environment says of the hub.
pub struct Environment {
    /// `HF_HOME`, else `huggingface` in the folder of caches; `None` where there is no home at all.
    pub home: Option<PathBuf>,
    /// How the hub is reached.
    pub access: Access,
    /// Whether the network is not to be used.
    pub offline: bool,
}

/// How a hub is reached. Not for printing: it holds the token.
#[derive(Clone)]
pub struct Access {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// The token sent to the hub, and to nobody else.
    pub token: Option<String>,
    /// A PEM file of the certificates trusted, where it is not to be Mozilla's list: a company's proxy has one of its own.
    pub certificates: Option<PathBuf>,
}

impl Environment {
    /// Reads the variables that `variable` knows, and the token's file.
    ///
    /// # Errors
    /// If `HF_ENDPOINT` is no address or the token is none that can be sent.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, PullError> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| given(name).and_then(|value| value.into_string().ok());
        let yes = |name: &str| {
            let value = text(name).unwrap_or_default().to_ascii_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
        };
        let user = given("HOME").map(PathBuf::from);
        let path = |name: &str| given(name).map(|value| expand(Path::new(&value), user.as_deref()));
        let caches = || path("XDG_CACHE_HOME").or_else(|| Some(user.as_ref()?.join(".cache")));
        let home = path("HF_HOME").or_else(|| Some(caches()?.join("huggingface")));
        let token_path = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")));
        let token = if yes("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            token(text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")), token_path)?
        };
        let endpoint = endpoint(text("HF_ENDPOINT").as_deref().unwrap_or(ENDPOINT))?;
        let offline = yes("HF_HUB_OFFLINE") || yes("TRANSFORMERS_OFFLINE");
        let certificates = path("SSL_CERT_FILE").or_else(|| path("REQUESTS_CA_BUNDLE"));
        Ok(Self { home, access: Access { endpoint, token, certificates }, offline })
    }
}

impl Access {
    /// The certificates trusted.
    ///
    /// # Errors
    /// If their file cannot be read or holds none.
    pub(super) fn roots(&self) -> Result<RootCerts, PullError> {
        let Some(file) = &self.certificates else { return Ok(RootCerts::WebPki) };
        let pem = std::fs::read(file).map_err(|source| PullError::Io { path: file.clone(), source })?;
        let certificate = |item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        };
        let certificates: Vec<_> = parse_pem(&pem).filter_map(certificate).collect();
        if certificates.is_empty() {
            let problem = format!("is {}, in which there is no certificate (PEM wanted)", file.display());
            return Err(PullError::Variable { variable: "SSL_CERT_FILE (or REQUESTS_CA_BUNDLE)", problem });
        }
        Ok(certificates.into())
    }
}

fn endpoint(text: &str) -> Result<String, PullError> {
    let endpoint = text.trim_end_matches('/');
    let server = ["https://", "http://"].iter().find_map(|scheme| endpoint.strip_prefix(scheme));
    let plain = |server: &str| !server.is_empty() && !server.contains(['?', '#', '@', ' ']);
    if server.is_some_and(plain) && endpoint.parse::<ureq::http::Uri>().is_ok() {
        return Ok(endpoint.to_owned());
    }
    let problem = format!("is `{text}`, no address of a hub; wanted is one like {ENDPOINT}");
    Err(PullError::Variable { variable: "HF_ENDPOINT", problem })
}

/// The first token there is; line ends around it are an editor's.
fn token(given: Option<String>, file: Option<PathBuf>) -> Result<Option<String>, PullError> {
    let token = match (given, file) {
        (Some(token), _) => token,
        (None, Some(file)) => match std::fs::read_to_string(&file) {
            Ok(token) => token,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PullError::Io { path: file, source }),
        },
        (None, None) => return Ok(None),
    };
    let token = token.trim();
    if token.chars().any(|letter| !letter.is_ascii_graphic()) {
        let problem = "(or the file HF_TOKEN_PATH) holds spaces or letters that no token has".to_owned();
        return Err(PullError::Variable { variable: "HF_TOKEN", problem });
    }
    Ok((!token.is_empty()).then(|| token.to_owned()))
}

/// A leading `~` is the user's own folder.
fn expand(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, PullError> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Environment::read(|name| find(name).map(|(_, value)| OsString::from(value)))
    }

    #[test]
    fn the_home_is_the_hubs_own() {
        let home = |variables: &[(&str, &str)]| read(variables).expect("an environment").home;
        assert_eq!(home(&[]), None);
        assert_eq!(home(&[("HOME", "/u")]), Some("/u/.cache/huggingface".into()));
        assert_eq!(home(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/c")]), Some("/c/huggingface".into()));
        assert_eq!(home(&[("HOME", "/u"), ("HF_HOME", "~/hf")]), Some("/u/hf".into()));
        assert_eq!(home(&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/c")]), Some("/hf".into()));
    }

    #[test]
    fn the_token_is_the_variables_else_the_files() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("token"), "hf_file\n").expect("written");
        let home = folder.path().to_str().expect("a path");
        let token = |more: &[(&str, &str)]| {
            let variables = [&[("HF_HOME", home)], more].concat();
            read(&variables).expect("an environment").access.token
        };
        assert_eq!(token(&[]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_TOKEN", "hf_mine ")]).as_deref(), Some("hf_mine"));
        assert_eq!(token(&[("HF_TOKEN", "")]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_TOKEN_PATH", "/nowhere/at/all")]), None);
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let error = read(&[("HF_TOKEN", "hf a")]).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("HF_TOKEN") && !error.contains("hf a"), "{error}");
    }

    #[test]
    fn an_endpoint_is_an_address_and_offline_a_word_of_yes() {
        let endpoint =
            |text: &str| read(&[("HF_ENDPOINT", text)]).map(|environment| environment.access.endpoint);
        assert_eq!(endpoint("https://hub.co/mirror/").expect("an address"), "https://hub.co/mirror");
        assert_eq!(endpoint("").expect("the hub's own"), ENDPOINT);
        for wrong in ["hub.co", "ftp://hub.co", "https://", "https://a b", "https://user@hub.co"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
        for (value, offline) in [("1", true), ("true", true), ("YES", true), ("0", false), ("", false)] {
            let environment = read(&[("HF_HUB_OFFLINE", value)]).expect("an environment");
            assert_eq!(environment.offline, offline, "{value}");
        }
    }
}
