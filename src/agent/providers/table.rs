//! The built-in providers: where they are, which variables hold their keys, and what is odd about them (MODEL-01, -08,
//! -09, -13). One row each; everything a row says can be configured otherwise.

use super::format::Api;

/// A provider that is known without being configured.
#[derive(Debug)]
pub struct Builtin {
    /// Its id.
    pub id: &'static str,
    /// Other ids that mean it.
    pub aliases: &'static [&'static str],
    /// Where its API is; empty: only the configuration knows.
    pub base_url: &'static str,
    /// Variables that hold its key, the first that is set counts.
    pub env: &'static [&'static str],
    /// Which API it speaks.
    pub api: Api,
    /// Whether it answers without a key.
    pub is_key_optional: bool,
    /// What its API leaves out or names differently.
    pub quirks: Quirks,
    /// Headers of every request.
    pub headers: &'static [(&'static str, &'static str)],
    /// Providers asked after it, in order, when they have credentials (MODEL-50).
    pub fallbacks: &'static [&'static str],
}

/// What an API that calls itself compatible leaves out or names differently; `compat` of a model says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// The field that limits the answer.
    pub max_tokens: MaxTokensField,
    /// Whether instructions to a reasoning model go under the role `developer`.
    pub developer_role: bool,
    /// Whether it counts tokens in a stream when asked to.
    pub stream_usage: bool,
    /// Whether it knows `store`.
    pub store: bool,
    /// Whether tools may say `strict`.
    pub strict_tools: bool,
    /// How it is told to think.
    pub thinking: ThinkingFormat,
    /// Whether what a tool answered names the tool.
    pub tool_result_name: bool,
    /// Whether an assistant's message must stand between a tool's answer and a person's message.
    pub assistant_after_tool: bool,
    /// Whether thoughts go back as text.
    pub thinking_as_text: bool,
    /// Whether ids of tool calls are nine letters and digits.
    pub short_call_ids: bool,
    /// Whether the thoughts of a turn in which tools are called must go back as they came.
    pub keeps_thoughts: bool,
}

/// The field that limits an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxTokensField {
    /// `max_tokens`.
    MaxTokens,
    /// `max_completion_tokens`.
    MaxCompletionTokens,
}

/// How a model is told to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinkingFormat {
    /// Not at all: it thinks as it likes.
    None,
    /// `reasoning_effort`.
    OpenAi,
    /// `reasoning: {effort}`.
    OpenRouter,
    /// `thinking: {type}`.
    Zai,
    /// `enable_thinking`.
    Qwen,
}

/// What most compatible servers take.
pub const COMPATIBLE: Quirks = Quirks {
    max_tokens: MaxTokensField::MaxTokens,
    developer_role: false,
    stream_usage: true,
    store: false,
    strict_tools: false,
    thinking: ThinkingFormat::OpenAi,
    tool_result_name: false,
    assistant_after_tool: false,
    thinking_as_text: false,
    short_call_ids: false,
    keeps_thoughts: false,
};
const OPENAI: Quirks = Quirks {
    max_tokens: MaxTokensField::MaxCompletionTokens,
    developer_role: true,
    store: true,
    strict_tools: true,
    ..COMPATIBLE
};
const NO_EFFORT: Quirks = Quirks { thinking: ThinkingFormat::None, ..COMPATIBLE };
const KEEPS_THOUGHTS: Quirks = Quirks { thinking: ThinkingFormat::None, keeps_thoughts: true, ..COMPATIBLE };
const MISTRAL: Quirks = Quirks {
    stream_usage: false,
    thinking: ThinkingFormat::None,
    tool_result_name: true,
    assistant_after_tool: true,
    thinking_as_text: true,
    short_call_ids: true,
    ..COMPATIBLE
};
const ZAI: Quirks = Quirks { thinking: ThinkingFormat::Zai, keeps_thoughts: true, ..COMPATIBLE };
const QWEN: Quirks = Quirks { thinking: ThinkingFormat::Qwen, ..COMPATIBLE };
const OPENROUTER: Quirks = Quirks { thinking: ThinkingFormat::OpenRouter, ..COMPATIBLE };

const fn row(id: &'static str, base_url: &'static str, env: &'static [&'static str]) -> Builtin {
    Builtin {
        id,
        aliases: &[],
        base_url,
        env,
        api: Api::OpenAiCompletions,
        is_key_optional: false,
        quirks: COMPATIBLE,
        headers: &[],
        fallbacks: &["openai"],
    }
}

impl Builtin {
    const fn alias(self, aliases: &'static [&'static str]) -> Builtin {
        Builtin { aliases, ..self }
    }

    const fn api(self, api: Api) -> Builtin {
        Builtin { api, ..self }
    }

    /// Answers without a key, and stands in for nobody.
    const fn open(self) -> Builtin {
        Builtin { is_key_optional: true, fallbacks: &[], ..self }
    }

    const fn quirks(self, quirks: Quirks) -> Builtin {
        Builtin { quirks, ..self }
    }

    const fn headers(self, headers: &'static [(&'static str, &'static str)]) -> Builtin {
        Builtin { headers, ..self }
    }

    const fn then(self, fallbacks: &'static [&'static str]) -> Builtin {
        Builtin { fallbacks, ..self }
    }
}

const ZHIPU_ENV: &[&str] = &["ZHIPUAI_API_KEY", "BIGMODEL_API_KEY", "ZAI_API_KEY", "Z_AI_API_KEY"];

/// All of them. The first with credentials is asked when no model is configured.
#[rustfmt::skip]
pub static BUILTIN: &[Builtin] = &[
    row("anthropic", "https://api.anthropic.com", &["ANTHROPIC_API_KEY", "ANTHROPIC_OAUTH_TOKEN"]).api(Api::AnthropicMessages)
        .alias(&["claude", "claude-code", "claude-code-cli", "claude-cli", "claude-desktop"]),
    row("openai", "https://api.openai.com/v1", &["OPENAI_API_KEY"]).quirks(OPENAI).alias(&["chatgpt"]).then(&["openai-codex", "anthropic"]),
    row("openai-codex", "https://api.openai.com/v1", &["OPENAI_API_KEY", "CODEX_API_KEY"]).api(Api::OpenAiResponses).quirks(OPENAI)
        .alias(&["codex", "codex-cli"]).then(&["openai", "anthropic"]),
    row("google", "https://generativelanguage.googleapis.com/v1beta", &["GEMINI_API_KEY", "GOOGLE_API_KEY"]).api(Api::GoogleGenerativeAi)
        .alias(&["gemini", "google-gemini-cli"]),
    row("openrouter", "https://openrouter.ai/api/v1", &["OPENROUTER_API_KEY"]).quirks(OPENROUTER)
        .headers(&[("HTTP-Referer", "https://openclaw.ai"), ("X-Title", "OpenClaw")]),
    row("groq", "https://api.groq.com/openai/v1", &["GROQ_API_KEY"]),
    row("cerebras", "https://api.cerebras.ai/v1", &["CEREBRAS_API_KEY"]).alias(&["cerebras-cloud"])
        .headers(&[("X-Cerebras-3rd-Party-Integration", "openclaw")]),
    row("xai", "https://api.x.ai/v1", &["XAI_API_KEY"]).quirks(NO_EFFORT).alias(&["grok", "x-ai"]),
    row("deepseek", "https://api.deepseek.com/v1", &["DEEPSEEK_API_KEY"]).quirks(KEEPS_THOUGHTS),
    row("deepinfra", "https://api.deepinfra.com/v1/openai", &["DEEPINFRA_API_KEY"]).alias(&["deep-infra"]),
    row("perplexity", "https://api.perplexity.ai", &["PERPLEXITY_API_KEY"]),
    row("fireworks", "https://api.fireworks.ai/inference/v1", &["FIREWORKS_API_KEY"]).alias(&["fireworks-ai"]),
    row("sambanova", "https://api.sambanova.ai/v1", &["SAMBANOVA_API_KEY"]),
    row("mistral", "https://api.mistral.ai/v1", &["MISTRAL_API_KEY"]).quirks(MISTRAL),
    row("cohere", "https://api.cohere.com/compatibility/v1", &["COHERE_API_KEY"]).quirks(NO_EFFORT),
    row("together", "https://api.together.xyz/v1", &["TOGETHER_API_KEY"]).alias(&["together-ai", "togetherai"]),
    row("moonshot", "https://api.moonshot.ai/v1", &["MOONSHOT_API_KEY"]).quirks(KEEPS_THOUGHTS).alias(&["moonshotai", "moonshotai-cn"]),
    row("nvidia", "https://integrate.api.nvidia.com/v1", &["NVIDIA_API_KEY"]).alias(&["nvidia-nim"]),
    row("qianfan", "https://qianfan.baidubce.com/v2", &["QIANFAN_API_KEY"]),
    row("qwen-portal", "https://portal.qwen.ai/v1", &["QWEN_PORTAL_API_KEY", "QWEN_OAUTH_TOKEN"]).quirks(QWEN)
        .alias(&["qwen", "qwen-chat", "qwen3.5", "qwen-3.5", "qwen35"]),
    row("inception", "https://api.inceptionlabs.ai/v1", &["INCEPTION_API_KEY", "MERCURY_API_KEY"])
        .alias(&["inception-labs", "inceptionlabs", "mercury", "mercury2", "mercury-2"]),
    row("zai", "https://api.z.ai/api/paas/v4", &["ZAI_API_KEY", "Z_AI_API_KEY"]).quirks(ZAI).alias(&["z.ai", "z-ai", "zaiweb", "zai-web"]),
    row("zhipuai", "https://open.bigmodel.cn/api/paas/v4", ZHIPU_ENV).quirks(ZAI).alias(&["zhipu", "zhipu-ai", "bigmodel", "bigmodel-cn"]),
    row("zhipuai-coding", "https://open.bigmodel.cn/api/coding/paas/v4", ZHIPU_ENV).quirks(ZAI).alias(&["zhipu-coding", "bigmodel-coding"]),
    row("opencode", "https://opencode.ai/zen/v1", &["OPENCODE_API_KEY", "OPENCODE_ZEN_API_KEY"]).open()
        .alias(&["opencode-zen", "opencode-go", "opencodefree", "opencode_free"]),
    row("kimi-coding", "https://api.kimi.com/coding", &["KIMI_API_KEY", "KIMICODE_API_KEY"]).api(Api::AnthropicMessages)
        .alias(&["kimi-code", "kimi-for-coding"]),
    row("minimax", "https://api.minimax.io/anthropic", &["MINIMAX_API_KEY"]).api(Api::AnthropicMessages),
    row("volcengine", "https://ark.cn-beijing.volces.com/api/v3", &["VOLCANO_ENGINE_API_KEY"]).alias(&["bytedance", "doubao"]),
    row("byteplus", "https://api.byteplus.com/v1", &["BYTEPLUS_API_KEY"]),
    row("siliconflow", "https://api.siliconflow.cn/v1", &["SILICONFLOW_API_KEY"]).alias(&["silicon-flow"]),
    row("novita", "https://api.novita.ai/v3/openai", &["NOVITA_API_KEY"]).alias(&["novita-ai"]),
    row("hyperbolic", "https://api.hyperbolic.xyz/v1", &["HYPERBOLIC_API_KEY"]),
    row("nebius", "https://api.studio.nebius.com/v1", &["NEBIUS_API_KEY"]),
    row("inference-net", "https://api.inference.net/v1", &["INFERENCE_NET_API_KEY"]).alias(&["inference", "inference.net", "inferencenet"]),
    row("aimlapi", "https://api.aimlapi.com/v1", &["AIMLAPI_API_KEY"]).alias(&["aimlapi.com"]),
    row("huggingface", "https://api-inference.huggingface.co/v1", &["HUGGINGFACE_HUB_TOKEN", "HF_TOKEN"]),
    row("venice", "https://api.venice.ai/api/v1", &["VENICE_API_KEY"]),
    row("chutes", "https://llm.chutes.ai/v1", &["CHUTES_API_KEY"]),
    row("ollama", "http://127.0.0.1:11434/v1", &["OLLAMA_API_KEY"]).open(),
    row("vllm", "http://127.0.0.1:8000/v1", &["VLLM_API_KEY"]).open(),
    row("litellm", "http://127.0.0.1:4000/v1", &["LITELLM_API_KEY"]).open(),
    row("lmstudio", "http://127.0.0.1:1234/v1", &["LMSTUDIO_API_KEY"]).open().alias(&["lm-studio"]),
    row("localai", "http://127.0.0.1:8080/v1", &["LOCALAI_API_KEY"]).open().alias(&["local-ai"]),
    row("llamacpp", "http://127.0.0.1:8080/v1", &["LLAMACPP_API_KEY"]).open().alias(&["llama.cpp", "llama-cpp", "llama-cpp-server"]),
    row("tgi", "http://127.0.0.1:8080/v1", &["TGI_API_KEY"]).open().alias(&["huggingface-tgi", "hf-tgi", "text-generation-inference"]),
    row("gpt4all", "http://127.0.0.1:4891/v1", &["GPT4ALL_API_KEY"]).open().alias(&["gpt-4all"]),
    row("koboldcpp", "http://127.0.0.1:5001/v1", &["KOBOLDCPP_API_KEY"]).open().alias(&["kobold-cpp"]),
    row("oobabooga", "http://127.0.0.1:5000/v1", &["OOBABOOGA_API_KEY"]).open().alias(&["text-generation-webui", "oobabooga-webui"]),
    // Their address is each user's own.
    row("azure-openai", "", &["AZURE_OPENAI_API_KEY"]).quirks(OPENAI).alias(&["azure", "azure-openai-service"]),
    row("vertex-ai", "", &[]).alias(&["vertex", "google-vertex"]),
    row("bedrock", "", &[]).alias(&["amazon-bedrock"]),
    row("github-models", "", &["GITHUB_TOKEN"]).alias(&["github-model"]),
    row("vercel-ai-gateway", "", &["AI_GATEWAY_API_KEY"]).alias(&["vercel-ai", "ai-gateway"]),
    row("shareai", "", &["SHAREAI_API_KEY"]).alias(&["share-ai"]),
    row("bifrost", "", &["BIFROST_API_KEY"]).alias(&["maxim-bifrost", "bifrost-maxim"]),
];

/// The row of a provider, by id or alias.
pub fn find(id: &str) -> Option<&'static Builtin> {
    let id = id.trim().to_lowercase();
    BUILTIN.iter().find(|row| row.id == id || row.aliases.contains(&id.as_str()))
}

/// The row whose API an address belongs to: a provider configured under a name of its own is still as odd as it is.
pub fn by_host(base_url: &str) -> Option<&'static Builtin> {
    let host = host(base_url)?;
    let is_local = host.starts_with("127.") || host == "localhost" || host == "[::1]";
    BUILTIN.iter().find(|row| !is_local && self::host(row.base_url) == Some(host))
}

/// The host of an address, without port.
fn host(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => host,
    };
    (!host.is_empty()).then_some(host)
}

/// The id a provider goes by: lower case, aliases resolved.
pub fn canonical(id: &str) -> String {
    find(id).map_or_else(|| id.trim().to_lowercase(), |row| row.id.to_owned())
}

/// The id a model goes by at its provider, and who that is (MODEL-02, -03).
pub fn canonical_model(provider: &str, model: &str) -> (String, String) {
    let is_codex = |rest: &str| rest.is_empty() || rest.starts_with('-');
    match provider {
        "openai" if model.strip_prefix("gpt-5.3-codex").is_some_and(is_codex) => {
            ("openai-codex".to_owned(), model.to_owned())
        }
        "anthropic" => {
            let full = match model {
                "opus-4.6" => "claude-opus-4-6",
                "opus-4.5" => "claude-opus-4-5",
                "sonnet-4.6" => "claude-sonnet-4-6",
                "sonnet-4.5" => "claude-sonnet-4-5",
                other => other,
            };
            (provider.to_owned(), full.to_owned())
        }
        _ => (provider.to_owned(), model.to_owned()),
    }
}

/// Short names of models, where the configuration does not give them another meaning (MODEL-04).
pub static MODEL_ALIASES: &[(&str, &str)] = &[
    ("opus", "anthropic/claude-opus-5"),
    ("sonnet", "anthropic/claude-sonnet-5"),
    ("gpt", "openai/gpt-5.4"),
    ("gpt-mini", "openai/gpt-5.4-mini"),
    ("gpt-nano", "openai/gpt-5.4-nano"),
    ("gemini", "google/gemini-3.1-pro-preview"),
    ("gemini-flash", "google/gemini-3-flash-preview"),
    ("gemini-flash-lite", "google/gemini-3.1-flash-lite"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_name_means_two_providers() {
        let mut seen = BTreeSet::new();
        for row in BUILTIN {
            for name in row.aliases.iter().chain([&row.id]) {
                assert!(seen.insert(*name), "{name} twice");
                assert_eq!(*name, name.to_lowercase());
            }
            for next in row.fallbacks {
                assert!(BUILTIN.iter().any(|other| other.id == *next), "{} falls back to {next}", row.id);
            }
        }
    }

    #[test]
    fn aliases_and_shorthands_resolve() {
        let cases =
            [("Z.AI", "zai"), ("gemini", "google"), ("doubao", "volcengine"), ("codex", "openai-codex"), ("x", "x")];
        for (alias, id) in cases {
            assert_eq!(canonical(alias), id);
        }
        let cases = [
            ("openai", "gpt-5.3-codex", "openai-codex", "gpt-5.3-codex"),
            ("openai", "gpt-5.3-codex-max", "openai-codex", "gpt-5.3-codex-max"),
            ("openai", "gpt-5.3-codexx", "openai", "gpt-5.3-codexx"),
            ("openai", "gpt-5.3", "openai", "gpt-5.3"),
            ("anthropic", "sonnet-4.5", "anthropic", "claude-sonnet-4-5"),
        ];
        for (provider, model, to_provider, to_model) in cases {
            assert_eq!(canonical_model(provider, model), (to_provider.to_owned(), to_model.to_owned()));
        }
    }

    #[test]
    fn an_address_tells_whose_quirks_to_expect() {
        assert_eq!(by_host("https://api.mistral.ai/v1/").map(|row| row.id), Some("mistral"));
        assert_eq!(by_host("https://user@api.mistral.ai:443/x").map(|row| row.id), Some("mistral"));
        for other in ["http://127.0.0.1:8080/v1", "http://mistral.ai/v1", "nonsense", ""] {
            assert!(by_host(other).is_none(), "{other}");
        }
    }
}
