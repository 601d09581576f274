// Uses task queues with firebase-admin, and writes the code of each refusal; null is a success.
import { initializeApp } from "firebase-admin/app";
import { getFunctions } from "firebase-admin/functions";

initializeApp({ projectId: "demo" });
const [target] = process.argv.slice(2);
const queue = getFunctions().taskQueue("resize");
const missing = getFunctions().taskQueue("locations/europe-west1/functions/resize");

const calls = {
  enqueue: () => queue.enqueue({ width: 1 }, { id: "one", headers: { "X-Mine": "1" }, dispatchDeadlineSeconds: 30 }),
  duplicate: () => queue.enqueue({ width: 1 }, { id: "one" }),
  later: () => queue.enqueue({ width: 2 }, { id: "two", scheduleDelaySeconds: 3600 }),
  at: () => queue.enqueue({ width: 3 }, { id: "three", scheduleTime: new Date(Date.now() + 3600_000) }),
  tooLate: () => queue.enqueue({ width: 4 }, { scheduleTime: new Date("2999-01-01") }),
  elsewhere: () => queue.enqueue({ width: 5 }, { uri: target }),
  delete: () => queue.delete("two"),
  deleteAgain: () => queue.delete("two"),
  withoutQueue: () => missing.enqueue({}),
};
const codes = {};
for (const [name, call] of Object.entries(calls)) {
  codes[name] = await call().then(
    () => null,
    (error) => error.code,
  );
}
console.log(JSON.stringify(codes));
