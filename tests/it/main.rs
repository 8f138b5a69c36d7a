//! Everything that is tested against the real binary, over real sockets, in one test binary.

// The server, its clients and their devices: what every other module speaks through.
mod harness;
// The recorded answers of two released gateways, replayed against ours and held to a floor.
mod replay;
// What people do with the gateway.
mod stories;
// Sessions, as several clients see them at once.
mod sessions;
// Going back in a conversation, and on from there.
mod branches;
// What several people share around sessions: groups, files, who looks and who writes.
mod together;
// What waits for a person.
mod approvals;
// Commands in messages.
mod commands;
// Looking after the gateway while it runs.
mod upkeep;
// The models and agents that are configured.
mod catalog;
// The matrix of method and scope.
mod scopes;
// The published advisories, each under its id.
mod advisories;
// The same, of what agents run.
mod advisories_tools;
// Broken and hostile peers, files and machines.
mod bad_input;
// What a kill leaves behind.
mod durability;
// Turns with a model, as clients see them.
mod turns;
// Tools that look at the web.
mod web;
// Tools of other programs.
mod mcp;
// Pictures and files that come with messages.
mod attachments;
// What the defender decides about messages and tool calls.
mod judged;
// Tools: which there are, to whom, and calling one without a model.
mod tools;
// Conversations of more than two.
mod groups;
// Sandboxes, and every way out of them.
mod sandbox;
// Runs that a run starts.
mod subagents;
// What agents do to files.
mod files;
// Commands that an agent runs.
mod exec;
// Turns that are killed at every point.
mod chaos;
// Our own command line, as scripts use it.
mod command_line;
// Ways in, and what each leaves behind.
mod sign_in;
// Paired devices: their machine, their tokens, and how they get more.
mod devices;
// Setup codes, from the screen to the device.
mod setup_codes;
// Model providers as they are and as they fail, asked through the library.
mod providers;
// The gateway as OpenAI's clients see it.
mod openai;
// Conversations by the key of their session.
mod conversations;
// Talking to an agent whose model answers.
mod talk;
// What was spent.
mod usage;
// The port itself: paths, addresses, pipelining, signs of life.
mod transport;
// The house rules that a machine can read.
mod tidy;
