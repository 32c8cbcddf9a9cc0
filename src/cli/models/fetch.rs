//! How does a model come over the network? By https from a folder on a server, each file with a limit and a digest.
//!
//! `model.sig` comes first: it says which files there are and what each must be. When a good signature is required,
//! nothing else is fetched before it is verified. Without one, `model.toml` says which files are needed. What breaks off
//! goes on where it ended, now or in the next run (`Range` with `If-Range`); a file that was changed meanwhile starts
//! anew. Proxies of the environment are not asked, redirects lead to https only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest as _, Sha256};
use ureq::http::{StatusCode, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body};

use super::place::{Place, cannot, make_folder};
use super::trusting::Trusting;
use crate::cli::failure::{Class, Failure};
use crate::fault::{Code, Fault};
use crate::model::manifest::{self, MANIFEST_TOML_BYTES_MAX};
use crate::model::signed;
use crate::trust::bundle::{BUNDLE_BYTES_MAX, SIGNATURE_FILE};
use crate::units::Digest;

/// How often a transfer that got on is taken up again.
const TRIES_MAX: u32 = 5;
const RETRY_WAIT: Duration = Duration::from_millis(300);
const REDIRECTS_MAX: u32 = 3;
const CONNECT_MAX: Duration = Duration::from_secs(20);
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Largest file with certificates, in bytes.
const CA_BYTES_MAX: u64 = 1024 * 1024;
const TAG_BYTES_MAX: usize = 200;
/// Pictures of progress a second.
const DRAWS_PER_SECOND: u8 = 5;

/// Whether the source is on a server.
pub(super) fn is_address(source: &str) -> bool {
    source.contains("://")
}

/// The failure of a model that is too large in all.
pub(super) fn too_large(bytes_max: u64) -> Failure {
    let mib = bytes_max / (1024 * 1024);
    let text = format!("all files together are larger than {mib} MiB: allow more with --max-mib if that is expected");
    Fault::new(Code::ModelTooLarge, text).into()
}

/// One address, and how it is asked.
#[derive(Debug)]
pub(super) struct Fetch {
    agent: Agent,
    /// Address of the folder, with a slash at its end.
    base: String,
    bytes_max: u64,
}

/// One file that is wanted.
struct Wanted {
    name: String,
    digest: Option<Digest>,
}

/// What one request came to.
enum Piece {
    Whole,
    /// It broke off, with so many bytes more than before.
    Broken {
        more: u64,
        why: String,
    },
    /// What is here does not continue what is there.
    Anew,
    Missing,
}

impl Fetch {
    /// Checks the address and reads the certificates.
    pub(super) fn new(
        source: &str,
        ca: Option<&Path>,
        stall: Duration,
        total: Duration,
        bytes_max: u64,
    ) -> Result<Self, Failure> {
        let (base, is_secure) = base(source)?;
        let roots = match (ca, is_secure) {
            (Some(path), _) => read_roots(path)?,
            (None, false) => Vec::new(),
            (None, true) => {
                let text = "--ca is missing: name the certificates (PEM) of those who vouch for the server; the system's \
                            are not used";
                return Err(Failure::new(Class::Usage, text));
            }
        };
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&roots))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(is_secure)
            .max_redirects(if is_secure { REDIRECTS_MAX } else { 0 })
            .proxy(None)
            .http_status_as_error(false)
            .max_response_header_size(HEADER_BYTES_MAX)
            .timeout_connect(Some(CONNECT_MAX.min(stall)))
            .timeout_recv_response(Some(stall))
            .timeout_per_read(Some(stall))
            .timeout_global(Some(total))
            .user_agent(concat!("neap/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.new_agent(), base, bytes_max })
    }

    /// Fetches a whole model into a folder beside the others.
    pub(super) fn model(&self, place: &Place, trusting: &Trusting) -> Result<PathBuf, Failure> {
        let work = place.fetch_folder(&short(&Sha256::digest(&self.base)))?;
        let (parts, files) = (work.join("parts"), work.join("files"));
        make_folder(&parts)?;
        make_folder(&files)?;
        let bundle = self.small(SIGNATURE_FILE, BUNDLE_BYTES_MAX)?;
        let wanted = self.wanted(bundle.as_deref(), trusting)?;
        // What an earlier version of it left is not of this one.
        self.forget_others(&files, &wanted)?;
        let mut left = self.bytes_max;
        let progress = Progress::begin();
        for file in &wanted {
            let bytes = self.file(file, &parts, &files, left, &progress)?;
            left = left.checked_sub(bytes).ok_or_else(|| too_large(self.bytes_max))?;
        }
        progress.end();
        if let Some(bundle) = bundle {
            let path = files.join(SIGNATURE_FILE);
            fs::write(&path, bundle).map_err(|error| cannot("write", &path, &error))?;
        }
        Ok(files)
    }

    /// Which files make the model: those of its bundle, else those that its manifest names.
    fn wanted(&self, bundle: Option<&[u8]>, trusting: &Trusting) -> Result<Vec<Wanted>, Failure> {
        if bundle.is_none() && trusting.is_required() {
            let text = format!("{}{SIGNATURE_FILE} is not there, and a good signature is required here", self.base);
            return Err(Fault::new(Code::ModelUnsigned, text).into());
        }
        let listed = bundle.map(|bundle| trusting.listed(bundle)).transpose()?.flatten();
        if let Some(statement) = listed {
            let wanted = |(name, digest)| Wanted { name, digest: Some(digest) };
            return Ok(statement.files.into_iter().map(wanted).collect());
        }
        let missing =
            || Failure::new(Class::Data, format!("{}model.toml is not there: is it a model's folder?", self.base));
        let text = self.small("model.toml", MANIFEST_TOML_BYTES_MAX)?.ok_or_else(missing)?;
        let wrong = |why: String| Failure::new(Class::Data, format!("{}model.toml: {why}", self.base));
        let text = String::from_utf8(text).map_err(|error| wrong(error.to_string()))?;
        let manifest = manifest::parse(&text).map_err(|error| wrong(error.to_string()))?;
        let plain = |name: String| Wanted { name, digest: None };
        let mut wanted = vec![
            Wanted { name: "model.toml".to_owned(), digest: Some(Digest(Sha256::digest(&text).into())) },
            Wanted { name: manifest.file, digest: Some(manifest.digest) },
        ];
        wanted.extend(manifest.labels.map(plain));
        for golden in manifest.goldens {
            for name in [golden.input, golden.output] {
                if wanted.iter().all(|file| file.name != name) {
                    wanted.push(plain(name));
                }
            }
        }
        Ok(wanted)
    }

    fn forget_others(&self, files: &Path, wanted: &[Wanted]) -> Result<(), Failure> {
        let _unsigned = fs::remove_file(files.join(SIGNATURE_FILE));
        for name in signed::list(files)? {
            if wanted.iter().all(|file| file.name != name) {
                let path = files.join(&name);
                fs::remove_file(&path).map_err(|error| cannot("remove", &path, &error))?;
            }
        }
        Ok(())
    }

    /// A small file into memory; `None` when the server has none of that name.
    fn small(&self, name: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, Failure> {
        let address = format!("{}{name}", self.base);
        let response = self.agent.get(&address).header(header::ACCEPT_ENCODING, "identity").call();
        let response = response.map_err(|error| unreachable(&address, &error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            other => return Err(answered(&address, other)),
        }
        let mut bytes = Vec::new();
        let read = response.into_body().into_reader().take(bytes_max as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| broke_off(&address, &error.to_string()))?;
        if bytes.len() > bytes_max {
            let text = format!("{address} is larger than {bytes_max} bytes, the most that it may have");
            return Err(Fault::new(Code::ModelTooLarge, text).into());
        }
        Ok(Some(bytes))
    }

    /// One file into its place, unless the right one is there already; tells how large it is.
    fn file(&self, file: &Wanted, parts: &Path, files: &Path, left: u64, progress: &Progress) -> Result<u64, Failure> {
        let to = files.join(&file.name);
        let address = format!("{}{}", self.base, escaped(&file.name));
        if file.digest.is_some() && signed::digest(&to).ok() == file.digest {
            return fs::metadata(&to).map(|facts| facts.len()).map_err(|error| cannot("read", &to, &error));
        }
        let part = Part::of(parts, &file.name);
        self.download(&address, &part, left, progress)?;
        if let Some(wanted) = file.digest {
            let found = signed::digest(&part.data).map_err(|error| cannot("read", &part.data, &error))?;
            if found != wanted {
                part.forget()?;
                let text = format!(
                    "{address} is {found}, it should be {wanted}: the server has another file; nothing was changed"
                );
                return Err(Fault::new(Code::ModelHashMismatch, text).into());
            }
        }
        if let Some(folder) = to.parent() {
            make_folder(folder)?;
        }
        fs::rename(&part.data, &to).map_err(|error| cannot("put in place", &to, &error))?;
        part.forget()?;
        fs::metadata(&to).map(|facts| facts.len()).map_err(|error| cannot("read", &to, &error))
    }

    fn download(&self, address: &str, part: &Part, left: u64, progress: &Progress) -> Result<(), Failure> {
        let mut tries = 0;
        loop {
            match self.piece(address, part, left, progress)? {
                Piece::Whole => return Ok(()),
                Piece::Missing => return Err(answered(address, StatusCode::NOT_FOUND)),
                Piece::Anew if tries < TRIES_MAX => part.forget()?,
                // Without any progress another try is for another time.
                Piece::Broken { more, .. } if more > 0 && tries < TRIES_MAX => std::thread::sleep(RETRY_WAIT),
                Piece::Broken { why, .. } => return Err(broke_off(address, &why)),
                Piece::Anew => return Err(broke_off(address, "the file changes all the time")),
            }
            tries += 1;
        }
    }

    fn piece(&self, address: &str, part: &Part, left: u64, progress: &Progress) -> Result<Piece, Failure> {
        let (have, tag) = part.have();
        let mut request = self.agent.get(address).header(header::ACCEPT_ENCODING, "identity");
        if let Some(tag) = &tag {
            request = request.header(header::RANGE, format!("bytes={have}-")).header(header::IF_RANGE, tag);
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) if have > 0 => return Ok(Piece::Broken { more: 0, why: error.to_string() }),
            Err(error) => return Err(unreachable(address, &error)),
        };
        let field = |name: header::HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
        let start = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT
                if tag.is_some()
                    && field(header::CONTENT_RANGE)
                        .is_some_and(|range| range.starts_with(&format!("bytes {have}-"))) =>
            {
                have
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if tag.is_some() => return Ok(Piece::Anew),
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(Piece::Missing),
            other => return Err(answered(address, other)),
        };
        let length = field(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if length.is_some_and(|length| length.saturating_add(start) > left) {
            part.forget()?;
            return Err(too_large(self.bytes_max));
        }
        if start == 0 {
            part.begin(field(header::ETAG))?;
        }
        progress.file(address, start, length.map(|length| length + start));
        self.receive(response.into_body(), part, start, left, progress)
    }

    fn receive(&self, body: Body, part: &Part, start: u64, left: u64, progress: &Progress) -> Result<Piece, Failure> {
        let failed = |error: io::Error| cannot("write", &part.data, &error);
        let mut file = OpenOptions::new().write(true).open(&part.data).map_err(failed)?;
        file.seek(io::SeekFrom::Start(start)).map_err(failed)?;
        let mut reader = body.into_reader();
        let (mut chunk, mut more) = (vec![0; 64 * 1024], 0);
        loop {
            let read = match reader.read(&mut chunk) {
                Ok(0) => return Ok(Piece::Whole),
                Ok(read) => read,
                Err(error) => return Ok(Piece::Broken { more, why: error.to_string() }),
            };
            more += read as u64;
            if start + more > left {
                part.forget()?;
                return Err(too_large(self.bytes_max));
            }
            file.write_all(&chunk[..read]).map_err(failed)?;
            progress.at(start + more);
        }
    }
}

/// A file on its way, and what the server called the version that it is of.
struct Part {
    data: PathBuf,
    tag: PathBuf,
}

impl Part {
    fn of(parts: &Path, name: &str) -> Self {
        let id = short(&Sha256::digest(name));
        Self { data: parts.join(format!("{id}.part")), tag: parts.join(format!("{id}.tag")) }
    }

    /// How much is here, and of what; nothing that cannot be continued.
    fn have(&self) -> (u64, Option<String>) {
        let bytes = fs::metadata(&self.data).map_or(0, |facts| facts.len());
        let tag = fs::read_to_string(&self.tag).ok().filter(|tag| bytes > 0 && is_strong(tag));
        if tag.is_some() { (bytes, tag) } else { (0, None) }
    }

    /// Begins anew. Without a strong tag it cannot be continued later.
    fn begin(&self, tag: Option<&str>) -> Result<(), Failure> {
        self.forget()?;
        if let Some(tag) = tag.filter(|tag| is_strong(tag)) {
            fs::write(&self.tag, tag).map_err(|error| cannot("write", &self.tag, &error))?;
        }
        File::create(&self.data).map(drop).map_err(|error| cannot("write", &self.data, &error))
    }

    fn forget(&self) -> Result<(), Failure> {
        for path in [&self.data, &self.tag] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot("remove", path, &error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Whether the tag stands for the very bytes.
fn is_strong(tag: &str) -> bool {
    tag.len() <= TAG_BYTES_MAX && tag.starts_with('"') && tag.len() > 2 && tag.ends_with('"')
}

/// The folder's address with a slash at its end, and whether it is https.
fn base(source: &str) -> Result<(String, bool), Failure> {
    let bad = |why: &str| Failure::new(Class::Usage, format!("{source:?}: {why}"));
    let uri: Uri = source.parse().map_err(|_| bad("is no address"))?;
    let host = uri.host().unwrap_or_default();
    let is_loopback = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    let is_secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") if is_loopback => false,
        _ => return Err(bad("must begin with https:// (http:// is accepted on this machine only)")),
    };
    if uri.query().is_some() || source.contains('#') || uri.authority().is_some_and(|host| host.as_str().contains('@'))
    {
        return Err(bad("must be the plain address of a folder, without user, ? or #"));
    }
    let folder = source.strip_suffix("model.toml").unwrap_or(source);
    Ok((if folder.ends_with('/') { folder.to_owned() } else { format!("{folder}/") }, is_secure))
}

/// A path as it stands in an address.
fn escaped(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

fn short(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn read_roots(path: &Path) -> Result<Vec<Certificate<'static>>, Failure> {
    let file = File::open(path).map_err(|error| cannot("read", path, &error))?;
    let mut pem = Vec::new();
    file.take(CA_BYTES_MAX).read_to_end(&mut pem).map_err(|error| cannot("read", path, &error))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let roots: Vec<_> = parse_pem(&pem).filter_map(certificate).collect();
    if roots.is_empty() {
        let text = format!("{}: holds no certificate in PEM form: name the CA of the server", path.display());
        return Err(Failure::new(Class::Data, text));
    }
    Ok(roots)
}

fn fetch_fault(text: String) -> Failure {
    let fault = Fault::new(Code::ModelFetch, text);
    Failure::new(Class::Unavailable, fault.to_string())
}

fn unreachable(address: &str, error: &ureq::Error) -> Failure {
    fetch_fault(format!("{address}: {error}; nothing was changed"))
}

fn answered(address: &str, status: StatusCode) -> Failure {
    fetch_fault(format!("{address}: the server answered {status}; nothing was changed"))
}

fn broke_off(address: &str, why: &str) -> Failure {
    fetch_fault(format!("{address}: {why}; what is here is kept, the same command goes on from there"))
}

/// A bar on a terminal, nothing elsewhere.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn begin() -> Self {
        Self(io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
            let style = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes} {bytes_per_sec}  {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ ");
            ProgressBar::with_draw_target(None, target).with_style(style)
        }))
    }

    fn file(&self, address: &str, start: u64, length: Option<u64>) {
        if let Some(bar) = &self.0 {
            bar.set_length(length.unwrap_or(0));
            bar.set_position(start);
            bar.set_message(crate::cli::out::clean(address.rsplit('/').next().unwrap_or_default(), 60));
        }
    }

    fn at(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(bytes);
        }
    }

    fn end(self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_and_plain_or_of_this_machine() {
        let good = |source| base(source).unwrap();
        assert_eq!(good("https://a.example/m"), ("https://a.example/m/".to_owned(), true));
        assert_eq!(good("https://a.example/m/model.toml"), ("https://a.example/m/".to_owned(), true));
        assert_eq!(good("http://127.0.0.1:8080/"), ("http://127.0.0.1:8080/".to_owned(), false));
        for bad in [
            "http://a.example/m",
            "ftp://a.example/",
            "https://u:p@a.example/",
            "https://a.example/?x",
            "https://a/#b",
            "://",
        ] {
            assert_eq!(base(bad).unwrap_err().class, Class::Usage, "{bad}");
        }
    }

    #[test]
    fn a_path_is_escaped_and_a_weak_tag_continues_nothing() {
        assert_eq!(escaped("a b/ä?.onnx"), "a%20b/%C3%A4%3F.onnx");
        assert!(is_strong("\"abc\"") && !is_strong("W/\"abc\"") && !is_strong("\"\"") && !is_strong("abc"));
    }
}
