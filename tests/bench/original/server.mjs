// The six tools of the original Red-Stream, rebuilt as its reference describes them: one process for each
// client, over standard input and output. Only there to be measured beside redstreamd.
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { createClient } from "redis";
import { z } from "zod";

const { REDIS_SOCKET, REDIS_HOST = "localhost", REDIS_PORT = "6379", REDIS_PASSWORD } = process.env;
const redis = createClient({
  socket: REDIS_SOCKET ? { path: REDIS_SOCKET } : { host: REDIS_HOST, port: Number(REDIS_PORT) },
  password: REDIS_PASSWORD,
});
redis.on("error", (error) => console.error(`redis: ${error.message}`));

const server = new McpServer({ name: "red-stream", version: "1.0.0" });
const name = z.string().min(1);
const messages = (entries) => (entries ?? []).map(({ id, message }) => ({ id, message }));

function tool(title, description, inputSchema, work) {
  server.registerTool(title, { description, inputSchema }, async (given) => {
    try {
      return { content: [{ type: "text", text: JSON.stringify(await work(given)) }] };
    } catch (error) {
      return { content: [{ type: "text", text: JSON.stringify({ error: error.message }) }], isError: true };
    }
  });
}

tool(
  "add_stream_message",
  "Add a message to a stream",
  { stream: name, message: z.record(z.string(), z.unknown()) },
  async ({ stream, message }) => {
    const fields = {};
    for (const [key, value] of Object.entries(message)) {
      fields[key] = typeof value === "string" ? value : JSON.stringify(value);
    }
    return { id: await redis.xAdd(stream, "*", fields) };
  },
);

tool(
  "get_stream_messages",
  "Read messages of a stream",
  { stream: name, count: z.number().int().positive().default(1), start: z.string().default("0") },
  async ({ stream, count, start }) => messages(await redis.xRange(stream, start, "+", { COUNT: count })),
);

tool(
  "create_consumer_group",
  "Create a consumer group",
  { stream: name, group: name, start: z.string().default("$") },
  async ({ stream, group, start }) => {
    try {
      await redis.xGroupCreate(stream, group, start, { MKSTREAM: true });
      return { success: true };
    } catch (error) {
      if (!error.message.startsWith("BUSYGROUP")) throw error;
      return { success: true, note: "The group exists." };
    }
  },
);

tool(
  "read_group",
  "Read new messages as a consumer of a group",
  { stream: name, group: name, consumer: name, count: z.number().int().positive().default(1) },
  async ({ stream, group, consumer, count }) => {
    const found = await redis.xReadGroup(group, consumer, { key: stream, id: ">" }, { COUNT: count });
    return messages(found?.[0]?.messages);
  },
);

tool("list_groups", "List the consumer groups of a stream", { stream: name }, async ({ stream }) =>
  (await redis.xInfoGroups(stream)).map((group) => ({
    name: group.name,
    consumers: group.consumers,
    pending: group.pending,
    lastDeliveredId: group["last-delivered-id"],
  })),
);

tool("list_streams", "List streams", { pattern: z.string().default("*") }, async ({ pattern }) => {
  const streams = [];
  for await (const found of redis.scanIterator({ MATCH: pattern, TYPE: "stream", COUNT: 1000 })) {
    streams.push(...[found].flat());
  }
  return { streams };
});

await redis.connect();
await server.connect(new StdioServerTransport());
process.stdin.on("end", () => process.exit(0));
