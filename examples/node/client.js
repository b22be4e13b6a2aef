// A client in another language, from loader.proto alone: reads an epoch and prints its digest.
//
//   npm install @grpc/grpc-js @grpc/proto-loader
//   node client.js 127.0.0.1:7000 ../../loader_service/v1/loader.proto [SEED]
//
// `alexnet-loader digest --target 127.0.0.1:7000 --seed SEED` prints the same.
const crypto = require("node:crypto");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const [target, protoFile, seed = "0"] = process.argv.slice(2);
const BATCH_SIZE = 128;
const STEPS_PER_REQUEST = 8;

const definition = protoLoader.loadSync(protoFile, { longs: String, defaults: true, keepCase: true });
const { LoaderService } = grpc.loadPackageDefinition(definition).loader_service.v1;
const client = new LoaderService(target, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": -1,
});

const describe = () =>
  new Promise((resolve, reject) => client.Describe({}, (error, answer) => (error ? reject(error) : resolve(answer))));

async function main() {
  const store = await describe();
  const split = store.splits.find(({ name }) => name === "train");
  const steps = Math.ceil(Number(split.num_images) / BATCH_SIZE);
  const digest = crypto.createHash("sha256");
  for (let first = 0; first < steps; first += STEPS_PER_REQUEST) {
    const call = client.StreamBatches({
      fingerprint: store.fingerprint,
      pipeline_version: store.pipeline_version,
      split: split.name,
      view: "VIEW_TRAIN",
      shuffle: true,
      seed,
      batch_size: BATCH_SIZE,
      first_step: first,
      last_step: Math.min(first + STEPS_PER_REQUEST, steps),
      colour_std: 0.1,
    });
    for await (const part of call) {
      const imageBytes = part.images.length / part.num_images;
      for (let i = 0; i < part.num_images; i++) {
        const row = Buffer.alloc(16);
        row.writeBigInt64LE(BigInt(part.indices[i]), 0);
        row.writeBigInt64LE(BigInt(part.labels[i]), 8);
        const shift = Buffer.alloc(12);
        for (let channel = 0; channel < 3; channel++) shift.writeFloatLE(part.colour_shifts[3 * i + channel], 4 * channel);
        digest.update(row).update(part.images.subarray(i * imageBytes, (i + 1) * imageBytes)).update(shift);
      }
    }
  }
  console.log(digest.digest("hex"));
}

main().catch((error) => {
  console.error(`error: ${error.message}`);
  process.exit(1);
});
