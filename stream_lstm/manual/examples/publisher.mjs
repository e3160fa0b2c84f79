// A publisher without any package: node publisher.mjs [PORT [TICKS]]
//
// Read it by: stream-lstm run --connect tcp://127.0.0.1:5555 --feature price --until-end
// It speaks ZMTP 3.0, the protocol under ZeroMQ, as a PUB socket without encryption.
import net from "node:net";

const port = Number(process.argv[2] ?? 5555);
const ticks = Number(process.argv[3] ?? 1000);
const session = `${process.pid}-${Date.now()}`; // new at each start

const MORE = 1, LONG = 2, COMMAND = 4; // the flags of a frame

function frame(flags, body) {
  if (body.length < 256) return Buffer.concat([Buffer.from([flags, body.length]), body]);
  const head = Buffer.alloc(9);
  head[0] = flags | LONG;
  head.writeBigUInt64BE(BigInt(body.length), 1);
  return Buffer.concat([head, body]);
}

const greeting = Buffer.alloc(64);
greeting.set([0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0]); // the signature, and version 3.0
greeting.write("NULL", 12); // no encryption
const ready = frame(COMMAND, Buffer.from("\x05READY\x0bSocket-Type\0\0\0\x03PUB", "latin1"));

const subscribers = new Set(); // {socket, prefixes} of each peer that has subscribed

function receive(peer, flags, body) {
  if (flags & COMMAND) {
    if (body.toString("latin1", 0, 5) === "\x04PING") // answer with its context
      peer.socket.write(frame(COMMAND, Buffer.concat([Buffer.from("\x04PONG"), body.subarray(7)])));
  } else if (body[0] === 1) { // subscribe to topics that begin so
    peer.prefixes.push(body.subarray(1));
    subscribers.add(peer);
    start();
  } else if (body[0] === 0) { // unsubscribe
    peer.prefixes = peer.prefixes.filter((prefix) => !prefix.equals(body.subarray(1)));
  }
}

const server = net.createServer((socket) => {
  const peer = { socket, prefixes: [] };
  let waiting = Buffer.alloc(0), greeted = false;
  socket.write(Buffer.concat([greeting, ready]));
  socket.on("data", (bytes) => {
    waiting = Buffer.concat([waiting, bytes]);
    if (!greeted) {
      if (waiting.length < 64) return;
      waiting = waiting.subarray(64);
      greeted = true;
    }
    while (waiting.length >= 2) {
      const long = waiting[0] & LONG, head = long ? 9 : 2;
      if (waiting.length < head) return;
      const size = long ? Number(waiting.readBigUInt64BE(1)) : waiting[1];
      if (waiting.length < head + size) return;
      receive(peer, waiting[0], waiting.subarray(head, head + size));
      waiting = waiting.subarray(head + size);
    }
  });
  socket.on("close", () => subscribers.delete(peer));
  socket.on("error", () => subscribers.delete(peer));
});

function send(topic, record) {
  const name = Buffer.from(topic);
  const message = Buffer.concat([
    frame(MORE, name), frame(0, Buffer.from(JSON.stringify({ v: 1, session, ...record })))]);
  for (const { socket, prefixes } of subscribers)
    if (prefixes.some((prefix) => name.subarray(0, prefix.length).equals(prefix)))
      socket.write(message);
}

let started = false;
function start() { // wait for the first subscriber: what is sent before is lost
  if (started) return;
  started = true;
  setTimeout(() => { // its other subscriptions come in the same moment
    for (let seq = 1; seq <= ticks; seq++)
      send("tick/PRICE/", { seq, values: { price: Math.sin(seq) } });
    send("heartbeat/PRICE/", { seq: ticks + 1, end: true }); // nothing more follows
    for (const { socket } of subscribers) socket.end();
    server.close();
  }, 100);
}

server.listen(port, "127.0.0.1");
