// Streams a text from a server, on a session that the next call could go on with.
//
//   npm install
//   node generate.js "Once upon a time"
//   CAROUSEL_ADDRESS=host:50051 node generate.js "Once upon a time" --temperature 0.5

import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protos from "google-proto-files";

import { explain } from "./errors.js";

const ours = fileURLToPath(new URL("../../proto", import.meta.url));
const theirs = protos.getProtoPath("..");
const { carousel } = grpc.loadPackageDefinition(
  loader.loadSync(["carousel/v1/language_model.proto", "carousel/v1/sessions.proto"], {
    includeDirs: [ours, theirs],
    keepCase: true, // names as in the proto files
    longs: String, // a seed does not fit into a number
    enums: String,
    defaults: true,
  }),
);

const address = process.env.CAROUSEL_ADDRESS ?? "127.0.0.1:50051";
const credentials = grpc.credentials.createInsecure();
const sessions = new carousel.v1.Sessions(address, credentials);
const model = new carousel.v1.LanguageModel(address, credentials);

// The id is for balancers as well: calls of one session that carry it reach the same replica.
function about(sessionId) {
  const metadata = new grpc.Metadata();
  metadata.set("x-session-id", sessionId);
  return metadata;
}

function createSession() {
  return new Promise((resolve, reject) => {
    sessions.createSession({ request_id: crypto.randomUUID() }, (error, session) => (error ? reject(error) : resolve(session)));
  });
}

async function generate(prompt, temperature) {
  const session = await createSession();
  const request = {
    session_id: session.session_id,
    request_id: crypto.randomUUID(), // makes a repeat of this call safe
    input: { text: prompt },
    sampling: { temperature },
    max_tokens: 40,
    content: "CONTENT_TEXT",
  };
  process.stdout.write(prompt);
  for await (const response of model.generate(request, about(session.session_id))) {
    process.stdout.write(response.text);
    if (response.finished) {
      const { num_generated_tokens: count, seed, position } = response.finished;
      console.log(`\n${count} tokens, seed ${seed}; session ${session.session_id} is at position ${position}`);
    }
  }
}

const { values, positionals } = parseArgs({ allowPositionals: true, options: { temperature: { type: "string" } } });
try {
  await generate(positionals[0] ?? "Once upon a time", Number(values.temperature ?? "0.7"));
} catch (error) {
  const found = explain(error);
  console.error(`\n${found.code} ${found.reason}: ${found.message}`);
  for (const { field, description } of found.violations) console.error(`  field ${field}: ${description}`);
  if (found.retryAfterSeconds !== undefined) console.error(`  try again in ${found.retryAfterSeconds} s`);
  process.exitCode = 1;
} finally {
  sessions.close();
  model.close();
}
