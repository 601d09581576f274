// Serves a task queue function as Firebase's functions emulator does, enqueues a task, and writes how it was called.
import { once } from "node:events";
import express from "express";
import { initializeApp } from "firebase-admin/app";
import { getFunctions } from "firebase-admin/functions";
import { HttpsError } from "firebase-functions/https";
import { onTaskDispatched } from "firebase-functions/tasks";

const failures = ["failed-precondition", "unavailable"]; // of the first attempts: statuses 400 and 503
const calls = [];
let finish;
const finished = new Promise((resolve) => (finish = resolve));

const resize = onTaskDispatched(
  { retryConfig: { maxAttempts: 5, minBackoffSeconds: 0.1 }, rateLimits: { maxConcurrentDispatches: 6 } },
  ({ auth, data, executionCount, headers, id, previousResponse, queueName, retryCount, scheduledTime }) => {
    const call = { data, executionCount, id, previousResponse, queueName, retryCount, mine: headers["x-mine"] };
    calls.push({ ...call, scheduledTime: Number(scheduledTime), email: auth?.token.email, audience: auth?.token.aud });
    if (retryCount < failures.length) throw new HttpsError(failures[retryCount], "not yet");
    finish();
  },
);

const server = express().use(express.json()).post("/demo/us-central1/resize", resize).listen(0, "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${server.address().port}/demo/us-central1/resize`;
const json = { method: "POST", headers: { "Content-Type": "application/json" } };

// firebase-tools sends this for each function that it loads.
const queue = `http://${process.env.CLOUD_TASKS_EMULATOR_HOST}/projects/demo/locations/us-central1/queues/resize`;
const settings = JSON.stringify({ ...resize.__endpoint.taskQueueTrigger, defaultUri: url });
const { taskQueueConfig } = await (await fetch(queue, { ...json, body: settings })).json();

initializeApp({ projectId: "demo" });
await getFunctions().taskQueue("resize").enqueue({ width: 100 }, { id: process.argv[2], headers: { "X-Mine": "1" } });
await finished;
const stranger = await fetch(url, { ...json, body: JSON.stringify({ data: { width: 0 } }) });
server.close();
server.closeAllConnections();
console.log(JSON.stringify({ taskQueueConfig, calls: calls.slice(0, failures.length + 1), url, stranger: stranger.status }));
