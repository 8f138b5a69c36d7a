//! Getting a page for somebody who may have been talked into asking for it.
//!
//! Redirects are followed here and not by `ureq`, so that each address on the way is asked about. No connection is kept,
//! no cookie, no secret; no proxy of the environment is used.

use std::io::Read as _;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::transport::Connector as _;

use super::address::Reach;
use super::socket::{self, Dial, NoResolver, Tls, Trouble};
use crate::runtime::stop::Stop;

/// Longest address, in bytes.
pub const URL_BYTES_MAX: usize = 2048;
/// Most redirects that are followed, whatever is asked for.
pub const REDIRECTS_MAX: u32 = 10;
/// Size of a connection's buffers, in bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// `http` or `https`, a host, and a path; no user, no password.
    pub url: &'a str,
    /// Sent to the first host, and to another only where a redirect stays with it.
    pub headers: &'a [(&'a str, &'a str)],
    /// Headers of the answer that are wanted, in lower case.
    pub wants: &'a [&'a str],
    /// JSON to be posted; `None`: it is fetched.
    pub body: Option<&'a [u8]>,
    /// How long it may take in all.
    pub time_max: Duration,
    /// Bytes of the body that are read; the rest is left.
    pub bytes_max: usize,
    /// Redirects that are followed, at most [`REDIRECTS_MAX`].
    pub redirects_max: u32,
    /// Ends it.
    pub stop: &'a Stop,
}

/// An address on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Whole.
    pub url: String,
    /// In lower case, without brackets.
    pub host: String,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Not a redirect that could be followed.
    pub status: u16,
    /// The last address.
    pub url: String,
    /// As the server calls it.
    pub content_type: Option<String>,
    /// Those that were wanted and are there.
    pub headers: Vec<(String, String)>,
    /// At most as much as was asked for.
    pub body: Vec<u8>,
    /// Whether there was more of it.
    pub is_cut: bool,
}

/// Why nothing came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It is no address that can be fetched.
    #[error("{0}")]
    Url(&'static str),
    /// It, or one it leads to, may not be reached.
    #[error("{url} may not be fetched: {why}")]
    Refused {
        /// Which.
        url: String,
        /// Why not.
        why: String,
    },
    /// One redirect after the other.
    #[error("{0} redirects and no page")]
    Redirects(u32),
    /// It took too long.
    #[error("it took longer than {} seconds", .0.as_secs())]
    Late(Duration),
    /// Its run was stopped.
    #[error("the run was stopped")]
    Stopped,
    /// It cannot be connected to, or what it says is no HTTP.
    #[error("{0}")]
    Failed(String),
}

/// One for the whole program: it holds nothing but its configuration.
static AGENT: LazyLock<ureq::Agent> = LazyLock::new(|| {
    let config = ureq::Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(RootCerts::WebPki).build())
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .input_buffer_size(BUFFER_BYTES)
        .output_buffer_size(BUFFER_BYTES)
        .max_idle_connections(0)
        .max_idle_connections_per_host(0)
        .build();
    ureq::Agent::with_parts(config, Dial.chain(Tls::default()), NoResolver)
});

/// Gets it. `may` is asked at every hop, before it is connected to, and says how far that one may go.
///
/// # Errors
/// Why nothing came.
pub fn fetch(request: &Request<'_>, may: &dyn Fn(&Hop) -> Result<Reach, String>) -> Result<Response, FetchError> {
    let deadline = Instant::now() + request.time_max;
    let mut at = read_url(request.url)?;
    let first = authority(&at);
    let (mut body, mut n_redirects) = (request.body, 0);
    loop {
        let hop = Hop { url: at.to_string(), host: host_of(&at) };
        let reach = may(&hop).map_err(|why| FetchError::Refused { url: hop.url.clone(), why })?;
        let headers = if authority(&at) == first { request.headers } else { &[] };
        let left = deadline.saturating_duration_since(Instant::now());
        let (sent, waited) = socket::waiting(request.stop, reach, left, deadline, || {
            send(&at, headers, request.wants, body, request.bytes_max)
        });
        let answer = match (sent, waited.trouble) {
            (_, Some(Trouble::Stopped)) => return Err(FetchError::Stopped),
            (_, Some(Trouble::Forbidden)) => {
                let why = "it is an address of this machine or its network".to_owned();
                return Err(FetchError::Refused { url: hop.url, why });
            }
            (Ok(answer), _) => answer,
            (Err(_), Some(Trouble::Silent(_) | Trouble::TooLong)) => return Err(FetchError::Late(request.time_max)),
            (Err(_), Some(Trouble::Unreachable(why))) => {
                return Err(FetchError::Failed(format!("{} cannot be reached: {why}", hop.host)));
            }
            (Err(why), None) => return Err(FetchError::Failed(why)),
        };
        let Some(location) = answer.location else {
            let Answer { status, content_type, headers, body, is_cut, .. } = answer;
            return Ok(Response { status, url: hop.url, content_type, headers, body, is_cut });
        };
        if n_redirects == request.redirects_max.min(REDIRECTS_MAX) {
            return Err(FetchError::Redirects(n_redirects));
        }
        n_redirects += 1;
        // Only these ask for the same again; after the others a page is fetched.
        if !matches!(answer.status, 307 | 308) {
            body = None;
        }
        at = follow(&at, &location)?;
    }
}

/// What one hop answers.
struct Answer {
    status: u16,
    /// Where it redirects to.
    location: Option<String>,
    content_type: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    is_cut: bool,
}

fn send(
    at: &Uri,
    headers: &[(&str, &str)],
    wants: &[&str],
    body: Option<&[u8]>,
    bytes_max: usize,
) -> Result<Answer, String> {
    let response = match body {
        None => headers.iter().fold(AGENT.get(at), |request, (name, value)| request.header(*name, *value)).call(),
        Some(body) => {
            let request = AGENT.post(at).header("content-type", "application/json");
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send(body)
        }
    };
    let response = response.map_err(|error| match error {
        ureq::Error::Io(error) => format!("the connection failed: {}", error.kind()),
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => "its certificate or its TLS is not to be trusted".to_owned(),
        ureq::Error::Http(_) | ureq::Error::BadUri(_) => "the request cannot be sent".to_owned(),
        _ => "it does not speak HTTP as we know it".to_owned(),
    })?;
    let status = response.status().as_u16();
    let (head, body) = response.into_parts();
    let header = |name: &str| Some(head.headers.get(name)?.to_str().ok()?.to_owned());
    let location = header("location").filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308));
    let mut bytes = Vec::new();
    if location.is_none() {
        let read = body.into_reader().take(bytes_max as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| format!("the page broke off: {}", error.kind()))?;
    }
    let is_cut = bytes.len() > bytes_max;
    bytes.truncate(bytes_max);
    let headers = wants.iter().filter_map(|name| Some(((*name).to_owned(), header(name)?))).collect();
    Ok(Answer { status, location, content_type: header("content-type"), headers, body: bytes, is_cut })
}

/// Reads an address.
///
/// # Errors
/// What is wrong with it.
fn read_url(text: &str) -> Result<Uri, FetchError> {
    let text = text.trim();
    if text.len() > URL_BYTES_MAX {
        return Err(FetchError::Url("the address is too long"));
    }
    // Whatever follows `#` is the reader's own business.
    let text = text.split('#').next().unwrap_or_default();
    let uri: Uri = text.parse().map_err(|_| FetchError::Url("that is no address; write what is not ASCII as %XX"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(FetchError::Url("only http and https can be fetched"));
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if uri.host().is_none_or(str::is_empty) {
        return Err(FetchError::Url("the address names no host"));
    }
    if authority.contains('@') {
        return Err(FetchError::Url("an address with a user or a password in it is not fetched"));
    }
    if authority.rsplit_once(':').is_some_and(|(_, port)| port == "0") {
        return Err(FetchError::Url("the address names port 0"));
    }
    Ok(uri)
}

fn host_of(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase()
}

/// Whom a request goes to: scheme, host and port. Headers may hold what only they may know.
fn authority(uri: &Uri) -> (String, String, u16) {
    let scheme = uri.scheme_str().unwrap_or_default().to_owned();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    (scheme, host_of(uri), port)
}

/// Where a redirect leads (RFC 3986, 5.2).
fn follow(from: &Uri, location: &str) -> Result<Uri, FetchError> {
    let location = location.trim();
    let scheme = from.scheme_str().unwrap_or_default();
    let authority = from.authority().map_or("", |authority| authority.as_str());
    let has_scheme = location.split_once(':').is_some_and(|(head, _)| {
        !head.is_empty() && head.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    });
    let absolute = if has_scheme {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", from.path())
    } else {
        let (folder, _) = from.path().rsplit_once('/').unwrap_or_default();
        format!("{scheme}://{authority}{folder}/{location}")
    };
    if scheme == "https" && absolute.len() >= 5 && absolute[..5].eq_ignore_ascii_case("http:") {
        return Err(FetchError::Url("it redirects from https to http"));
    }
    read_url(&absolute)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::runtime::threads;

    /// Answers one request after the other, each with what is named for its path; gives its port, and what it was sent.
    fn server(pages: &'static [(&'static str, &'static str)]) -> (u16, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = threads::spawn("site", threads::STACK_BYTES, move || {
            let mut heads = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while reader.read_line(&mut head).is_ok_and(|n| n > 2) {}
                if head.starts_with("GET /end") || head.is_empty() {
                    break;
                }
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                heads.push(head);
                let page = pages.iter().find(|(at, _)| *at == path).map_or("HTTP/1.1 404 no\r\n\r\n", |(_, page)| page);
                let _ = (&stream).write_all(page.replace("PORT", &port.to_string()).as_bytes());
            }
            heads
        })
        .unwrap();
        (port, served)
    }

    fn get(url: &str, may: &dyn Fn(&Hop) -> Result<Reach, String>) -> Result<Response, FetchError> {
        let request = Request {
            url,
            headers: &[("x-key", "secret")],
            wants: &[],
            body: None,
            time_max: Duration::from_secs(10),
            bytes_max: 8,
            redirects_max: 3,
            stop: &Stop::default(),
        };
        fetch(&request, may)
    }

    const ANYWHERE: fn(&Hop) -> Result<Reach, String> = |_| Ok(Reach::Anywhere);
    const PUBLIC: fn(&Hop) -> Result<Reach, String> = |_| Ok(Reach::Public);

    #[test]
    fn a_page_comes_over_redirects_and_is_cut_where_it_was_asked_to_be() {
        let (port, served) = server(&[
            ("/a/b", "HTTP/1.1 302 x\r\nlocation: c?d=1\r\ncontent-length: 0\r\n\r\n"),
            ("/a/c?d=1", "HTTP/1.1 308 x\r\nlocation: //localhost:PORT/page\r\ncontent-length: 0\r\n\r\n"),
            ("/page", "HTTP/1.1 200 ok\r\ncontent-type: text/plain\r\ncontent-length: 10\r\n\r\n0123456789"),
            ("/loop", "HTTP/1.1 301 x\r\nlocation: /loop\r\ncontent-length: 0\r\n\r\n"),
        ]);
        let got = get(&format!("http://127.0.0.1:{port}/a/b#x"), &ANYWHERE).unwrap();
        assert_eq!((got.status, &*got.body, got.is_cut), (200, &b"01234567"[..], true));
        assert_eq!(
            (got.url, got.content_type.as_deref()),
            (format!("http://localhost:{port}/page"), Some("text/plain"))
        );
        let looped = get(&format!("http://127.0.0.1:{port}/loop"), &ANYWHERE);
        assert_eq!(looped, Err(FetchError::Redirects(3)));
        assert_eq!(get(&format!("http://127.0.0.1:{port}/none"), &ANYWHERE).unwrap().status, 404);
        let _ = get(&format!("http://127.0.0.1:{port}/end"), &ANYWHERE);
        let heads = served.join().unwrap();
        assert!(heads[0].contains("x-key: secret") && heads[1].contains("x-key: secret"), "{heads:?}");
        assert!(!heads[2].contains("secret"), "another host is not told: {heads:?}");
    }

    #[test]
    fn every_hop_is_asked_about_and_every_address_looked_at() {
        let (port, served) = server(&[
            ("/", "HTTP/1.1 302 x\r\nlocation: http://localhost:PORT/inner\r\ncontent-length: 0\r\n\r\n"),
            ("/inner", "HTTP/1.1 200 ok\r\ncontent-length: 6\r\n\r\nsecret"),
        ]);
        let url = format!("http://127.0.0.1:{port}/");
        let refused = get(&url, &PUBLIC).unwrap_err();
        assert!(refused.to_string().contains("an address of this machine or its network"), "{refused}");
        // The first hop is the operator's own word, and what it redirects to is not.
        let first_only = |hop: &Hop| Ok(if hop.host == "127.0.0.1" { Reach::Anywhere } else { Reach::Public });
        let refused = get(&url, &first_only).unwrap_err();
        assert!(matches!(&refused, FetchError::Refused { url, .. } if url.ends_with("/inner")), "{refused}");
        let by_name =
            |hop: &Hop| if hop.host == "localhost" { Err("not that one".to_owned()) } else { Ok(Reach::Anywhere) };
        let refused = get(&url, &by_name).unwrap_err();
        assert!(refused.to_string().ends_with("may not be fetched: not that one"), "{refused}");
        assert_eq!(get(&url, &ANYWHERE).unwrap().body, b"secret", "with the guards off it is to be had");
        let _ = get(&format!("http://127.0.0.1:{port}/end"), &ANYWHERE);
        assert!(served.join().unwrap().iter().filter(|head| head.contains("/inner")).count() == 1);
    }

    #[test]
    fn no_spelling_of_an_inner_address_is_reached() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let hosts = [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "127.0.0.1.",
            "127.255.255.254",
            "127.127.127.127",
            "0",
            "0.0.0.0",
            "00",
            "0x0",
            "0x7f.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "0X7F000001",
            "0x7f.0x0.0x0.0x1",
            "0177.1",
            "0177.0.0.1",
            "0177.0000.0000.0001",
            "017700000001",
            "2130706433",
            "2130706433.",
            "127.0x0.00.1",
            "127.65535",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "LocalHost",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::0001]",
            "[0000:0000:0000:0000:0000:0000:0000:0001]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:7f00:0001]",
            "[0:0:0:0:0:ffff:127.0.0.1]",
            "[::FFFF:127.0.0.1]",
            "[::127.0.0.1]",
            "[::7f00:1]",
            "[64:ff9b::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[2002:7f00:0001::1]",
            "[::ffff:0:127.0.0.1]",
            "[fe80::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[ff02::1]",
            "10.0.0.1",
            "10.1",
            "012.0.0.1",
            "172.16.0.1",
            "172.31.255.254",
            "192.168.1.1",
            "192.168.257",
            "0xc0.0xa8.1.1",
            "3232235777",
            "169.254.169.254",
            "169.254.43518",
            "0xa9fea9fe",
            "2852039166",
            "0251.0376.0251.0376",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "[::1%25lo]",
            "[fe80::1%25eth0]",
            "user@127.0.0.1",
            "example.com@127.0.0.1",
            "example.com:80@127.0.0.1",
            "①②⑦.0.0.1",
            "１２７.0.0.1",
            "127。0。0。1",
            "127.0.0.1\\@example.com",
            "127.0.0.1%2f",
            "%31%32%37.0.0.1",
        ];
        assert!(hosts.len() >= 60);
        for host in hosts {
            let got = get(&format!("http://{host}:{port}/"), &PUBLIC);
            assert!(got.is_err(), "{host}: {got:?}");
            let came = listener.accept().map(|_| ()).map_err(|error| error.kind());
            assert_eq!(came, Err(std::io::ErrorKind::WouldBlock), "{host} was connected to");
        }
        for url in
            ["ftp://127.0.0.1/", "file:///etc/passwd", "gopher://x/", "//127.0.0.1/", "http://", "http:///x", "x"]
        {
            assert!(matches!(get(url, &ANYWHERE), Err(FetchError::Url(_))), "{url}");
        }
        let long = format!("http://127.0.0.1/{}", "x".repeat(URL_BYTES_MAX));
        assert_eq!(get(&long, &ANYWHERE), Err(FetchError::Url("the address is too long")));
    }

    #[test]
    fn a_redirect_is_read_as_a_browser_reads_it() {
        let to = |from: &str, location: &str| {
            follow(&from.parse().unwrap(), location).map(|uri| uri.to_string()).map_err(|error| error.to_string())
        };
        let base = "https://a.example:8443/x/y?z";
        for (location, wanted) in [
            ("/p", "https://a.example:8443/p"),
            ("q?r", "https://a.example:8443/x/q?r"),
            ("?s", "https://a.example:8443/x/y?s"),
            ("//b.example/t", "https://b.example/t"),
            ("https://c.example", "https://c.example/"),
        ] {
            assert_eq!(to(base, location).as_deref(), Ok(wanted), "{location}");
        }
        for location in
            ["http://a.example/", "HTTP://a.example/", "ftp://a.example/", "javascript:alert(1)", "//", "data:x"]
        {
            assert!(to(base, location).is_err(), "{location}");
        }
    }

    #[test]
    fn what_is_silent_or_stopped_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
        let stop = Stop::default();
        let request = Request {
            url: &url,
            headers: &[],
            wants: &[],
            body: Some(b"{}"),
            time_max: Duration::from_millis(200),
            bytes_max: 8,
            redirects_max: 0,
            stop: &stop,
        };
        assert_eq!(fetch(&request, &ANYWHERE), Err(FetchError::Late(request.time_max)));
        stop.stop(crate::runtime::stop::Why::Rpc);
        let request = Request { time_max: Duration::from_secs(60), ..request };
        assert_eq!(fetch(&request, &ANYWHERE), Err(FetchError::Stopped));
    }
}
