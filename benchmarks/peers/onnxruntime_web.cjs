// onnxruntime-web under Node, timed by `genin bench --peers onnxruntime-web` (see node.py).
//
// It answers one JSON request per line of stdin with one line on stdout: `open` first, then `time`, `draw` and `finish`, as
// genin.benchmarks.speed.bench_worker does. Whatever else is printed goes to stderr.
"use strict";

const fs = require("fs");
const path = require("path");
const readline = require("readline");
const { createRequire } = require("module");

const here = createRequire(path.join(process.cwd(), "here.js")); // the user's node_modules, and NODE_PATH
console.log = console.info = console.debug = console.warn = console.error;

const send = (answer) => fs.writeSync(1, JSON.stringify(answer) + "\n");
const now = () => Number(process.hrtime.bigint()) / 1e6; // milliseconds

// --- noise: docs/noise.md, Philox 4x32-10 and Box-Muller -----------------------------------------------------------------

const MULTIPLIERS = [0xd2511f53n, 0xcd9e8d57n];
const WEYL = [0x9e3779b9, 0xbb67ae85];

function philox(block, seed) {
  let c = [block >>> 0, 0, 0, 0];
  let k = [Number(seed & 0xffffffffn), Number(seed >> 32n)];
  for (let round = 0; round < 10; round += 1) {
    const products = [MULTIPLIERS[0] * BigInt(c[0]), MULTIPLIERS[1] * BigInt(c[2])];
    const [high, low] = [products.map((p) => Number(p >> 32n)), products.map((p) => Number(p & 0xffffffffn))];
    c = [(high[1] ^ c[1] ^ k[0]) >>> 0, low[1], (high[0] ^ c[3] ^ k[1]) >>> 0, low[0]];
    k = k.map((word, index) => (word + WEYL[index]) >>> 0);
  }
  return c;
}

function noise(seed, count) {
  const normals = new Float32Array(count);
  for (let block = 0; 4 * block < count; block += 1) {
    const uniform = philox(block, BigInt(seed)).map((word) => (word + 1) * 2 ** -32);
    for (const pair of [0, 2]) {
      const [radius, angle] = [Math.sqrt(-2 * Math.log(uniform[pair])), 2 * Math.PI * uniform[pair + 1]];
      const at = 4 * block + pair;
      if (at < count) normals[at] = radius * Math.cos(angle);
      if (at + 1 < count) normals[at + 1] = radius * Math.sin(angle);
    }
  }
  return normals;
}

// --- drawing -------------------------------------------------------------------------------------------------------------

async function open(asked) {
  const before = process.memoryUsage().rss;
  const started = now();
  const ort = here("onnxruntime-web");
  ort.env.wasm.numThreads = asked.threads;
  ort.env.logLevel = "error";
  const networks = {};
  for (const [name, file] of Object.entries(asked.graphs)) {
    const external = fs.readdirSync(path.dirname(file)).filter((one) => one.startsWith(`${path.basename(file)}.`) || one.endsWith("_data"));
    const externalData = external.map((one) => ({ path: one, data: new Uint8Array(fs.readFileSync(path.join(path.dirname(file), one))) }));
    const options = { executionProviders: ["wasm"], ...(externalData.length ? { externalData } : {}) };
    networks[name] = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(file)), options);
  }
  return { ort, networks, asked, pictures: [], before, loaded: process.memoryUsage().rss, load_s: (now() - started) / 1000 };
}

async function encode(state, prompts) {
  const { ort, networks, asked } = state;
  const ids = prompts.map((prompt) => asked.tokens[prompt]);
  if (ids.some((one) => one === undefined)) throw new Error("a prompt that was not given at the start");
  const rows = BigInt64Array.from(ids.flat().map(BigInt));
  const found = await networks.text_encoder.run({ input_ids: new ort.Tensor("int64", rows, [prompts.length, ids[0].length]) });
  return found[networks.text_encoder.outputNames[0]];
}

async function predict(state, x, timestep, text) {
  const { ort, networks, asked } = state;
  const rows = text.dims[0];
  const sample = new Float32Array(rows * x.length);
  for (let row = 0; row < rows; row += 1) sample.set(x, row * x.length);
  const steps = new ort.Tensor("int64", BigInt64Array.of(BigInt(timestep)), asked.timestep_shape ?? []);
  const fed = { sample: new ort.Tensor("float32", sample, [rows, ...asked.latents]), timestep: steps, encoder_hidden_states: text };
  const predicted = (await networks.unet.run(fed))[networks.unet.outputNames[0]].data;
  if (rows === 1) return predicted;
  const guided = new Float32Array(x.length); // the empty prompt is the first
  for (let i = 0; i < x.length; i += 1) guided[i] = predicted[i] + asked.guidance_scale * (predicted[x.length + i] - predicted[i]);
  return guided;
}

function advance(state, predicted, x, [, alpha, sigma, nextAlpha, nextSigma]) {
  const { prediction_type: kind, clip } = state.asked;
  const least = 1e-6;
  for (let i = 0; i < x.length; i += 1) {
    let [x0, eps] = [predicted[i], predicted[i]];
    if (kind === "v_prediction") [x0, eps] = [alpha * x[i] - sigma * predicted[i], alpha * predicted[i] + sigma * x[i]];
    else if (kind === "epsilon") x0 = (x[i] - sigma * predicted[i]) / Math.max(alpha, least);
    else eps = (x[i] - alpha * predicted[i]) / Math.max(sigma, least);
    if (clip !== null) x0 = Math.min(clip, Math.max(-clip, x0));
    x[i] = nextAlpha * x0 + nextSigma * eps;
  }
}

async function draw(state, prompt, seed) {
  const { ort, networks, asked } = state;
  const x = noise(seed, asked.latents.reduce((a, b) => a * b, 1));
  const text = await encode(state, asked.guidance_scale === 1 ? [prompt] : ["", prompt]);
  for (const step of asked.steps) advance(state, await predict(state, x, step[0], text), x, step);
  const scaled = x.map((value) => value / asked.scaling_factor);
  const latents = new ort.Tensor("float32", scaled, [1, ...asked.latents]);
  const image = (await networks.vae_decoder.run({ latent_sample: latents }))[networks.vae_decoder.outputNames[0]];
  const [height, width] = image.dims.slice(2);
  if (height !== asked.image[0] || width !== asked.image[1]) throw new Error(`it drew ${width}x${height}`);
  const pixels = Buffer.alloc(height * width * 3);
  for (let c = 0; c < 3; c += 1) {
    for (let i = 0; i < height * width; i += 1) {
      pixels[3 * i + c] = Math.min(255, Math.max(0, Math.round(image.data[c * height * width + i] * 127.5 + 127.5)));
    }
  }
  return pixels;
}

async function timed(state, prompt, seed, keep) {
  const started = now();
  const picture = await draw(state, prompt, seed);
  const total = now() - started;
  if (keep) state.pictures.push(picture);
  return { total_ms: total, stages_ms: {}, steps_ms: [] };
}

// --- requests ------------------------------------------------------------------------------------------------------------

function writeNpy(file, pictures, [height, width]) {
  const shape = `(${pictures.length}, ${height}, ${width}, 3)`;
  let header = `{'descr': '|u1', 'fortran_order': False, 'shape': ${shape}, }`;
  header = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + "\n";
  const start = Buffer.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  fs.writeFileSync(file, Buffer.concat([start, Buffer.from(header, "latin1"), ...pictures]));
}

// Linux's own count: getrusage's, which Node gives, begins with what the program that started this one had.
function peakBytes() {
  try {
    return Number(/VmHWM:\s*(\d+) kB/.exec(fs.readFileSync("/proc/self/status", "latin1"))[1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}

async function answer(state, request) {
  if (request.do === "time") return timed(state, request.prompt, request.seed, request.keep);
  if (request.do === "draw") {
    for (const [index, prompt] of request.prompts.entries()) await timed(state, prompt, request.seeds[index], true);
  }
  if (state.pictures.length) writeNpy(request.out, state.pictures, state.asked.image);
  const memory_bytes = { steady: process.memoryUsage().rss, peak: peakBytes() };
  return { pictures: state.pictures.length, memory_bytes };
}

async function main() {
  const lines = readline.createInterface({ input: process.stdin });
  let state = null;
  for await (const line of lines) {
    const request = JSON.parse(line);
    if (state === null) {
      state = await open(request);
      const first = await timed(state, request.prompt, request.seed, false);
      const { runtime, precision, default_steps, guidance_scale } = request;
      const facts = { runtime, precision, provider: "wasm", default_steps, default_guidance_scale: guidance_scale };
      const memory_bytes = { before_load: state.before, loaded: state.loaded };
      send({ ...facts, load_s: state.load_s, first_run_ms: first.total_ms, memory_bytes });
    } else send(await answer(state, request));
  }
  process.exit(0); // onnxruntime-web's threads would keep it running
}

if (process.argv[2] === "version") {
  const found = JSON.parse(fs.readFileSync(path.join(path.dirname(here.resolve("onnxruntime-web")), "..", "package.json")));
  fs.writeSync(1, found.version + "\n");
} else {
  main().catch((error) => {
    send({ error: String(error.message ?? error).split("\n")[0].slice(0, 200) });
    process.exit(1);
  });
}
