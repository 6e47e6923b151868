// The TypeScript SDK's client; prints what it saw as one line of JSON.
// Arguments: the node_modules with the SDK, and the words that start `redstreamd connect`, or the address of a daemon
// that serves HTTP and the name of a variable with a bearer token for it.
import { createRequire } from "node:module";
import net from "node:net";

const [modules, first, ...rest] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { ResourceUpdatedNotificationSchema } = require("@modelcontextprotocol/sdk/types.js");

const overHttp = first.startsWith("http://");
const seen = {};

// A way to the daemon of which all connections can be cut, as a network does that changes.
const links = new Set();
const proxy = net.createServer((client) => {
  const { hostname, port } = new URL(first);
  const link = [client, net.connect(Number(port), hostname)];
  links.add(link);
  link.forEach((end, which) => {
    end.on("error", () => {}).on("close", () => {
      links.delete(link);
      link.forEach((each) => each.destroy());
    });
    end.pipe(link[1 - which]);
  });
});
const cut = () => links.forEach((link) => link.forEach((end) => end.resetAndDestroy()));

const httpTransport = (port, options) => {
  const url = new URL(first);
  url.port = port ?? url.port;
  const headers = rest.length ? { Authorization: `Bearer ${process.env[rest[0]]}` } : {};
  return new StreamableHTTPClientTransport(url, { requestInit: { headers }, ...options });
};

if (overHttp) await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
const transport = overHttp
  ? httpTransport(proxy.address().port)
  : new StdioClientTransport({ command: first, args: rest });
const client = new Client({ name: "typescript-client", version: "1" });

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
const nextUpdate = () =>
  new Promise((resolve) =>
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => resolve(params.uri)),
  );
let updated = nextUpdate();
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

if (overHttp) {
  const other = new Client({ name: "another-client", version: "1" });
  await other.connect(httpTransport());
  const addMeanwhile = (stream, n) =>
    other.callTool({ name: "stream_add", arguments: { stream, entries: [{ n }] } });
  // A wait and a subscription live on when all connections are cut: what happens meanwhile is told afterwards.
  updated = nextUpdate();
  let happened;
  const resumed = await waiting("ts:resumed", {
    onprogress: () => {
      if (happened) return;
      cut();
      happened = Promise.all([addMeanwhile("ts:resumed", 4), addMeanwhile("ts:a:b", 5)]);
    },
  });
  await happened;
  seen.resumed = resumed.structuredContent;
  seen.updatedAfterCut = await updated;
  await other.close();
  // A session that its client has ended is not known any more.
  const { sessionId } = transport;
  await transport.terminateSession();
  const late = httpTransport(undefined, { sessionId });
  await late.start();
  seen.afterDelete = await late.send({ jsonrpc: "2.0", id: 1, method: "ping" }).then(
    () => null,
    ({ code }) => code,
  );
  await late.close();
}

await client.close();
proxy.close();
console.log(JSON.stringify(seen));
