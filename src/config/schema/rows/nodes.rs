//! `nodeHost.*`, `devicePair.*`, `nodePair.*`: config.md section 11.

use crate::config::schema::{Kind, Row, any, flag, int, open, path, row, table, text, texts};

#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    table("nodeHost").alias(&["node.hostRuntime"]).doc("Node host on this machine."),
    row("nodeHost.localNodeIds", Kind::Texts { items_max: 128 }).or("[]").alias(&["runtime.localNodeIds"]).doc("Ids of the local node."),
    flag("nodeHost.allowSystemRun").or("false").alias(&["runtime.allowLocalSystemRun"]).doc("Allow it to run commands."),
    int("nodeHost.systemRunTimeoutMs", 500, 120_000).or("10000").alias(&["nodeHost.timeoutMs", "runtime.localSystemRunTimeoutMs"]).doc("Deadline of a command, in milliseconds."),
    flag("nodeHost.externalPersistent").or("false")
        .alias(&["nodeHost.hostPersistent", "nodeHost.persistent", "runtime.nodeHostExternalPersistent", "runtime.externalNodeHostPersistent"]).doc("Keep the external host running."),
    int("nodeHost.externalQueueCapacity", 1, 1024).or("32")
        .alias(&["nodeHost.hostQueueCapacity", "nodeHost.queueCapacity", "runtime.nodeHostExternalQueueCapacity"]).account().doc("Requests that wait for it."),
    int("nodeHost.externalIdleTimeoutMs", 1000, 600_000).or("30000")
        .alias(&["nodeHost.hostIdleTimeoutMs", "nodeHost.idleTimeoutMs", "runtime.nodeHostExternalIdleTimeoutMs"]).doc("When an idle host is stopped, in milliseconds."),
    text("nodeHost.externalCommand").alias(&["nodeHost.hostCommand", "nodeHost.command", "runtime.nodeHostCommand", "runtime.externalNodeHostCommand"]).account().doc("Program of the external host."),
    row("nodeHost.externalArgs", Kind::Texts { items_max: 32 }).alias(&["nodeHost.hostArgs", "runtime.nodeHostArgs"]).account().doc("Its arguments."),
    any("nodeHost.externalCommands").or("{}").alias(&["nodeHost.hostCommands", "runtime.nodeHostCommands"]).account().doc("Programs by command."),
    any("nodeHost.externalPlatforms").or("{}").alias(&["nodeHost.hostPlatforms"]).account().doc("Programs by platform."),
    open("nodeHost.browserProxy").doc("Browser of the node."),
    flag("nodeHost.browserProxy.enabled").or("true").doc("Offer it."),
    texts("nodeHost.browserProxy.allowProfiles").or("[]").doc("Which profiles."),
    path("devicePair.storePath").otherwise("the store database")
        .alias(&["devicePair.statePath", "device.pair.storePath", "runtime.devicePairStorePath"]).doc("Where the reference kept device pairings."),
    path("nodePair.storePath").otherwise("the store database")
        .alias(&["nodePair.statePath", "node.pair.storePath", "runtime.nodePairStorePath"]).doc("Where the reference kept node pairings."),
];
