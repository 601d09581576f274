// Uses every verb of Google's client for Cloud Tasks, and writes what came of it.
//   node google-tasks.mjs grpc|rest HOST:PORT LOCATION QUEUE URL
import { CloudTasksClient } from "@google-cloud/tasks";
import { OAuth2Client } from "google-auth-library";
import { credentials } from "@grpc/grpc-js";

const [transport, address, location, queueId, url] = process.argv.slice(2);
const [apiEndpoint, port] = address.split(":");
// The emulator takes no token; REST sends one all the same.
const authClient = new OAuth2Client();
authClient.setCredentials({ access_token: "owner" });
const client = new CloudTasksClient({
  apiEndpoint,
  port: Number(port),
  projectId: "demo",
  ...(transport === "rest"
    ? { fallback: "rest", protocol: "http", authClient }
    : { sslCreds: credentials.createInsecure() }),
});

// Google's client tries some errors again, and each of these is wanted.
const once = { retry: null };
const code = async (call) => {
  try {
    await call;
    return null;
  } catch (error) {
    return error.code;
  }
};
const hour = Math.floor(Date.now() / 1000) + 3600;
const queue = client.queuePath("demo", location, queueId);
const task = (name) => client.taskPath("demo", location, queueId, name);
const result = {};

const [made] = await client.createQueue({
  parent: client.locationPath("demo", location),
  queue: { name: queue, rateLimits: { maxDispatchesPerSecond: 50 }, retryConfig: { maxAttempts: 3 } },
});
result.queue = { name: made.name, state: made.state, rate: made.rateLimits.maxDispatchesPerSecond };
result.again = await code(client.createQueue({ parent: client.locationPath("demo", location), queue: { name: queue } }, once));
result.paused = (await client.pauseQueue({ name: queue }))[0].state;
for (let number = 0; number < 5; number++) {
  await client.createTask({
    parent: queue,
    task: { name: task(`later-${number}`), scheduleTime: { seconds: hour + number }, httpRequest: { url } },
  });
}
result.pages = [];
for (let pageToken = ""; ; ) {
  const [tasks, , page] = await client.listTasks({ parent: queue, pageSize: 2, pageToken }, { autoPaginate: false });
  result.pages.push(tasks.length);
  pageToken = page?.nextPageToken;
  if (!pageToken) break;
}
result.listed = [];
for await (const one of client.listTasksAsync({ parent: queue, pageSize: 2 })) result.listed.push(one.name.split("/").pop());
const [later] = await client.getTask({ name: task("later-1"), responseView: "FULL" });
result.later = { seconds: Number(later.scheduleTime.seconds) - hour, view: later.view };

await client.deleteTask({ name: task("later-0") });
result.deleted = await code(client.getTask({ name: task("later-0") }, once));
result.purged = (await client.purgeQueue({ name: queue }))[0].name;
result.left = (await client.listTasks({ parent: queue }))[0].length;
result.resumed = (await client.resumeQueue({ name: queue }))[0].state;
result.missing = await code(client.getQueue({ name: `${queue}-missing` }, once));
result.invalid = await code(client.createTask({ parent: queue, task: { httpRequest: { url: "no url" } } }, once));
const [updated] = await client.updateQueue({
  queue: { name: queue, retryConfig: { maxAttempts: 7 } },
  updateMask: { paths: ["retry_config.max_attempts"] },
});
result.updated = { attempts: updated.retryConfig.maxAttempts, rate: updated.rateLimits.maxDispatchesPerSecond };
const [signed] = await client.createTask({
  parent: queue,
  task: {
    name: task("signed"),
    httpRequest: {
      url,
      httpMethod: "PUT",
      headers: { "Content-Type": "application/json", "X-Day": "2013-01-01" },
      body: Buffer.from(JSON.stringify({ text: "naïve ✓", bytes: "\u0000" })),
      oidcToken: { serviceAccountEmail: "worker@demo.iam.gserviceaccount.com", audience: "reports" },
    },
    dispatchDeadline: { seconds: 60 },
  },
});
result.signed = { name: signed.name, deadline: Number(signed.dispatchDeadline.seconds) };
result.taken = await code(client.createTask({ parent: queue, task: { name: task("signed"), httpRequest: { url } } }, once));

const other = `${queue}-deleted`;
await client.createQueue({ parent: client.locationPath("demo", location), queue: { name: other } });
await client.deleteQueue({ name: other });
result.gone = await code(client.getQueue({ name: other }, once));

await client.close();
console.log(JSON.stringify(result));
