// What a failed call means: the server attaches google.rpc messages to every error.

import grpc from "@grpc/grpc-js";
import protos from "google-proto-files";

const root = protos.loadSync([
  protos.getProtoPath("rpc", "status.proto"),
  protos.getProtoPath("rpc", "error_details.proto"),
]);
const Status = root.lookupType("google.rpc.Status");

// Of an error that grpc-js reports: `reason` is the server's stable name for it, empty where the error is not the server's
// (no connection, a deadline); `facts` go with the reason; `violations` name the fields that were refused.
// `retryAfterSeconds` is set where trying again may help.
export function explain(error) {
  const details = readDetails(error);
  const info = details["google.rpc.ErrorInfo"];
  const delay = details["google.rpc.RetryInfo"]?.retryDelay;
  return {
    code: grpc.status[error.code],
    message: error.details,
    reason: info?.domain === "carousel" ? info.reason : "",
    facts: info?.metadata ?? {},
    violations: details["google.rpc.BadRequest"]?.fieldViolations ?? [],
    retryAfterSeconds: delay && Number(delay.seconds ?? 0) + (delay.nanos ?? 0) / 1e9,
  };
}

// The attached messages by their full names. A message of a kind that is not known here is left out.
function readDetails(error) {
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (packed === undefined) return {};
  const found = {};
  for (const { type_url, value } of Status.decode(packed).details) {
    const name = type_url.split("/").pop();
    try {
      const type = root.lookupType(name);
      found[name] = type.toObject(type.decode(value), { longs: Number });
    } catch {
      continue;
    }
  }
  return found;
}
