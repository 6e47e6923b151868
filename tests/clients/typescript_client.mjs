// The TypeScript SDK's client through `redstreamd connect`; prints what it saw as one line of JSON.
// Arguments: the node_modules with the SDK, the redstreamd program, the daemon's socket.
import { createRequire } from "node:module";

const [modules, program, socket] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");
const { ResourceUpdatedNotificationSchema } = require("@modelcontextprotocol/sdk/types.js");

const client = new Client({ name: "typescript-client", version: "1" });
const transport = new StdioClientTransport({ command: program, args: ["connect", "--socket", socket] });
const seen = {};

const call = (name, args, options) => client.callTool({ name, arguments: args }, undefined, options);
const add = (stream, n) => call("stream_add", { stream, entries: [{ n }] });
const refusal = (promise) => promise.then(() => null, (error) => error.message);

await client.connect(transport);

// From here on the client checks the structured content of each result against the tool's output schema.
seen.checked = (await client.listTools()).tools.filter((tool) => tool.outputSchema).map((tool) => tool.name);
seen.added = (await add("ts:a:b", 1)).structuredContent;
seen.read = (await call("stream_read", { stream: "ts:a:b" })).structuredContent;
seen.failed = await call("work_done", { lease: "lease1.none" });

const uri = "redstream://streams/ts%3Aa%3Ab";
const updated = new Promise((resolve) =>
  client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => resolve(params.uri)),
);
await client.subscribeResource({ uri });
await add("ts:a:b", 2);
seen.updated = await updated;
seen.lastEntryId = JSON.parse((await client.readResource({ uri })).contents[0].text).last_entry_id;

// Two waits at once: one answered after it has told its progress, one given up at the first progress.
const waiting = (stream, options) =>
  call("stream_wait", { streams: [stream], timeout_seconds: 120 }, { timeout: 120_000, ...options });
const given = new AbortController();
const abandoned = refusal(
  waiting("ts:abandoned", { signal: given.signal, onprogress: () => given.abort("had enough") }),
);
let progress;
const answer = await waiting("ts:waited", {
  onprogress: (report) => {
    progress ??= report;
    void add("ts:waited", 3);
  },
});
seen.waited = answer.structuredContent;
seen.progress = progress;
seen.abandoned = await abandoned;

// The daemon has given it up as well, once nothing is in flight but the question.
let health;
do {
  health = JSON.parse((await client.readResource({ uri: "redstream://health" })).contents[0].text);
} while (health.clients.requests_in_flight > 1);
seen.inFlight = health.clients.requests_in_flight;

await client.close();
console.log(JSON.stringify(seen));
