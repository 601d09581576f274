// Uses one queue with firebase-admin over HTTP and with Google's client over gRPC, by the same variable.
import { CloudTasksClient } from "@google-cloud/tasks";
import { initializeApp } from "firebase-admin/app";
import { getFunctions } from "firebase-admin/functions";
import { grpc } from "google-gax";

const [servicePath, port] = process.env.CLOUD_TASKS_EMULATOR_HOST.split(":");
const client = new CloudTasksClient({ servicePath, port: Number(port), sslCreds: grpc.credentials.createInsecure() });
const [parent, name] = [client.locationPath("demo", "us-central1"), client.queuePath("demo", "us-central1", "both")];
await client.createQueue({ parent, queue: { name } });
await client.pauseQueue({ name });
initializeApp({ projectId: "demo" });
const functions = getFunctions().taskQueue("both");
await functions.enqueue({ width: 1 }, { id: "firebase", uri: "http://127.0.0.1:9/" });
await client.createTask({ parent: name, task: { name: `${name}/tasks/google`, httpRequest: { url: "http://127.0.0.1:9/" } } });
const [both] = await client.listTasks({ parent: name });
await functions.delete("google");
const [left] = await client.listTasks({ parent: name });
await client.close();
console.log(JSON.stringify([both, left].map((tasks) => tasks.map((task) => task.name.split("/").at(-1)).sort())));
