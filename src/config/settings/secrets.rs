//! `secrets.*`: places that secrets are fetched from, in upstream's form.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use crate::config::secret::Secret;

/// The places, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    pub places: Vec<Place>,
    /// The place of references that name none, by source: `env`, `file`, `exec`.
    pub default_places: Vec<(String, String)>,
}

/// A place that secrets are fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name under `secrets.providers`.
    pub name: String,
    pub access: Access,
    /// How long fetching may take.
    pub fetch_timeout: Duration,
    /// Most bytes that are read of it.
    pub bytes_max: u64,
}

/// How a place is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Environment variables, only these when there is a list.
    Env(Option<Vec<String>>),
    /// A file: a JSON document, or one secret.
    File { path: PathBuf, is_json: bool },
    /// A program.
    Exec(Program),
    /// One that this build does not know, as it is written.
    Unknown(String),
}

/// A program that is asked for secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub command: PathBuf,
    pub args: Vec<String>,
    /// Variables it is given, and variables of ours that it may see.
    pub own_env: Vec<(String, Secret)>,
    pub pass_env: Vec<String>,
    /// Whether what it writes must be a document.
    pub json_only: bool,
    /// Directories it must be in; empty: anywhere.
    pub trusted_dirs: Vec<PathBuf>,
}

impl Secrets {
    pub(super) fn read(secrets: &Reader<'_>) -> Secrets {
        let defaults = secrets.values("defaults");
        Secrets {
            places: secrets.entries("providers").into_iter().map(|(name, place)| Place::read(name, &place)).collect(),
            default_places: defaults
                .into_iter()
                .filter_map(|(source, name)| Some((source, name.as_str()?.to_owned())))
                .collect(),
        }
    }
}

impl Place {
    fn read(name: String, place: &Reader<'_>) -> Place {
        let path = |key| place.path(key).unwrap_or_default();
        let env =
            || place.values("env").into_iter().filter_map(|(name, value)| Some((name, Secret::new(value.as_str()?))));
        let bytes = |key| u64::try_from(place.int(key)).unwrap_or(0);
        // Each key is read whatever the source is, so that all of them are known to be read.
        let program = Program {
            command: path("command"),
            args: place.texts("args"),
            own_env: env().collect(),
            pass_env: place.texts("passEnv"),
            json_only: place.flag("jsonOnly"),
            trusted_dirs: place.texts("trustedDirs").into_iter().map(PathBuf::from).collect(),
        };
        let file = Access::File { path: path("path"), is_json: place.text_or_default("mode") == "json" };
        let allowed = place.texts_if_set("allowlist");
        let (file_bytes, program_bytes) = (bytes("maxBytes"), bytes("maxOutputBytes"));
        let source = place.text("source").unwrap_or_default();
        let bytes_max = if source == "exec" { program_bytes } else { file_bytes };
        let access = match source.as_str() {
            "env" => Access::Env(allowed),
            "file" => file,
            "exec" => Access::Exec(program),
            _ => Access::Unknown(source),
        };
        Place { name, access, fetch_timeout: place.ms("timeoutMs"), bytes_max }
    }
}
