//! What no route takes: the page, what upstream's pages ask for beside the socket, and the canvas.
//!
//! Files are read on a query worker; the loop only says which.

use super::effect::{Done, Effect, Job, Origin, Work};
use super::http::{HttpRequest, HttpResponse};
use super::routes::{HttpCall, error_json, text};
use super::{Fact, Gateway, media};
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::runtime::clock::Now;
use crate::ui::{self, BasePath, Route, Site, bootstrap};

/// Below this path the first part is a capability: who knows it may read the canvas.
const CAPABILITY: &str = "/__openclaw__/cap/";
/// Where the canvas is.
const CANVAS: &str = "/__openclaw__/canvas";
/// Folder of the canvas's files in the state directory.
const CANVAS_DIR: &str = "canvas";

/// The page's own copy of what it needs of a request, to take along to a worker.
struct Asked {
    method: String,
    path: String,
    query: Option<String>,
    accept: Option<String>,
    accept_encoding: Option<String>,
    if_none_match: Option<String>,
}

impl Asked {
    fn of(request: &HttpRequest, path: &str) -> Asked {
        let header = |name: &str| request.header(name).map(str::to_owned);
        Asked {
            method: request.method.clone(),
            path: path.to_owned(),
            query: request.query().map(str::to_owned),
            accept: header("accept"),
            accept_encoding: header("accept-encoding"),
            if_none_match: header("if-none-match"),
        }
    }

    fn request(&self) -> ui::Request<'_> {
        ui::Request {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            accept: self.accept.as_deref(),
            accept_encoding: self.accept_encoding.as_deref(),
            if_none_match: self.if_none_match.as_deref(),
        }
    }
}

impl Gateway {
    /// Answers a request for the page or one of its parts.
    pub(super) fn page(&mut self, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
        let path = request.path();
        if let Some(rest) = path.strip_prefix(CAPABILITY) {
            let (token, inside) = rest.split_once('/').unwrap_or((rest, ""));
            if !self.comparer.same(token, &self.canvas_token) {
                return Some(text(404, "Not Found"));
            }
            return self.canvas(conn, request, &format!("/{inside}"));
        }
        if path == CANVAS || path.starts_with(&format!("{CANVAS}/")) {
            return match self.http_caller(now, conn, request) {
                Ok(_) => self.canvas(conn, request, path),
                Err(refusal) => Some(refusal),
            };
        }
        if !self.config.settings.gateway.control_ui.enabled {
            return Some(text(404, "Not Found"));
        }
        let site = match self.site() {
            Ok(site) => site,
            Err(why) => return Some(error_json(500, "configuration", &why)),
        };
        if site.base.strip(path) == Some(media::PATH) {
            return self.media(now, conn, request);
        }
        match site.route(path, request.query()) {
            // Without a credential it tells what a stranger may know; upstream's older page sends none.
            Route::OpenConfig => Some(match self.http_caller(now, conn, request) {
                Ok(_) => self.bootstrap(&site, Bootstrap::Full),
                Err(_) => self.bootstrap(&site, Bootstrap::Open),
            }),
            Route::Config => Some(match self.http_caller(now, conn, request) {
                Ok(_) => self.bootstrap(&site, Bootstrap::Full),
                Err(refusal) => refusal,
            }),
            Route::AvatarMeta { .. } => Some(adapt(bootstrap::avatar_meta())),
            Route::Page => {
                let asked = Asked::of(request, path);
                if !site.reads_files() {
                    return Some(adapt(site.serve(&asked.request())));
                }
                self.read_page(conn, move || adapt(site.serve(&asked.request())));
                None
            }
        }
    }

    /// Where canvases are, for clients: the address holds the capability.
    pub(super) fn canvas_url(&self, host: &str) -> String {
        format!("http://{host}{CAPABILITY}{}", self.canvas_token)
    }

    fn canvas(&mut self, conn: ConnId, request: &HttpRequest, path: &str) -> Option<HttpResponse> {
        let Some(inside) = path.strip_prefix(CANVAS) else { return Some(text(404, "Not Found")) };
        let inside = if inside.is_empty() || inside == "/" { "/index.html".to_owned() } else { inside.to_owned() };
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Some(text(405, "Method Not Allowed"));
        }
        let root = self.config.state_dir.join(CANVAS_DIR);
        let asked = Asked::of(request, &inside);
        self.read_page(conn, move || {
            let mut response = adapt(ui::directory::file(&root, &asked.path, &asked.request()));
            // What stands on a canvas was written by an agent: it gets no origin of its own, and so none of ours.
            response.headers.retain(|(name, _)| name != "Content-Security-Policy" && name != "X-Frame-Options");
            let policy = "sandbox allow-scripts; default-src 'self' data: blob: 'unsafe-inline'; connect-src 'none'";
            response.headers.push(("Content-Security-Policy".to_owned(), policy.to_owned()));
            response
        });
        None
    }

    pub(super) fn read_page(&mut self, conn: ConnId, read: impl FnOnce() -> HttpResponse + Send + 'static) {
        self.http_calls.insert(conn, HttpCall::Page);
        let work = Work::Query(Box::new(move |_| {
            Ok(Done { answer: None, facts: vec![Fact::Page { conn, response: Box::new(read()) }] })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Page(conn), work }));
    }

    /// A page was read.
    pub(super) fn page_read(&mut self, conn: ConnId, response: HttpResponse) {
        if matches!(self.http_calls.get(&conn), Some(HttpCall::Page)) {
            self.http_calls.remove(&conn);
            self.reply(conn, response);
        }
    }

    /// A page could not be read: the workers are busy, or the reader broke.
    pub(super) fn page_failed(&mut self, conn: ConnId, error: &RpcError) {
        if matches!(self.http_calls.remove(&conn), Some(HttpCall::Page)) {
            let mut response = error_json(503, "unavailable", &error.message);
            response.headers.push(("Retry-After".to_owned(), "1".to_owned()));
            self.reply(conn, response);
        }
    }

    fn site(&self) -> Result<Site, String> {
        let control_ui = &self.config.settings.gateway.control_ui;
        let base = BasePath::parse(&control_ui.base_path).map_err(|error| error.to_string())?;
        Ok(Site { root: control_ui.root.clone(), base })
    }

    fn bootstrap(&self, site: &Site, which: Bootstrap) -> HttpResponse {
        let settings = &self.config.settings;
        let agent = settings.agents.get(&settings.agents.default_id);
        let own = agent.and_then(|agent| agent.identity.name.as_deref().or(agent.name.as_deref()));
        let name = own.or(settings.ui.assistant_name.as_deref()).unwrap_or("Assistant");
        let initial: String = name.chars().take(1).flat_map(char::to_uppercase).collect();
        let avatar = agent.and_then(|agent| agent.identity.avatar.as_deref());
        let avatar = avatar.or(settings.ui.assistant_avatar.as_deref()).unwrap_or(&initial);
        let assistant = bootstrap::Assistant { name, avatar, agent_id: &settings.agents.default_id };
        adapt(match which {
            Bootstrap::Open => bootstrap::open_config(&site.base, assistant),
            Bootstrap::Full => bootstrap::full_config(&site.base, assistant, super::hello::RELEASE_V4),
        })
    }
}

enum Bootstrap {
    Open,
    Full,
}

fn adapt(response: ui::Response) -> HttpResponse {
    HttpResponse {
        status: response.status,
        headers: response.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        body: response.body.into_owned(),
    }
}
