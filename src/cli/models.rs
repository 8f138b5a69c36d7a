//! `models`: which models a running gateway has, and which of them are asked.
//!
//! Reads with `models.list`, `models.authStatus` and `config.get`, and changes with `config.patch`, which refuses a
//! change of a document that somebody else changed in between.

use std::io;

use serde_json::{Map, Value};

use super::args::{Args, BadValue, Given};
use super::client::Client;
use super::commands::{CONNECT, HELP, OUTPUT, PLACE, SECRETS, TALK};
use super::flags::{Command, Count, Example, FLAG, Flag, Word};
use super::table::{Cell, Table};
use super::term::{Out, Style};
use super::{CliError, Exit, Outcome, gateway};
use crate::agent::providers::table as providers;
use crate::protocol::json::json;
use crate::protocol::scope::Scope;

/// The row of `models`.
pub static COMMAND: Command = Command {
    name: "models",
    about: "Look at the models and choose among them; alone, list them",
    doc: "Works on a running gateway. `openclaw-rs onboard` and `openclaw-rs configure` need none.",
    words: &[],
    flags: LIST_WITH,
    examples: &[
        Example { line: "openclaw-rs models", what: "the models people may choose" },
        Example { line: "openclaw-rs models set openai/gpt-5.4", what: "ask this one first" },
    ],
    children: &[&LIST, &STATUS, &SET, &ALIASES, &FALLBACKS],
    run: Some(list),
};

static LIST: Command = Command {
    name: "list",
    about: "List the models people may choose",
    doc: "With --json the gateway's answer is passed on whole.",
    words: &[],
    flags: LIST_WITH,
    examples: &[Example { line: "openclaw-rs models list --all --json", what: "every one, for a script" }],
    children: &[],
    run: Some(list),
};

static STATUS: Command = Command {
    name: "status",
    about: "Show which models are asked, and which providers have a key",
    doc: "Keys are never shown, only where they come from.",
    words: &[],
    flags: &[STATUS_FLAGS, HELP, CONNECT, SECRETS, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs models status", what: "for a person" },
        Example { line: "openclaw-rs models status --check", what: "for a script: 1 when the first model has no key" },
    ],
    children: &[],
    run: Some(status),
};

static SET: Command = Command {
    name: "set",
    about: "Choose the model that is asked first",
    doc: "For agents without a model of their own. The fallbacks stay.",
    words: &[MODEL],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs models set anthropic/claude-opus-5", what: "by provider and model" }],
    children: &[],
    run: Some(set),
};

static ALIASES: Command = Command {
    name: "aliases",
    about: "Short names of models; alone, list them",
    doc: "A model with an alias is also one that people may choose: once agents.defaults.models names any model, only \
          those it names, the first one and the fallbacks can be chosen.",
    words: &[],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs models aliases add fast openai/gpt-5.4-mini", what: "call it fast" }],
    children: &[&ALIASES_LIST, &ALIASES_ADD, &ALIASES_REMOVE],
    run: Some(aliases),
};

static ALIASES_LIST: Command = Command {
    name: "list",
    about: "List the short names",
    doc: "",
    words: &[],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs models aliases list --json", what: "for a script" }],
    children: &[],
    run: Some(aliases),
};

static ALIASES_ADD: Command = Command {
    name: "add",
    about: "Give a model a short name",
    doc: "",
    words: &[ALIAS, MODEL],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs models aliases add best anthropic/claude-opus-5", what: "call it best" }],
    children: &[],
    run: Some(alias_add),
};

static ALIASES_REMOVE: Command = Command {
    name: "remove",
    about: "Take a short name away; the model can still be chosen",
    doc: "",
    words: &[ALIAS],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs models aliases remove best", what: "it has no short name any more" }],
    children: &[],
    run: Some(alias_remove),
};

static FALLBACKS: Command = Command {
    name: "fallbacks",
    about: "Models that are asked when the first one fails; alone, list them",
    doc: "",
    words: &[],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs models fallbacks add openai/gpt-5.4", what: "one more, as the last" }],
    children: &[&FALLBACKS_LIST, &FALLBACKS_ADD, &FALLBACKS_REMOVE, &FALLBACKS_CLEAR],
    run: Some(fallbacks),
};

static FALLBACKS_LIST: Command = Command {
    name: "list",
    about: "List the fallbacks in their order",
    doc: "",
    words: &[],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs models fallbacks list --json", what: "for a script" }],
    children: &[],
    run: Some(fallbacks),
};

static FALLBACKS_ADD: Command = Command {
    name: "add",
    about: "Add a fallback as the last one",
    doc: "",
    words: &[MODEL],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs models fallbacks add ollama/qwen3", what: "a local one, when all fail" }],
    children: &[],
    run: Some(fallback_add),
};

static FALLBACKS_REMOVE: Command = Command {
    name: "remove",
    about: "Remove a fallback",
    doc: "",
    words: &[MODEL],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs models fallbacks remove ollama/qwen3", what: "the others stay" }],
    children: &[],
    run: Some(fallback_remove),
};

static FALLBACKS_CLEAR: Command = Command {
    name: "clear",
    about: "Remove every fallback",
    doc: "",
    words: &[],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs models fallbacks clear", what: "only the first model is asked" }],
    children: &[],
    run: Some(fallbacks_clear),
};

const LIST_WITH: &[&[Flag]] = &[LIST_FLAGS, HELP, CONNECT, SECRETS, PLACE, OUTPUT];

const LIST_FLAGS: &[Flag] = &[
    Flag {
        long: "all",
        help: "every model that is known, whether it may be chosen or not",
        set: |args, _| {
            args.models.all = true;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "provider",
        value: Some("ID"),
        help: "only models of this provider",
        set: |args, given| {
            args.onboard.provider = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
];

const STATUS_FLAGS: &[Flag] = &[Flag {
    long: "check",
    help: "end with status 1 when the first model cannot be asked",
    set: |args, _| {
        args.models.check = true;
        Ok(())
    },
    ..FLAG
}];

const MODEL: Word = Word {
    name: "MODEL",
    count: Count::One,
    choices: &[],
    help: "the model, as PROVIDER/MODEL or by its alias",
    set: |args, given| set_text(&mut args.models.model, given),
};

const ALIAS: Word = Word {
    name: "ALIAS",
    count: Count::One,
    choices: &[],
    help: "the short name",
    set: |args, given| set_text(&mut args.models.alias, given),
};

fn set_text(place: &mut Option<String>, given: &Given) -> Result<(), BadValue> {
    *place = Some(given.text()?);
    Ok(())
}

/// What a gateway's configuration says of models.
#[derive(Debug, Default, PartialEq)]
struct Choice {
    hash: Option<String>,
    primary: Option<String>,
    fallbacks: Vec<String>,
    /// `agents.defaults.models`.
    named: Map<String, Value>,
}

impl Choice {
    fn read(client: &mut Client) -> Result<Choice, CliError> {
        Ok(Choice::of(&client.call("config.get", json!({}))?))
    }

    fn of(answer: &Value) -> Choice {
        let defaults = answer.pointer("/config/agents/defaults").unwrap_or(&Value::Null);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let model = &defaults["model"];
        let fallbacks = model["fallbacks"].as_array().into_iter().flatten();
        Choice {
            hash: text(&answer["hash"]),
            primary: text(model).or_else(|| text(&model["primary"])),
            fallbacks: fallbacks.filter_map(Value::as_str).map(str::to_owned).collect(),
            named: defaults["models"].as_object().cloned().unwrap_or_default(),
        }
    }

    /// Aliases with the models they mean, in the order they are written.
    fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().filter_map(|(name, entry)| Some((entry["alias"].as_str()?, name.as_str())))
    }

    /// The whole name of what a person calls a model.
    fn resolve(&self, name: &str) -> Result<String, CliError> {
        let name = name.trim();
        if let Some((_, model)) = self.aliases().find(|(alias, _)| alias.eq_ignore_ascii_case(name)) {
            return Ok(model.to_owned());
        }
        match name.split_once('/') {
            Some((provider, model)) if !provider.is_empty() && !model.is_empty() => {
                Ok(format!("{}/{model}", providers::canonical(provider)))
            }
            _ => Err(CliError::BadRequest {
                what: format!("{name} is neither PROVIDER/MODEL nor an alias"),
                hint: "`openclaw-rs models list --all` shows what there is",
            }),
        }
    }

    fn write(&self, client: &mut Client, patch: &Value, replaced: &[&str]) -> Result<(), CliError> {
        let mut params = json!({ "raw": patch.to_string() });
        if let Some(hash) = &self.hash {
            params["baseHash"] = json!(hash);
        }
        if client.hello().protocol >= 4 && !replaced.is_empty() {
            params["replacePaths"] = json!(replaced);
        }
        client.call("config.patch", params)?;
        Ok(())
    }

    /// Writes these models in this order; the first one is written too, because a plain name has no room for more.
    fn write_chain(&self, client: &mut Client, primary: Option<&str>, fallbacks: &[String]) -> Result<(), CliError> {
        let mut model = json!({ "fallbacks": fallbacks });
        if let Some(primary) = primary {
            model["primary"] = json!(primary);
        }
        let patch = json!({ "agents": { "defaults": { "model": model } } });
        self.write(client, &patch, &["agents.defaults.model.fallbacks"])
    }
}

fn reader(args: &Args) -> Result<Client, CliError> {
    Ok(Client::connect(&gateway::target(args)?, &[Scope::Read])?)
}

fn writer(args: &Args) -> Result<(Client, Choice), CliError> {
    let mut client = Client::connect(&gateway::target(args)?, &[Scope::Read, Scope::Admin])?;
    let choice = Choice::read(&mut client)?;
    Ok((client, choice))
}

/// The models, as the gateway lists them in one of its views.
fn listed(client: &mut Client, view: &str, provider: Option<&str>) -> Result<Value, CliError> {
    let mut params = json!({});
    // Protocol 3 has one list and takes no wishes.
    if client.hello().protocol >= 4 {
        params["view"] = json!(view);
        if let Some(provider) = provider {
            params["provider"] = json!(provider);
        }
    }
    Ok(client.call("models.list", params)?)
}

fn list(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = reader(args)?;
    let view = if args.models.all { "all" } else { "default" };
    let answer = listed(&mut client, view, args.onboard.provider.as_deref())?;
    client.close();
    if out.is_json() {
        out.json(&answer)?;
    } else {
        print_models(&answer, out)?;
    }
    Ok(Outcome::Done)
}

fn print_models(answer: &Value, out: &mut Out) -> io::Result<()> {
    let models = answer["models"].as_array().map_or(&[][..], Vec::as_slice);
    if models.is_empty() {
        return out.line("No models are configured; `openclaw-rs onboard` sets one up.");
    }
    let mut table = Table::new(&["MODEL", "NAME", "CONTEXT", "ALIAS", "USED AS", "KEY"]);
    for model in models {
        let text = |name: &str| model[name].as_str().unwrap_or("");
        let tags = model["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        // `configured` says that it is named, which its being here says too.
        let used: Vec<&str> = tags.filter(|tag| *tag != "configured").collect();
        table.row(vec![
            format!("{}/{}", text("provider"), text("id")).into(),
            text("name").into(),
            model["contextWindow"].as_u64().map_or_else(String::new, |tokens| tokens.to_string()).into(),
            text("alias").into(),
            used.join(", ").into(),
            match model["available"].as_bool() {
                Some(true) => Cell::styled("yes", Style::Good),
                Some(false) => Cell::styled("missing", Style::Warn),
                None => "".into(),
            },
        ]);
    }
    table.print(out)
}

fn status(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = reader(args)?;
    let choice = Choice::read(&mut client)?;
    let models = listed(&mut client, "configured", None)?;
    let has_status = client.hello().features.methods.iter().any(|method| method == "models.authStatus");
    let auth = if has_status { client.call("models.authStatus", json!({}))? } else { Value::Null };
    client.close();
    let is_ready = first_available(&choice, &models);
    if out.is_json() {
        out.json(&json!({
            "ok": true,
            "defaultModel": choice.primary,
            "available": is_ready,
            "fallbacks": choice.fallbacks,
            "aliases": choice.aliases().map(|(alias, model)| (alias.to_owned(), json!(model))).collect::<Map<_, _>>(),
            "allowed": choice.named.keys().collect::<Vec<_>>(),
            "auth": auth,
        }))?;
    } else {
        print_status(&choice, is_ready, &auth, out)?;
    }
    let fails = args.models.check && is_ready != Some(true);
    Ok(if fails { Outcome::BadNews(Exit::Failure) } else { Outcome::Done })
}

/// Whether the first model has its credentials; `None`: there is none, or the gateway does not say.
fn first_available(choice: &Choice, models: &Value) -> Option<bool> {
    let primary = choice.resolve(choice.primary.as_deref()?).ok()?;
    let (provider, id) = primary.split_once('/')?;
    let mut rows = models["models"].as_array()?.iter();
    rows.find(|row| row["provider"] == provider && row["id"] == id)?["available"].as_bool()
}

fn print_status(choice: &Choice, is_ready: Option<bool>, auth: &Value, out: &mut Out) -> io::Result<()> {
    let key = match is_ready {
        Some(true) => out.styled(Style::Good, " (has its key)"),
        Some(false) => out.styled(Style::Bad, " (its provider is not configured, or has no key)"),
        None => String::new(),
    };
    let primary =
        choice.primary.as_deref().unwrap_or("none; the first provider with a key in the environment is asked");
    let line = format!("First: {}{key}", out.styled(Style::Plain, primary));
    out.styled_line(&line)?;
    if !choice.fallbacks.is_empty() {
        out.line(&format!("Then: {}", choice.fallbacks.join(", ")))?;
    }
    for (alias, model) in choice.aliases() {
        out.line(&format!("Alias: {alias} is {model}"))?;
    }
    let providers = auth["providers"].as_array().map_or(&[][..], Vec::as_slice);
    if providers.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["PROVIDER", "KEY FROM"]);
    for provider in providers {
        let source = match (provider.pointer("/apiKey/envVar"), provider.pointer("/apiKey/source")) {
            (Some(name), _) => name.as_str().unwrap_or("").to_owned(),
            (None, Some(source)) if source == "config" => "the configuration".to_owned(),
            (None, source) => source.and_then(Value::as_str).unwrap_or("").to_owned(),
        };
        table.row(vec![provider["provider"].as_str().unwrap_or("").into(), source.into()]);
    }
    table.print(out)
}

/// Says what was done: `text` to a person, `fields` to a script.
fn done(out: &mut Out, text: &str, fields: Value) -> Result<Outcome, CliError> {
    if out.is_json() {
        let mut answer = json!({ "ok": true });
        if let (Value::Object(answer), Value::Object(fields)) = (&mut answer, fields) {
            answer.extend(fields);
        }
        out.json(&answer)?;
    } else {
        out.line(text)?;
    }
    Ok(Outcome::Done)
}

fn set(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let (mut client, choice) = writer(args)?;
    let model = choice.resolve(args.models.model.as_deref().unwrap_or(""))?;
    choice.write_chain(&mut client, Some(&model), &choice.fallbacks)?;
    client.close();
    done(out, &format!("{model} is asked first"), json!({ "defaultModel": model }))
}

fn aliases(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = reader(args)?;
    let choice = Choice::read(&mut client)?;
    client.close();
    if out.is_json() {
        let aliases: Map<String, Value> =
            choice.aliases().map(|(alias, model)| (alias.to_owned(), json!(model))).collect();
        out.json(&json!({ "aliases": aliases }))?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["ALIAS", "MODEL"]);
    for (alias, model) in choice.aliases() {
        table.row(vec![alias.into(), model.into()]);
    }
    if choice.aliases().next().is_none() {
        out.line("No aliases.")?
    } else {
        table.print(out)?
    }
    Ok(Outcome::Done)
}

fn alias_add(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let alias = args.models.alias.as_deref().unwrap_or("").trim();
    if alias.contains('/') || alias.contains(char::is_whitespace) {
        return Err(CliError::BadRequest {
            what: "an alias is one word without a slash".to_owned(),
            hint: "such as fast or best",
        });
    }
    let (mut client, choice) = writer(args)?;
    let model = choice.resolve(args.models.model.as_deref().unwrap_or(""))?;
    let mut models = json!({ (model.as_str()): { "alias": alias } });
    // One name means one model: who had it before loses it.
    for (_, other) in choice.aliases().filter(|(known, other)| known.eq_ignore_ascii_case(alias) && *other != model) {
        models[other] = json!({ "alias": null });
    }
    choice.write(&mut client, &json!({ "agents": { "defaults": { "models": models } } }), &[])?;
    client.close();
    done(out, &format!("{alias} is {model}"), json!({ "alias": alias, "model": model }))
}

fn alias_remove(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let alias = args.models.alias.as_deref().unwrap_or("").trim();
    let (mut client, choice) = writer(args)?;
    let known = choice.aliases().find(|(known, _)| known.eq_ignore_ascii_case(alias)).map(|(_, model)| model);
    let Some(model) = known else {
        let near = super::nearest::nearest(alias, choice.aliases().map(|(known, _)| known)).map(str::to_owned);
        return Err(CliError::NoValue { what: format!("no model has the alias {alias}"), near });
    };
    let patch = json!({ "agents": { "defaults": { "models": { model: { "alias": null } } } } });
    choice.write(&mut client, &patch, &[])?;
    client.close();
    done(out, &format!("{model} has no alias any more"), json!({ "alias": alias, "model": model }))
}

fn fallbacks(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = reader(args)?;
    let choice = Choice::read(&mut client)?;
    client.close();
    if out.is_json() {
        out.json(&json!({ "fallbacks": choice.fallbacks }))?;
    } else if choice.fallbacks.is_empty() {
        out.line("No fallbacks.")?;
    } else {
        choice.fallbacks.iter().try_for_each(|model| out.line(model))?;
    }
    Ok(Outcome::Done)
}

fn fallback_add(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    change_fallbacks(args, out, |chain, model| {
        if !chain.contains(&model) {
            chain.push(model);
        }
        Ok(())
    })
}

fn fallback_remove(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    change_fallbacks(args, out, |chain, model| match chain.iter().position(|known| *known == model) {
        Some(place) => {
            chain.remove(place);
            Ok(())
        }
        None => {
            let near = super::nearest::nearest(&model, chain.iter().map(String::as_str)).map(str::to_owned);
            Err(CliError::NoValue { what: format!("{model} is no fallback"), near })
        }
    })
}

fn change_fallbacks(
    args: &Args,
    out: &mut Out,
    change: impl FnOnce(&mut Vec<String>, String) -> Result<(), CliError>,
) -> Result<Outcome, CliError> {
    let (mut client, choice) = writer(args)?;
    let model = choice.resolve(args.models.model.as_deref().unwrap_or(""))?;
    let mut chain = choice.fallbacks.clone();
    change(&mut chain, model)?;
    choice.write_chain(&mut client, choice.primary.as_deref(), &chain)?;
    client.close();
    say_chain(out, &chain)
}

fn fallbacks_clear(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let (mut client, choice) = writer(args)?;
    choice.write_chain(&mut client, choice.primary.as_deref(), &[])?;
    client.close();
    say_chain(out, &[])
}

fn say_chain(out: &mut Out, chain: &[String]) -> Result<Outcome, CliError> {
    let text = if chain.is_empty() { "no fallbacks".to_owned() } else { format!("fallbacks: {}", chain.join(", ")) };
    done(out, &text, json!({ "fallbacks": chain }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::capture;

    fn choice() -> Choice {
        Choice::of(&json!({ "hash": "h", "config": { "agents": { "defaults": {
            "model": { "primary": "openai/gpt-5.4", "fallbacks": ["fast"] },
            "models": { "openai/gpt-5.4-mini": { "alias": "Fast" }, "openai/gpt-5.4": {} },
        } } } }))
    }

    #[test]
    fn a_model_is_named_whole_or_by_its_alias() {
        let choice = choice();
        assert_eq!(choice.resolve("fast").unwrap(), "openai/gpt-5.4-mini");
        assert_eq!(choice.resolve("claude/claude-opus-5").unwrap(), "anthropic/claude-opus-5");
        assert_eq!(choice.resolve("openrouter/a/b").unwrap(), "openrouter/a/b");
        for bad in ["", "gpt", "/x", "x/"] {
            assert!(matches!(choice.resolve(bad), Err(CliError::BadRequest { .. })), "{bad}");
        }
    }

    #[test]
    fn reads_a_model_however_it_is_written() {
        let plain = Choice::of(&json!({ "config": { "agents": { "defaults": { "model": "a/b" } } } }));
        assert_eq!(plain, Choice { primary: Some("a/b".to_owned()), ..Choice::default() });
        assert_eq!(Choice::of(&json!({})), Choice::default());
    }

    #[test]
    fn the_status_says_what_is_asked_and_whence_keys_come() {
        let models = json!({ "models": [{ "provider": "openai", "id": "gpt-5.4", "available": false }] });
        assert_eq!(first_available(&choice(), &models), Some(false));
        assert_eq!(first_available(&choice(), &json!({ "models": [] })), None);
        let auth = json!({ "providers": [
            { "provider": "openai", "apiKey": { "source": "env", "envVar": "OPENAI_API_KEY" } },
            { "provider": "attic", "apiKey": { "source": "config" } },
        ] });
        assert_eq!(
            capture(false, |out| print_status(&choice(), Some(true), &auth, out)),
            "First: openai/gpt-5.4 (has its key)\n\
             Then: fast\n\
             Alias: Fast is openai/gpt-5.4-mini\n\
             PROVIDER  KEY FROM\n\
             openai    OPENAI_API_KEY\n\
             attic     the configuration\n"
        );
    }

    #[test]
    fn the_list_shows_what_a_model_is_used_as() {
        let answer = json!({ "models": [
            { "provider": "openai", "id": "gpt", "name": "GPT", "contextWindow": 1000, "available": true,
              "tags": ["default", "configured"] },
            { "provider": "attic", "id": "small", "name": "small", "alias": "s", "available": false },
        ] });
        assert_eq!(
            capture(false, |out| print_models(&answer, out)),
            "MODEL        NAME   CONTEXT  ALIAS  USED AS  KEY\n\
             openai/gpt   GPT    1000            default  yes\n\
             attic/small  small           s               missing\n"
        );
    }
}
