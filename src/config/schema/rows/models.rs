//! `models.*`, `auth.*`, `keys.*`, `general.*`: config.md sections 5 and 6.

use crate::config::schema::{
    ANY_INT, Kind, Row, any, choice, flag, int, list, map, number, open, path, row, secret, table, text, texts,
};

#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    choice("models.mode", &["merge", "replace"]).or("\"merge\"").now().doc("Configured models beside the built-in catalog, or instead of it."),
    int("models.requestTimeoutMs", 1000, ANY_INT).or("60000").now().doc("How long a provider may be silent, in milliseconds."),
    map("models.providers").or("{}").alias(&["gateway.models.providers"]).now().basic().doc("Model providers by id."),
    open("models.providers.*").doc("One provider."),
    row("models.providers.*.baseUrl", Kind::Text { chars_max: 2048 }).otherwise("built in")
        .alias(&["models.providers.*.baseURL", "models.providers.*.url", "models.providers.*.endpoint", "models.providers.*.chatCompletionsUrl", "models.providers.*.chatEndpoint"])
        .basic().now().doc("Address of its API."),
    text("models.providers.*.api").otherwise("built in, else `openai-completions`").alias(&["models.providers.*.apiMode", "models.providers.*.mode"])
        .now().doc("Which API it speaks: `openai-completions`, `openai-responses`, `anthropic-messages`, `google-generative-ai`, `github-copilot`, `bedrock-converse-stream`, `ollama`."),
    secret("models.providers.*.apiKey").otherwise("the provider's own variable")
        .alias(&["models.providers.*.key", "models.providers.*.token", "models.providers.*.accessToken", "models.providers.*.bearerToken"])
        .basic().now().doc("Its key."),
    choice("models.providers.*.auth", &["api-key", "aws-sdk", "oauth", "token"]).or("\"api-key\"").now().doc("How requests prove themselves."),
    flag("models.providers.*.authHeader").or("true").now().doc("Send the auth header."),
    text("models.providers.*.authHeaderName").chars(128).or("\"Authorization\"").alias(&["models.providers.*.apiKeyHeader", "models.providers.*.tokenHeader"]).now().doc("Its name."),
    text("models.providers.*.authHeaderPrefix").chars(64).otherwise("`Bearer ` for Authorization, else empty")
        .alias(&["models.providers.*.apiKeyPrefix", "models.providers.*.tokenPrefix"]).now().doc("What stands before the key."),
    map("models.providers.*.headers").or("{}").alias(&["models.providers.*.defaultHeaders"]).now().doc("Further headers."),
    secret("models.providers.*.headers.*").chars(2048).now().doc("One header."),
    flag("models.providers.*.allowUnauthenticated").otherwise("built in")
        .alias(&["models.providers.*.allowUnauth", "models.providers.*.allowAnonymous", "models.providers.*.apiKeyOptional"]).now().doc("Work without a key."),
    int("models.providers.*.timeoutMs", 1000, ANY_INT).otherwise("`models.requestTimeoutMs`").alias(&["models.providers.*.requestTimeoutMs"]).now().doc("How long it may be silent, in milliseconds."),
    any("models.providers.*.requestDefaults").or("{}")
        .alias(&["models.providers.*.request", "models.providers.*.payloadDefaults", "models.providers.*.payload", "models.providers.*.params"])
        .now().doc("Merged into request bodies."),
    any("models.providers.*.options").alias(&["models.providers.*.providerOptions", "models.providers.*.runtime", "models.providers.*.runtimeOptions"])
        .doc("Any of these keys, nested."),
    list("models.providers.*.models").or("[]").now().basic().doc("What it offers."),
    open("models.providers.*.models[]").doc("One model."),
    text("models.providers.*.models[].id").now().basic().doc("Its id, required."),
    text("models.providers.*.models[].name").now().basic().doc("Its name."),
    text("models.providers.*.models[].api").now().doc("Its API, when other than the provider's."),
    flag("models.providers.*.models[].reasoning").or("false").now().doc("Whether it reasons."),
    texts("models.providers.*.models[].input").or("[\"text\"]").now().doc("What it takes: `text`, `image`."),
    open("models.providers.*.models[].cost").doc("Price of a million tokens."),
    number("models.providers.*.models[].cost.input", 0.0, 1e9).now().doc("Input."),
    number("models.providers.*.models[].cost.output", 0.0, 1e9).now().doc("Output."),
    number("models.providers.*.models[].cost.cacheRead", 0.0, 1e9).now().doc("Cached input."),
    number("models.providers.*.models[].cost.cacheWrite", 0.0, 1e9).now().doc("Input written to the cache."),
    int("models.providers.*.models[].contextWindow", 1, ANY_INT).now().doc("Context window, in tokens."),
    int("models.providers.*.models[].maxTokens", 1, ANY_INT).now().doc("Longest answer, in tokens."),
    map("models.providers.*.models[].headers").now().doc("Headers for this model."),
    secret("models.providers.*.models[].headers.*").now().doc("One header."),
    any("models.providers.*.models[].compat").now().doc("What its API leaves out or names differently."),
    open("models.bedrockDiscovery").doc("Finding models on Bedrock."),
    map("keys").now().doc("Rotation keys: `<provider>_api_keys`."),
    row("keys.*", Kind::Texts { items_max: 256 }).hidden().now().doc("Keys of that provider, used in turn."),
    int("general.failover_cooldown_base_seconds", 1, ANY_INT).or("60").now().doc("First cool-down of a failing key, in seconds."),
    int("general.failover_cooldown_max_seconds", 1, ANY_INT).or("3600").now().doc("Longest one."),

    map("auth.profiles").or("{}").now().doc("Credentials by profile id; metadata only, no secrets."),
    open("auth.profiles.*").doc("One profile."),
    text("auth.profiles.*.provider").now().doc("Its provider."),
    choice("auth.profiles.*.mode", &["api_key", "oauth", "token"]).now().doc("Its kind."),
    text("auth.profiles.*.email").doc("Whose it is."),
    map("auth.order").now().doc("Profiles in order of use, by provider."),
    texts("auth.order.*").now().doc("Profile ids."),
    open("auth.cooldowns").doc("How long a failing profile rests."),
    number("auth.cooldowns.billingBackoffHours", 0.0, 1e6).or("5").now().doc("After a billing error, in hours."),
    map("auth.cooldowns.billingBackoffHoursByProvider").or("{}").now().doc("The same by provider."),
    number("auth.cooldowns.billingBackoffHoursByProvider.*", 0.0, 1e6).now().doc("Hours."),
    number("auth.cooldowns.billingMaxHours", 0.0, 1e6).or("24").now().doc("At most, in hours."),
    number("auth.cooldowns.failureWindowHours", 0.0, 1e6).or("24").now().doc("Window in which failures count, in hours."),
    path("auth.oauth.storePath").otherwise("the store database").alias(&["oauth.storePath", "runtime.oauthStorePath"]).env(&["OPENCLAW_RS_OAUTH_STORE_PATH"]).doc("Where sign-ins are kept."),
    table("auth.oauth.codex").doc("Sign-in of the Codex provider."),
    text("auth.oauth.codex.authorizeUrl").env(&["OPENCLAW_RS_CODEX_OAUTH_AUTHORIZE_URL"]).doc("Where the user signs in."),
    text("auth.oauth.codex.tokenUrl").env(&["OPENCLAW_RS_CODEX_OAUTH_TOKEN_URL"]).doc("Where codes become tokens."),
    text("auth.oauth.codex.clientId").env(&["OPENCLAW_RS_CODEX_OAUTH_CLIENT_ID"]).doc("Client id."),
    text("auth.oauth.codex.redirectUri").env(&["OPENCLAW_RS_CODEX_OAUTH_REDIRECT_URI"]).doc("Where the user comes back."),
    text("auth.oauth.codex.scope").env(&["OPENCLAW_RS_CODEX_OAUTH_SCOPE"]).doc("What is asked for."),
];
