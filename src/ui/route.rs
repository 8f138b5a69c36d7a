//! Which of the page's requests this is.

use super::Site;

/// What a request to the page's part of the port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// `/__openclaw/control-ui-config.json`: with a valid bearer [`full_config`](super::bootstrap::full_config), without
    /// any [`open_config`](super::bootstrap::open_config).
    OpenConfig,
    /// `/control-ui-config.json` and its alias: with a valid bearer (shared secret or device token)
    /// [`full_config`](super::bootstrap::full_config), else refused like any request without a credential.
    Config,
    /// `/avatar/AGENT?meta=1`: [`avatar_meta`](super::bootstrap::avatar_meta).
    AvatarMeta {
        /// As sent.
        agent: &'a str,
    },
    /// Anything else: [`Site::serve`].
    Page,
}

impl Site {
    /// Sorts a request by its path. Our own page needs none of the extra routes, so without a root all is
    /// [`Route::Page`].
    pub fn route<'a>(&self, path: &'a str, query: Option<&str>) -> Route<'a> {
        let (Some(_), Some(inside)) = (&self.root, self.base.strip(path)) else { return Route::Page };
        match inside {
            "/__openclaw/control-ui-config.json" => Route::OpenConfig,
            "/control-ui-config.json" | "/__openclaw__/control-ui-config.json" => Route::Config,
            _ => match inside.strip_prefix("/avatar/") {
                Some(agent) if asks_for_meta(query) && !agent.is_empty() && !agent.contains('/') => {
                    Route::AvatarMeta { agent }
                }
                _ => Route::Page,
            },
        }
    }
}

fn asks_for_meta(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|pair| pair == "meta=1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::BasePath;

    #[test]
    fn the_requests_of_upstream_pages_are_told_apart() {
        let with_root = |base| Site { root: Some("/x".into()), base: BasePath::parse(base).expect("plain") };
        for (base, path, query, want) in [
            ("", "/__openclaw/control-ui-config.json", None, Route::OpenConfig),
            ("", "/control-ui-config.json", None, Route::Config),
            ("", "/__openclaw__/control-ui-config.json", None, Route::Config),
            ("", "/avatar/main", Some("meta=1"), Route::AvatarMeta { agent: "main" }),
            ("", "/avatar/main", Some("v=2&meta=1"), Route::AvatarMeta { agent: "main" }),
            ("", "/avatar/main", None, Route::Page),
            ("", "/avatar/", Some("meta=1"), Route::Page),
            ("", "/avatar/a/b", Some("meta=1"), Route::Page),
            ("", "/", None, Route::Page),
            ("/oc", "/oc/control-ui-config.json", None, Route::Config),
            ("/oc", "/control-ui-config.json", None, Route::Page),
        ] {
            assert_eq!(with_root(base).route(path, query), want, "{base} {path} {query:?}");
        }
        let own = Site { root: None, base: BasePath::default() };
        assert_eq!(own.route("/__openclaw/control-ui-config.json", None), Route::Page);
    }
}
