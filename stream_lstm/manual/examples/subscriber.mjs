// A subscriber without any package: node subscriber.mjs [PORT]
//
// Feed it by: stream-lstm run --connect ... --publish tcp://127.0.0.1:5556 --encoding json
// It speaks ZMTP 3.0, the protocol under ZeroMQ, as a SUB socket without encryption.
import net from "node:net";

const port = Number(process.argv[2] ?? 5556);
const MORE = 1, LONG = 2, COMMAND = 4; // the flags of a frame

const short = (flags, body) => Buffer.concat([Buffer.from([flags, body.length]), body]);

const greeting = Buffer.alloc(64);
greeting.set([0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0]); // the signature, and version 3.0
greeting.write("NULL", 12); // no encryption
const ready = short(COMMAND, Buffer.from("\x05READY\x0bSocket-Type\0\0\0\x03SUB", "latin1"));
const subscribe = (topic) => short(0, Buffer.from("\x01" + topic, "latin1"));

function take(topic, record) {
  const [kind, stream] = topic.split("/");
  if (kind === "prediction") console.log(stream, record.n, record.p.toFixed(4));
  if (record.end) process.exit(0); // of the one stream
}

let waiting = Buffer.alloc(0), greeted = false, topic = null;

function receive(socket, bytes) {
  waiting = Buffer.concat([waiting, bytes]);
  if (!greeted) {
    if (waiting.length < 64) return;
    waiting = waiting.subarray(64);
    greeted = true;
    socket.write(ready);
  }
  while (waiting.length >= 2) {
    const flags = waiting[0], head = flags & LONG ? 9 : 2;
    if (waiting.length < head) return;
    const size = flags & LONG ? Number(waiting.readBigUInt64BE(1)) : waiting[1];
    if (waiting.length < head + size) return;
    const body = waiting.subarray(head, head + size);
    waiting = waiting.subarray(head + size);
    if (flags & COMMAND) { // its READY: only now does it take subscriptions
      if (body.toString("latin1", 1, 6) === "READY")
        socket.write(Buffer.concat([subscribe("prediction/"), subscribe("heartbeat/")]));
      continue;
    }
    if (flags & MORE) topic = body.toString();
    else take(topic, JSON.parse(body));
  }
}

function dial() { // until the daemon is there, and again when it was away
  greeted = false;
  waiting = Buffer.alloc(0);
  const socket = net.connect(port, "127.0.0.1", () => socket.write(greeting));
  socket.on("data", (bytes) => receive(socket, bytes));
  socket.on("error", () => {});
  socket.on("close", () => setTimeout(dial, 200));
}

dial();
