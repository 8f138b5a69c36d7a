//! `memory.*`, `store.*`, `idempotency.*`, `config.*`: config.md sections 13 and 17.

use crate::config::schema::{ANY_INT, Row, choice, flag, int, number, open, path};

#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    open("memory").doc("Memory: upstream's back end and the reference's recall share the section."),
    choice("memory.backend", &["builtin", "qmd"]).or("\"builtin\"").doc("Back end."),
    choice("memory.citations", &["auto", "on", "off"]).or("\"auto\"").doc("Name the source of what is recalled."),
    flag("memory.enabled").or("true").alias(&["runtime.memoryEnabled"]).doc("Recall."),
    path("memory.vectorStorePath").otherwise("the store database")
        .alias(&["memory.zvecStorePath", "memory.vector.storePath", "memory.zvec.storePath", "runtime.memoryVectorStorePath"]).doc("Where the reference kept vectors."),
    path("memory.graphStorePath").otherwise("the store database")
        .alias(&["memory.graphliteStorePath", "memory.graph.storePath", "runtime.memoryGraphStorePath"]).doc("Where the reference kept the graph."),
    int("memory.maxEntries", 1, ANY_INT).or("20000").alias(&["runtime.memoryMaxEntries"]).doc("Most memories."),
    int("memory.recallTopK", 1, ANY_INT).or("8").alias(&["memory.topK", "runtime.memoryRecallTopK"]).doc("Memories recalled at once."),
    number("memory.recallMinScore", 0.0, 1.0).or("0.18").alias(&["memory.minScore", "runtime.memoryRecallMinScore"]).doc("Weakest memory recalled."),

    path("store.path").otherwise("`<state>/state.db`").restart().doc("The database."),
    choice("store.synchronous", &["normal", "full"]).otherwise("full for accepted intake, else normal").restart().doc("When writes reach the disk."),
    int("store.cache_kib", 1, 1_048_576).otherwise("256 for the connection that writes, 128 for each that reads").restart().now().doc("Page cache of each connection, in KiB."),
    int("store.busy_timeout_ms", 0, 600_000).or("5000").restart().now().doc("How long a locked database is waited for, in milliseconds."),

    path("idempotency.sendStorePath").otherwise("the store database").alias(&["idempotency.storePath", "runtime.idempotencyStorePath"]).doc("Where the reference kept sent keys."),
    int("idempotency.ttlMs", 1, ANY_INT).or("300000").alias(&["runtime.idempotencyTtlMs"]).floor(1000).doc("How long a sent key is remembered, in milliseconds; wins over `ttlSecs`."),
    int("idempotency.ttlSecs", 1, ANY_INT).doc("The same in seconds."),
    int("idempotency.maxEntries", 1, ANY_INT).or("4096").floor(32).doc("Most sent keys."),
    path("config.storePath").otherwise("the config file itself").alias(&["config.statePath", "runtime.configStorePath"]).doc("Separate document of the reference, merged over the file."),
];
