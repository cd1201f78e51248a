// A socket.io-client of any age: sends telemetries one by one and prints, as JSON, what answers them.
// node bridge_client.js PACKAGE URL COUNT, a JPEG in base64 on standard input.
const [, , name, url, count] = process.argv;
const from = { paths: [process.cwd()] };
const load = (path) => require(require.resolve(path, from));
const module_ = load(name);
const image = require("fs").readFileSync(0, "utf8");
const socket = (module_.io || module_)(url, { transports: ["websocket"], reconnection: false });
const answers = [];
const send = () =>
  socket.emit("telemetry", { steering_angle: "0.0000", throttle: "0.0000", speed: `${answers.length}.0`, image });
socket.on("connect", send);
socket.on("connect_error", (error) => { console.error(String(error)); process.exit(1); });
socket.on("steer", (answer) => {
  answers.push(answer);
  if (answers.length < count) return send();
  if (answers.length > count) return;
  setTimeout(() => {
    const left_over = answers.length - count;
    socket.on("disconnect", () => {
      console.log(JSON.stringify({ version: load(name + "/package.json").version, answers: answers.slice(0, count), left_over }));
    });
    socket.close();
  }, 200);
});
