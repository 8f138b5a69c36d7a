//! What a command finds in its environment: what is known to be harmless of ours, and what its call gives, but for what
//! would load code into a program that was judged by its name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::super::processes::sweep::MARK;

/// Variables that a call may give.
pub const VARIABLES_MAX: usize = 64;
/// Bytes of their names and values together.
pub const VARIABLES_BYTES_MAX: usize = 32 * 1024;
/// Where programs are looked for when we have no better word.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a command has of our own environment. Whatever is not named here, and so every secret, it has not.
const INHERITED: &[&str] = &["HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "COLORTERM", "NO_COLOR"];

/// Names that no call gives: each makes some program run code, or take for its own what somebody else wrote.
#[rustfmt::skip]
const FORBIDDEN: &[&str] = &[
    // Shells.
    "BASHOPTS", "BASH_ENV", "CDPATH", "ENV", "FPATH", "GLOBIGNORE", "HISTFILE", "IFS", "KSH_ENV", "PROMPT_COMMAND",
    "PS0", "PS1", "PS2", "PS4", "SHELL", "SHELLOPTS", "ZDOTDIR", "HOME",
    // The loader and the C library.
    "GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "MALLOC_TRACE", "NLSPATH",
    "RESOLV_HOST_CONF", "RES_OPTIONS", "TZDIR",
    // Interpreters and runtimes.
    "BUN_CONFIG_REGISTRY", "CATALINA_OPTS", "CLASSPATH", "CORECLR_ENABLE_PROFILING", "CORECLR_PROFILER",
    "CORECLR_PROFILER_PATH", "DENO_DIR", "DOTNET_ADDITIONAL_DEPS", "DOTNET_STARTUP_HOOKS", "ELIXIR_ERL_OPTIONS",
    "EMACSLOADPATH", "ERL_AFLAGS", "ERL_FLAGS", "ERL_ZFLAGS", "GEM_HOME", "GEM_PATH", "JAVA_OPTS", "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS", "JULIA_EDITOR", "JULIA_LOAD_PATH", "LUA_CPATH", "LUA_INIT", "LUA_PATH", "PHPRC",
    "PHP_INI_SCAN_DIR", "RUBYLIB", "RUBYOPT", "RUBYSHELL", "R_ENVIRON", "R_ENVIRON_USER", "R_LIBS_USER", "R_PROFILE",
    "R_PROFILE_USER", "TCLLIBPATH", "VIRTUAL_ENV", "_JAVA_OPTIONS",
    // Builders.
    "ANT_OPTS", "BUNDLE_GEMFILE", "CC", "CFLAGS", "CMAKE_C_COMPILER", "CMAKE_CXX_COMPILER", "CMAKE_TOOLCHAIN_FILE",
    "COMPOSER_HOME", "CONFIG_SHELL", "CONFIG_SITE", "CPATH", "CPP", "CXX", "CXXCPP", "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH", "GOENV", "GOFLAGS", "GOPATH", "GOPROXY", "GRADLE_OPTS", "GRADLE_USER_HOME", "LDFLAGS",
    "LIBRARY_PATH", "MAKE", "MAKEFLAGS", "MAVEN_OPTS", "MFLAGS", "OBJC_INCLUDE_PATH", "RUSTC", "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER", "RUSTDOC", "RUSTFLAGS", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "SBT_OPTS",
    // What programs start, or read their settings from.
    "BROWSER", "BZR_EDITOR", "BZR_PLUGIN_PATH", "BZR_SSH", "CURL_HOME", "EDITOR", "EXINIT", "FCEDIT", "GVIMINIT",
    "HGEDITOR", "HGMERGE", "HGRCPATH", "LESSCLOSE", "LESSOPEN", "MANPAGER", "MYVIMRC", "PAGER", "SSH_ASKPASS",
    "SUDO_ASKPASS", "SUDO_EDITOR", "SVN_EDITOR", "SVN_SSH", "VIMINIT", "VISUAL", "WGETRC", "ANSIBLE_CONFIG",
    "HELM_PLUGINS", "KUBECONFIG", "PACKER_PLUGIN_PATH", "TF_CLI_CONFIG_FILE", "VAGRANT_VAGRANTFILE",
    // Whom programs trust, and through whom they speak.
    "ALL_PROXY", "CURL_CA_BUNDLE", "DOCKER_CERT_PATH", "DOCKER_CONTEXT", "DOCKER_HOST", "DOCKER_TLS_VERIFY",
    "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES", "REQUESTS_CA_BUNDLE",
    "SSLKEYLOGFILE", "SSL_CERT_DIR", "SSL_CERT_FILE", "SSH_AUTH_SOCK",
];

/// Beginnings of such names.
const FORBIDDEN_PREFIXES: &[&str] = &[
    "LD_",
    "DYLD_",
    "BASH_FUNC_",
    "GIT_",
    "NODE_",
    "NPM_CONFIG_",
    "PYTHON",
    "PERL",
    "CARGO_",
    "PIP_",
    "UV_",
    "XDG_",
    "ANSIBLE_",
    "TF_VAR_",
    "OPENCLAW_",
    "LUA_INIT_",
];

/// Whether no call may give a variable of this name.
pub fn is_forbidden(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name == "PATH"
        || FORBIDDEN.contains(&name.as_str())
        || FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Refuses what a call may not give, in upstream's words.
///
/// # Errors
/// Which of it that is.
pub fn check(given: &[(String, String)]) -> Result<(), String> {
    if given.len() > VARIABLES_MAX {
        return Err(format!("env has more than {VARIABLES_MAX} variables"));
    }
    if given.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > VARIABLES_BYTES_MAX {
        return Err(format!("env has more than {VARIABLES_BYTES_MAX} bytes"));
    }
    for (name, value) in given {
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
        if !is_name {
            return Err(format!("Security Violation: invalid non-portable override keys: {}", name.escape_debug()));
        }
        if name.eq_ignore_ascii_case("PATH") {
            return Err("Security Violation: Custom 'PATH' variable is forbidden during host execution.".to_owned());
        }
        if is_forbidden(name) {
            return Err(format!(
                "Security Violation: Environment variable '{name}' is forbidden during host execution."
            ));
        }
        if value.contains('\0') {
            return Err(format!("env.{name} has a character that no variable can hold"));
        }
    }
    Ok(())
}

/// The environment of a command, in the order of its names: each once.
pub fn of(
    ours: impl Iterator<Item = (OsString, OsString)>,
    path: &OsStr,
    cwd: &Path,
    has_terminal: bool,
    given: &[(String, String)],
) -> Vec<(OsString, OsString)> {
    let is_ours = |name: &OsStr| {
        let name = name.to_str().unwrap_or_default();
        INHERITED.contains(&name) || name.starts_with("LC_")
    };
    let mut env: Vec<(OsString, OsString)> = ours.filter(|(name, _)| is_ours(name)).collect();
    let mut set = |name: &str, value: OsString| {
        env.retain(|(there, _)| there != name);
        env.push((name.into(), value));
    };
    set("TERM", if has_terminal { "xterm-256color" } else { "dumb" }.into());
    for (name, value) in given {
        set(name, value.into());
    }
    set("PATH", path.to_owned());
    set("PWD", cwd.into());
    set("SHELL", "/bin/sh".into());
    // Upstream's word to scripts that an agent runs them.
    set("OPENCLAW_SHELL", "exec".into());
    env.retain(|(name, _)| name != MARK);
    env.sort();
    env
}

/// Where programs are looked for: what was configured, then our own path without what others may write to.
pub fn path(ours: Option<&OsStr>, prepend: &[PathBuf], workspace: &Path) -> Vec<PathBuf> {
    let ours = ours.filter(|path| !path.is_empty()).unwrap_or(OsStr::new(PATH_DEFAULT));
    let mut dirs = prepend.to_vec();
    // A relative one means another directory for each command; what lies in the workspace an agent wrote.
    let is_safe = |dir: &PathBuf| dir.is_absolute() && !dir.starts_with(workspace) && !is_open_to_all(dir);
    dirs.extend(std::env::split_paths(ours).filter(is_safe));
    let mut seen = Vec::new();
    dirs.retain(|dir| {
        // What cannot be spelled in a path is two directories to whoever reads it.
        let is_new = !seen.contains(dir) && !dir.as_os_str().as_bytes().contains(&b':');
        seen.push(dir.clone());
        is_new
    });
    dirs
}

/// Whether everybody may put a program there.
fn is_open_to_all(dir: &Path) -> bool {
    dir.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn nothing_that_loads_code_is_taken_from_a_call() {
        for name in [
            "LD_PRELOAD",
            "LD_AUDIT",
            "DYLD_INSERT_LIBRARIES",
            "BASH_ENV",
            "ENV",
            "NODE_OPTIONS",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "PERL5OPT",
            "RUBYOPT",
            "GIT_SSH_COMMAND",
            "GIT_CONFIG_COUNT",
            "GIT_EXTERNAL_DIFF",
            "BASH_FUNC_ls%%",
            "PROMPT_COMMAND",
            "PS4",
            "IFS",
            "JAVA_TOOL_OPTIONS",
            "npm_config_script_shell",
            "HOME",
            "ld_preload",
            "LESSOPEN",
            "EDITOR",
            "RUSTC_WRAPPER",
            "MAKEFLAGS",
            "SHELLOPTS",
            "OPENCLAW_RS_EXEC",
            "HTTPS_PROXY",
            "https_proxy",
            "SSL_CERT_FILE",
            "DOCKER_HOST",
        ] {
            let error = check(&[pair("FINE", "1"), pair(name, "/tmp/x")]).unwrap_err();
            assert!(error.starts_with("Security Violation: "), "{name}: {error}");
        }
        let error = check(&[pair("PATH", "/tmp")]).unwrap_err();
        assert_eq!(error, "Security Violation: Custom 'PATH' variable is forbidden during host execution.");
        assert!(check(&[pair("Path", "/tmp")]).is_err());
        for name in ["", "1A", "A B", "A=B", "A\0", "Ä"] {
            assert!(check(&[pair(name, "x")]).is_err(), "{name:?}");
        }
        assert!(check(&[pair("A", "x\0y")]).is_err());
        assert!(check(&[pair("NAME", "value"), pair("_x1", "")]).is_ok());
    }

    #[test]
    fn a_call_gives_no_more_than_may_be() {
        let many = |n: usize| (0..n).map(|i| pair(&format!("A{i}"), "")).collect::<Vec<_>>();
        assert!(check(&many(VARIABLES_MAX)).is_ok() && check(&many(VARIABLES_MAX + 1)).is_err());
        assert!(check(&[pair("A", &"x".repeat(VARIABLES_BYTES_MAX - 1))]).is_ok());
        assert!(check(&[pair("A", &"x".repeat(VARIABLES_BYTES_MAX))]).is_err());
    }

    #[test]
    fn nothing_of_ours_is_inherited_that_is_not_named() {
        let ours = [
            ("HOME", "/home/ann"),
            ("LC_ALL", "C"),
            ("OPENAI_API_KEY", "sk-secret"),
            ("OPENCLAW_GATEWAY_TOKEN", "secret"),
            ("LD_PRELOAD", "x.so"),
            ("BASH_FUNC_ls%%", "() { id; }"),
            ("PATH", "/evil"),
            ("TERM", "xterm"),
        ];
        let ours = ours.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let env =
            of(ours.into_iter(), OsStr::new("/bin"), Path::new("/w"), false, &[pair("TERM", "vt100"), pair("A", "1")]);
        let names: Vec<String> =
            env.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
        let expected = [
            "A=1",
            "HOME=/home/ann",
            "LC_ALL=C",
            "OPENCLAW_SHELL=exec",
            "PATH=/bin",
            "PWD=/w",
            "SHELL=/bin/sh",
            "TERM=vt100",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn programs_are_not_looked_for_where_others_may_put_them() {
        let temp = tempfile::TempDir::new().unwrap();
        let dir = |name: &str, mode| {
            let dir = temp.path().join(name);
            fs::create_dir_all(&dir).unwrap();
            fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
            dir
        };
        let (fine, open, workspace) = (dir("fine", 0o755), dir("open", 0o1777), dir("workspace", 0o755));
        let own = std::env::join_paths([
            Path::new("."),
            Path::new("bin"),
            Path::new(""),
            &fine,
            &open,
            &workspace.join("bin"),
            &fine,
        ])
        .unwrap();
        assert_eq!(path(Some(&own), &[], &workspace), std::slice::from_ref(&fine));
        let prepend = [dir("first", 0o755)];
        assert_eq!(path(Some(&own), &prepend, &workspace), [prepend[0].clone(), fine]);
        assert!(path(None, &[], &workspace).contains(&PathBuf::from("/usr/bin")));
    }
}
