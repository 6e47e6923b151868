// The TypeScript SDK's client through `redstreamd connect`: it adds entries and reads, several at a time, until its
// input ends. Prints a line of JSON for each call, and one at the end about all requests.
// Arguments: the node_modules with the SDK, the bridge's words, a stream, how many calls are in flight.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";

const [modules, ...words] = process.argv.slice(2);
const inFlight = Number(words.pop());
const stream = words.pop();
const [command, ...args] = words;
const require = createRequire(`${modules}/`);
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");

const client = new Client({ name: "typescript-client", version: "1" });
const transport = new StdioClientTransport({ command, args });
const sent = [];
const answers = new Map();
const errors = [];
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

let wanted = true;
process.stdin.on("end", () => (wanted = false)).resume();

client.onerror = (error) => errors.push(error.message);
client.onclose = () => wanted && errors.push("the connection was closed");
const send = transport.send.bind(transport);
transport.send = (message) => {
  if ("id" in message && "method" in message) sent.push(message.id);
  return send(message);
};
await client.connect(transport);
const deliver = transport.onmessage;
transport.onmessage = (message, extra) => {
  if ("id" in message && !("method" in message)) answers.set(message.id, (answers.get(message.id) ?? 0) + 1);
  deliver(message, extra);
};
// That of the handshake came before it was counted.
answers.set(sent[0], 1);

const call = async (name, given) => {
  try {
    const { structuredContent, isError } = await client.callTool({ name, arguments: given });
    return isError ? { error: structuredContent } : { content: structuredContent };
  } catch ({ code, message, data }) {
    return { error: { code, message, data } };
  }
};

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const add = async (number, keyed) => {
  const body = createHash("sha256").update(String(number)).digest("hex");
  const given = { stream, entries: [{ n: number, body }], ...(keyed && { idempotency_key: `key ${number}` }) };
  let attempts = 0;
  let answer;
  do {
    if (attempts > 0) await pause(50);
    attempts += 1;
    answer = await call("stream_add", given);
  } while (keyed && answer.error && wanted);
  const { ids: [id] = [null], duplicate = false } = answer.content ?? {};
  print({ number, keyed, id, duplicate, attempts, error: answer.error ?? null });
};

let next = 0;
const goOn = async () => {
  while (wanted) {
    // Others need the processor, too.
    await pause(20);
    const number = next++;
    if (number % 3 < 2) {
      await add(number, number % 3 === 0);
    } else {
      const { error } = await call("stream_read", { stream, count: 1 });
      print({ error: error && error.code !== "STREAM_NOT_FOUND" ? error : null });
    }
  }
};
await Promise.all(Array.from({ length: inFlight }, goOn));
await client.close();
print({ sent, answers: [...answers].map(([id, times]) => ({ id, times })), errors });
