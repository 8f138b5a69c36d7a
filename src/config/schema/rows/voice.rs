//! `talk.*`, `voice.*`, `voicewake.*`, `audio.*`: config.md section 12.

use crate::config::schema::{ANY_INT, Kind, Row, any, choice, flag, int, map, open, row, secret, text, texts};

#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    open("talk").doc("Talk mode."),
    text("talk.voiceId").env(&["ELEVENLABS_VOICE_ID", "SAG_VOICE_ID"]).doc("Voice."),
    map("talk.voiceAliases").or("{}").doc("Voices by name."),
    text("talk.voiceAliases.*").doc("Voice id."),
    text("talk.modelId").or("\"eleven_v3\"").doc("Speech model."),
    text("talk.outputFormat").or("\"pcm16\"").doc("Sound format."),
    secret("talk.apiKey").env(&["ELEVENLABS_API_KEY"]).doc("Key of the speech service."),
    flag("talk.interruptOnSpeech").or("true").doc("Stop speaking when the user speaks."),
    int("talk.silenceMs", 1, ANY_INT).or("1200").doc("Silence that ends an utterance, in milliseconds."),
    map("talk.providers").doc("Speech services by id, as later upstream releases write them."),
    open("talk.providers.*").doc("One service."),
    secret("talk.providers.*.apiKey").doc("Its key."),
    text("voice.stt.bin").env(&["OPENCLAW_RS_TINYWHISPER_BIN"]).doc("Speech recognition program."),
    texts("voice.stt.args").env(&["OPENCLAW_RS_TINYWHISPER_ARGS"]).doc("Its arguments."),
    text("voice.stt.language").doc("Language it hears."),
    text("voice.inputDevice").chars(128).or("\"default-microphone\"").doc("Microphone."),
    text("voice.outputDevice").chars(128).or("\"default-speaker\"").doc("Speaker."),
    choice("voice.backend", &["auto", "alsa", "pulse", "pipewire", "none"]).or("\"auto\"").restart().doc("Sound system."),
    open("voicewake").doc("Wake words."),
    row("voicewake.triggers", Kind::Texts { items_max: 32 }).or(r#"["openclaw","claude","computer"]"#).doc("Words that wake it."),
    flag("voicewake.enabled").or("false").doc("Listen on this machine."),
    any("audio").doc("Older form of `tools.media.audio`."),
];
