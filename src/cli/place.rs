//! Where configuration and state are, from what the command line said.

use super::CliError;
use super::args::Args;
use crate::config::document::Document;
use crate::config::environment::Overrides;
use crate::config::load::{self, LoadInputs, Loaded};

/// What a command that only looks reads the configuration with: the daemon's flags are not in force for it.
pub fn inputs(args: &Args) -> LoadInputs {
    LoadInputs {
        flag_config: args.place.config.clone(),
        state_dir: args.place.state_dir.clone(),
        ..LoadInputs::of_process()
    }
}

/// What the daemon reads it with.
pub fn daemon_inputs(args: &Args) -> LoadInputs {
    let overrides = Overrides {
        port: args.run.port,
        bind: args.run.bind.clone(),
        auth_mode: args.run.auth.clone(),
        token: args.secrets.token.clone(),
        password: args.secrets.password.clone(),
        audit_only: args.run.audit_only,
        log_level: args.run.log.clone(),
    };
    LoadInputs { overrides, ..inputs(args) }
}

/// The document, usable or not.
///
/// # Errors
/// [`CliError::Config`] when it cannot even be read.
pub fn document(args: &Args) -> Result<Document, CliError> {
    Ok(load::inspect(&inputs(args))?)
}

/// The configuration in force.
///
/// # Errors
/// [`CliError::Config`].
pub fn loaded(args: &Args) -> Result<Loaded, CliError> {
    Ok(load::load(&inputs(args))?)
}
